"""Prefect tasks: one core call, a cache key, retries, tracking."""
