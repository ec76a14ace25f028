"""Prefect task over scoring: one shard, wherever the task runner puts it."""

from __future__ import annotations

from functools import lru_cache

from prefect import task
from prefect.cache_policies import NO_CACHE

from bertft_core.base.errors import telling_no_secrets
from bertft_core.serving.shards import ScoredShard, Shard, ShardScorer, Work


@task(name="score-shard", task_run_name="{shard.name}", cache_policy=NO_CACHE)
@telling_no_secrets
def score_shard(shard: Shard, work: Work) -> ScoredShard:
    """The answers to a shard; the process keeps the model for the next one."""
    return _scorer(work).score(shard)


@lru_cache(maxsize=1)
def _scorer(work: Work) -> ShardScorer:
    return ShardScorer(work)
