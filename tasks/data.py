"""Prefect tasks over the rows: ingest and tokenize.

Both write to stores of the core that are addressed by content, and a finished folder is verified by digest before it
is used again. A cache of Prefect's beside them could only say the same, or be wrong: a hit runs no code of ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from bertft_core.base.errors import BertftError, telling_no_secrets
from bertft_core.config.run import RunConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.splits import SPLITS
from bertft_core.recipe import prepare
from bertft_core.recipe.prepare import Prepared
from tasks.events import artifact_key


def is_retryable(task: Any, task_run: Any, state: Any) -> bool:
    """Retry what may pass by itself (a locked store, a full disk); never our own errors."""
    return not isinstance(state.result(raise_on_failure=False), BertftError)


@task(name="ingest", cache_policy=NO_CACHE, retries=1, retry_delay_seconds=2, retry_condition_fn=is_retryable)
@telling_no_secrets
def ingest_rows(config: RunConfig, home: Path, progress: Any) -> DatasetSplits:
    """Read, gate, split."""
    dataset = prepare.ingest(config, home, progress.rows)
    names = ("rows_read", "rows_filtered", "rows_used", "rows_quarantined", "duplicates_dropped")
    rows = [{"what": name, "rows": getattr(dataset.report, name)} for name in names]
    create_table_artifact(
        key=artifact_key("rows", config.name), table=rows, description=f"{config.name}: rows in and out"
    )
    return dataset


@task(name="tokenize", cache_policy=NO_CACHE, retries=1, retry_delay_seconds=2, retry_condition_fn=is_retryable)
@telling_no_secrets
def tokenize_rows(config: RunConfig, dataset: DatasetSplits, home: Path, progress: Any) -> Prepared:
    """Cut and tokenize each split once."""
    prepared = prepare.tokenize(config, dataset, home, progress.rows)
    tokens = prepared.tokens
    table = [
        {"split": s, "rows": getattr(prepared.dataset, f"n_{s}"), "cut": tokens.rows_cut[s], **tokens.percentiles[s]}
        for s in SPLITS
    ]
    create_table_artifact(
        key=artifact_key("tokens", config.name), table=table, description=f"{config.name}: lengths before the cut"
    )
    return prepared
