"""The metrics by name: which of them may decide, what people call them, which way each is better."""

from __future__ import annotations

from typing import Literal, get_args

Metric = Literal["macro_f1", "accuracy", "log_loss", "micro_f1"]  # those that may decide
METRICS: tuple[str, ...] = get_args(Metric)
LOWER_IS_BETTER = frozenset({"log_loss", "brier", "ece"})
_TITLES = {"macro_f1": "macro F1", "micro_f1": "micro F1", "accuracy": "accuracy", "log_loss": "log loss"}


def metrics_of(*, multi_label: bool) -> tuple[str, ...]:
    """The metrics that may decide on such rows; micro F1 is accuracy where a row has one class."""
    return METRICS if multi_label else tuple(metric for metric in METRICS if metric != "micro_f1")


def as_score(metric: str, value: float) -> float:
    """A metric's value as a score, higher is better: log loss is negated.

    >>> as_score("log_loss", 0.25), as_score("accuracy", 0.25)
    (-0.25, 0.25)
    """
    return -value if metric in LOWER_IS_BETTER else value


def score_title(metric: str) -> str:
    """What a metric's score is called in a sentence.

    >>> score_title("log_loss"), score_title("macro_f1")
    ('negated log loss', 'macro F1')
    """
    return f"negated {_TITLES[metric]}" if metric in LOWER_IS_BETTER else _TITLES[metric]


def metric_title(metric: str) -> str:
    """What a metric is called, in its own direction."""
    return _TITLES[metric]


def score_column(metric: str) -> str:
    """The heading of a column of scores.

    >>> score_column("log_loss"), score_column("macro_f1")
    ('-log_loss', 'macro_f1')
    """
    return f"-{metric}" if metric in LOWER_IS_BETTER else metric
