"""Data sets as MLflow knows them: one a split, with rows that can be loaded again, and the metrics measured on them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertft_core.config.store import Store
from bertft_core.tracking.store import client

_DIGEST = 36  # characters that MLflow keeps of a digest
_CONTEXT = "mlflow.data.context"  # a tag of an input: the split


@dataclass(frozen=True, kw_only=True)
class SplitRecord:
    """What MLflow keeps of one split (train, validation or test). digest: of its rows, hex.

    name: of the data set. source: where `mlflow.data.get_source(...).load()` finds the rows, as MLflow's `source_type`
    has it. columns: of text, pair and labels in that source.
    """

    split: str
    name: str
    digest: str
    rows: int
    source_type: str
    source: Mapping[str, Any]
    columns: Sequence[str]
    classes: Sequence[str]


def log_datasets(store: Store, run_id: str, splits: Sequence[SplitRecord]) -> None:
    """Record once which rows a run read."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.types import ColSpec, Schema

    api = client(store)
    inputs = api.get_run(run_id).inputs
    if inputs is not None and inputs.dataset_inputs:
        return
    entries = []
    for one in splits:
        schema = Schema([ColSpec("string", column) for column in one.columns])
        record = Dataset(
            name=one.name,
            digest=one.digest[:_DIGEST],
            source_type=one.source_type,
            source=json.dumps(one.source),
            schema=json.dumps({"mlflow_colspec": schema.to_dict()}),
            profile=json.dumps({"num_rows": one.rows, "classes": list(one.classes)}),
        )
        entries.append(DatasetInput(record, tags=[InputTag(key=_CONTEXT, value=one.split)]))
    api.log_inputs(run_id, datasets=entries)


def model_metrics(run: Any, model_id: str) -> list[Any]:
    """The last metrics of the run that trained a model as that model's: `test_…` on the run's split test, and so on.

    As they stand in the run, to the millisecond, so that it gets no second value of any.
    """
    from mlflow.entities import Metric

    inputs = run.inputs.dataset_inputs if run.inputs else []
    splits = {tag.value: one.dataset for one in inputs for tag in one.tags if tag.key == _CONTEXT}
    found = []
    for metric in run.data.to_proto().metrics:
        if split := splits.get(metric.key.partition("_")[0]):
            measured = (metric.key, metric.value, metric.timestamp, metric.step)
            found.append(Metric(*measured, model_id, split.name, split.digest))
    return found
