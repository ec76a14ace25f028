"""What the gate decides on: a candidate's files, and the champion scored on the same rows by its own code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertft_core.data.prepare import DatasetSplits
from bertft_core.errors import InputError
from bertft_core.gate.promotion import PromotionDecision, decide
from bertft_core.measuring import soft_weights
from bertft_core.mlflow_config import Store
from tasks import aliases, artifacts

OTHER_BATCH = 7  # rows: another batch size than the evaluation's token budget gives


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A registered version and the folder with its test_rows.parquet, labels.npy and probabilities.npy."""

    name: str
    version: str
    classes: tuple[str, ...]
    folder: str
    metric: str
    weights_digest: str

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder)

    @property
    def uri(self) -> str:
        """The version as MLflow names it."""
        return f"models:/{self.name}/{self.version}"


def write_test_rows(dataset: DatasetSplits, folder: Path) -> None:
    """test_rows.parquet (text, text_pair), labels.npy and, for soft labels, weights.npy: what the gate works on."""
    import pyarrow.parquet as parquet

    folder.mkdir(parents=True, exist_ok=True)
    table = dataset.table("test")
    columns = ["text", "text_pair"] if dataset.has_pair else ["text"]
    parquet.write_table(table.select(columns), folder / "test_rows.parquet")
    np.save(folder / "labels.npy", table["label"].to_numpy(), allow_pickle=False)
    if (weights := soft_weights(dataset, "test")) is not None:
        np.save(folder / "weights.npy", weights, allow_pickle=False)


def judge(candidate: Candidate, champion: str | None, store: Store) -> PromotionDecision:
    """Apply the rule to the candidate and the champion (None: there is none yet)."""
    labels, ours = (np.load(candidate.path / n, allow_pickle=False) for n in ("labels.npy", "probabilities.npy"))
    soft = candidate.path / "weights.npy"
    tags = {} if champion is None else aliases.version_tags(store, candidate.name, champion)
    return decide(
        store.config.promotion_rule(candidate.metric),
        labels=labels,
        p_challenger=ours,
        p_champion=None if champion is None else _champion_scores(candidate, champion, store),
        classes=candidate.classes,
        weights=np.load(soft, allow_pickle=False) if soft.exists() else None,
        same_weights=tags.get("bertft.weights") == candidate.weights_digest,
    )


def _champion_scores(candidate: Candidate, champion: str, store: Store) -> np.ndarray[Any, Any]:
    """The champion's probabilities [n, C] on the candidate's test rows, in the candidate's class order."""
    out = candidate.path / f"champion-{champion}.npz"
    uri = f"models:/{candidate.name}/{champion}"
    names = artifacts.score_in_fresh_process(uri, candidate.path / "test_rows.parquet", out, OTHER_BATCH, store)
    if set(names) != set(candidate.classes):
        raise InputError(
            f"{uri} knows the classes {sorted(names)}, version {candidate.version} "
            f"{sorted(candidate.classes)}: not comparable; keep the label set or register under another name"
        )
    scores: np.ndarray[Any, Any] = np.load(out, allow_pickle=False)
    return scores[:, [names.index(c) for c in candidate.classes]]
