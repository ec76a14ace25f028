"""What a user writes: the run's YAML and mlflow.yaml, as values that validate themselves."""
