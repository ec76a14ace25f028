"""Optuna search: the only folder that imports optuna."""
