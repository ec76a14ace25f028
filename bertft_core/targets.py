"""Whether a configuration goes with the kind of its labels: one class, weights, or a set of classes per row."""

from __future__ import annotations

from bertft_core.config import RunConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.errors import ConfigError
from bertft_core.fit_config import class_weight_faults, target_faults
from bertft_core.search_config import values_of


def require_targets(config: RunConfig, dataset: DatasetSplits) -> None:
    """Raises ConfigError naming each key that these labels leave without a meaning, and classes that are not there."""
    training, decision = config.training, config.decision
    weights = training.class_weights
    faults = target_faults(training.loss, config.evaluation.metric, dataset.is_multi)
    if isinstance(weights, dict):
        faults += class_weight_faults(weights, dataset.classes)
    if dataset.is_multi:
        faults += [
            f"decision.{key} wants one class per row, this data is multi-label: leave it out"
            for key in ("thresholds", "costs", "abstain_accuracy")
            if getattr(decision, key) is not None
        ]
        space = config.search.space if config.search and config.search.trials else {}
        if "tau" in space:
            faults.append("search.space.tau has no effect on multi-label data: take it out")
        if "loss" in space and "logit_adjusted" in values_of(space["loss"]):
            faults.append("search.space.loss: logit_adjusted wants one class per row, this data is multi-label")
    if faults:
        raise ConfigError("\n".join(faults))
