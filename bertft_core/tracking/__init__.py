"""Runs, metrics, files and data sets in MLflow's tracking store."""
