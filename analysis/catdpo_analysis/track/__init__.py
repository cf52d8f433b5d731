"""A run's log for other programs that show training."""
