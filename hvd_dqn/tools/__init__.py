"""What surrounds a run: set-up, diagnosis, pictures."""
