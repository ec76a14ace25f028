"""Metrics of plug-ins: reported beside the others, without an interval; none of them decides.

A plug-in is one function of labels, decisions and probabilities that gives a number. It is declared as an entry point
of the group bertft.metrics under the metric's name (docs/plugins.md); where less is better it says so by an attribute:
`function.higher_is_better = False`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertft_core.base import plugins
from bertft_core.base.errors import ConfigError, fault_text
from bertft_core.evaluation.scores.labels import Labels, Predictions

GROUP, KEY = "bertft.metrics", "evaluation.extra_metrics"
WHY_NO_INTERVAL = "none for a metric of a plug-in"


@dataclass(frozen=True, kw_only=True)
class ExtraScore:
    """What a plug-in's metric is on the rows judged; value None: it gave no finite number, `fault` says why."""

    name: str
    value: float | None
    higher_is_better: bool
    fault: str = ""


def require_metrics(names: Sequence[str]) -> None:
    """Raises ConfigError naming those of evaluation.extra_metrics that nobody installed or that cannot be imported."""
    for name in names:
        _function(name)


def extra_scores(names: Sequence[str], labels: Labels, predictions: Predictions) -> tuple[ExtraScore, ...]:
    """Each metric of these rows. One that fails says so in its `fault`: what was trained is worth more."""
    return tuple(_score(name, labels, predictions) for name in names)


def _function(name: str) -> object:
    entry = plugins.find(GROUP, name)
    if entry is None:
        known = sorted(plugins.installed(GROUP).names)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"{KEY}: {name!r} is no entry point of {GROUP} (installed: {', '.join(known) or 'none'}){hint}"
        )
    found = plugins.load(KEY, entry)
    if not callable(found):
        raise ConfigError(f"{KEY}: {name} is {entry.value}, which is no function")
    return found


def _score(name: str, labels: Labels, predictions: Predictions) -> ExtraScore:
    function = _function(name)
    assert callable(function), "_function looked"
    given = [np.array(part) for part in (labels.values, predictions.decided, predictions.probabilities)]
    value, fault = None, ""
    try:
        value = float(function(*given))
    except Exception as raised:  # somebody else's code
        fault = f"failed ({fault_text(raised)[:200]})"
    if value is not None and not math.isfinite(value):
        value, fault = None, f"is {value}"
    higher = bool(getattr(function, "higher_is_better", True))
    return ExtraScore(name=name, value=value, higher_is_better=higher, fault=fault)
