"""A FitSpec from flat values: the fields of TrainingConfig by their names, everything else the spec's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bertft_core.config.fit import TrainingConfig
from bertft_core.config.run import RunConfig, parse_config
from bertft_core.training.spec import FitSpec


def fit_spec(**values: Any) -> FitSpec:
    """float32 on the CPU without prefix cache, where `values` say nothing else; lr also beyond what is configured."""
    settled = {"precision": "float32", "device": "cpu", "prefix_cache": "off"}
    training = {**settled, **{name: values.pop(name) for name in list(values) if name in TrainingConfig.model_fields}}
    lr = training.pop("lr")
    return FitSpec(training=TrainingConfig(**training).model_copy(update={"lr": lr}), **values)


def configured(**training: Any) -> RunConfig:
    """A configuration with these training settings. Raises ConfigError as for a file."""
    tree = {"name": "n", "data": {"source": "x.csv"}, "model": {"pretrained": "m"}, "training": training}
    return parse_config(tree, Path("."))
