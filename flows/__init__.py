"""Prefect flows: order, concurrency, retries; the stage list of bertft."""

from bertft_core.base.packages import WAYS_OUT, hiding

if _other := hiding("tasks"):
    raise ImportError(f"bertft's package tasks is hidden by {_other}, which comes first on sys.path: {WAYS_OUT}")
