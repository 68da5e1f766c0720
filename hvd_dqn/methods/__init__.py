"""What is learned: losses, objectives, and the schedules of their settings."""
