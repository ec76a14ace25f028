"""What a night needs to know: what changed since the last training, drift, whether to train, what has happened."""
