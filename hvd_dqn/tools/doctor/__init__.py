"""Is everything here, and does it fit together: on this host, and between the ranks of a launch."""
