"""Prefect flows: order, concurrency, retries; the stage list of bertft."""
