"""Versions, aliases and the ledger of decisions in MLflow's registry."""
