"""What a run says of itself: metrics, display, files, loggers, pictures."""
