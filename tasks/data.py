"""Prefect tasks over bertft_core.data: ingest and tokenize, cached by content and code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from bertft_core import recipe
from bertft_core.config import RunConfig, resolve_pretrained
from bertft_core.data.prepare import DatasetSplits
from bertft_core.errors import BertftError
from bertft_core.recipe import Prepared
from bertft_core.runs import encoder_fingerprint


def is_retryable(task: Any, task_run: Any, state: Any) -> bool:
    """Retry what may pass by itself (a locked store, a full disk); never our own errors."""
    return not isinstance(state.result(raise_on_failure=False), BertftError)


@task(name="ingest", cache_policy=NO_CACHE, retries=1, retry_delay_seconds=2, retry_condition_fn=is_retryable)
def ingest_rows(config: RunConfig, home: Path, progress: Any) -> DatasetSplits:
    """Read, gate, split. The core keeps its own content-addressed store: the source must be hashed anyway."""
    dataset = recipe.ingest(config, home, progress.rows)
    report = dataset.report
    rows = [{"what": k, "rows": getattr(report, k)} for k in
            ("rows_read", "rows_filtered", "rows_used", "rows_quarantined", "duplicates_dropped")]  # fmt: skip
    create_table_artifact(key="bertft-rows", table=rows, description=f"{config.name}: rows in and out")
    return dataset


@task(name="tokenize", cache_policy=NO_CACHE, retries=1, retry_delay_seconds=2, retry_condition_fn=is_retryable)
def tokenize_rows(config: RunConfig, dataset: DatasetSplits, home: Path, progress: Any) -> Prepared:
    """Cut and tokenize each split once; verified by digest when found."""
    pretrained = resolve_pretrained(config)
    tokens = recipe.tokenize(config, dataset, pretrained, home, progress.rows)
    table = [{"split": s, "rows": getattr(dataset, f"n_{s}"), "cut": tokens.rows_cut[s], **tokens.percentiles[s]}
             for s in ("train", "validation", "test")]  # fmt: skip
    create_table_artifact(key="bertft-tokens", table=table, description=f"{config.name}: token lengths before the cut")
    return Prepared(dataset=dataset, tokens=tokens, pretrained=str(pretrained), encoder=encoder_fingerprint(pretrained))
