"""Prefect tasks over bertft_core.data: ingest and tokenize."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from bertft_core.base.errors import BertftError
from bertft_core.base.files import is_complete, read_json, write_json
from bertft_core.base.hashes import code_fingerprint, encoder_fingerprint, hash_json
from bertft_core.config.run import RunConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.model.pretrained import resolve_pretrained
from bertft_core.recipe import chain
from bertft_core.recipe.prepare import Prepared


def is_retryable(task: Any, task_run: Any, state: Any) -> bool:
    """Retry what may pass by itself (a locked store, a full disk); never our own errors."""
    return not isinstance(state.result(raise_on_failure=False), BertftError)


TOKEN_CODE = ("data", "base/text.py", "recipe/prepare.py")  # what makes the tokens, and the value that names them


def _pointer(config: RunConfig, dataset: DatasetSplits, home: Path) -> Path:
    parts = [dataset.fingerprint, dataset.directory, config.tokenization.model_dump(), code_fingerprint(*TOKEN_CODE)]
    encoder = encoder_fingerprint(resolve_pretrained(config))
    return home / "tokens" / f"{hash_json([*parts, encoder])}.pointer.json"


def tokens_key(context: Any, parameters: dict[str, Any]) -> str | None:
    """Cache key from rows, tokenization, encoder and code; None (run the task) unless every file has its digest."""
    pointer = _pointer(parameters["config"], parameters["dataset"], parameters["home"])
    if not pointer.exists() or not is_complete(read_json(pointer)["directory"]):
        return None
    return f"bertft-{pointer.name}-{hash_json(str(parameters['home']))[:8]}"


@task(name="ingest", cache_policy=NO_CACHE, retries=1, retry_delay_seconds=2, retry_condition_fn=is_retryable)
def ingest_rows(config: RunConfig, home: Path, progress: Any) -> DatasetSplits:
    """Read, gate, split. Its cache is the core's content-addressed store: the source must be hashed to know it."""
    dataset = chain.ingest(config, home, progress.rows)
    names = ("rows_read", "rows_filtered", "rows_used", "rows_quarantined", "duplicates_dropped")
    rows = [{"what": name, "rows": getattr(dataset.report, name)} for name in names]
    create_table_artifact(key="bertft-rows", table=rows, description=f"{config.name}: rows in and out")
    return dataset


@task(
    name="tokenize",
    cache_key_fn=tokens_key,
    persist_result=True,
    result_serializer="json",
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=is_retryable,
)
def tokenize_rows(config: RunConfig, dataset: DatasetSplits, home: Path, progress: Any) -> Prepared:
    """Cut and tokenize each split once; a hit is verified by digest before it counts."""
    pretrained = resolve_pretrained(config)
    tokens = chain.tokenize(config, dataset, pretrained, home, progress.rows)
    write_json(_pointer(config, dataset, home), {"directory": tokens.directory})
    splits = ("train", "validation", "test")
    table = [
        {"split": s, "rows": getattr(dataset, f"n_{s}"), "cut": tokens.rows_cut[s], **tokens.percentiles[s]}
        for s in splits
    ]
    create_table_artifact(key="bertft-tokens", table=table, description=f"{config.name}: lengths before the cut")
    return Prepared(dataset=dataset, tokens=tokens, pretrained=str(pretrained), encoder=encoder_fingerprint(pretrained))
