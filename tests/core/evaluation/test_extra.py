"""Metrics of plug-ins: reported beside the others, in their direction, and no reason to lose a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertft_core.base.errors import ConfigError
from bertft_core.config.run import parse_config
from bertft_core.evaluation.report import EvaluationReport, RowTexts, evaluate, with_extra
from bertft_core.evaluation.scores.extra import require_metrics
from bertft_core.evaluation.scores.intervals import Bootstrap
from bertft_core.evaluation.scores.labels import labels_of
from bertft_core.reporting.run.filling import page_of
from bertft_core.testing import check_metric

PAGE = Path(__file__).parents[3] / "docs/plugins.md"
ODD = """
def constant(labels, decisions, probabilities):
    return 0.5
def broken(labels, decisions, probabilities):
    raise ZeroDivisionError("no row of class 7")
def undefined(labels, decisions, probabilities):
    return float("nan")
def backwards(labels, decisions, probabilities):
    return float((labels != decisions).mean())
def by_order(labels, decisions, probabilities):
    return float((labels == decisions).mean()) + decisions[0].sum()
def any_shape(labels, decisions, probabilities):
    return float((labels == decisions).mean())
number = 3
"""


@pytest.fixture(autouse=True)
def installed(plug_in: Callable[..., None]) -> None:
    """The metrics of the page, and some that break a promise each."""
    source = re.search(r"```python\n(# my_metrics\.py\n.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    assert source is not None
    for name in ("worst_recall", "surprise"):
        plug_in("bertft.metrics", f"{name} = my_metrics:{name}", my_metrics=source[1])
    for name in re.findall(r"^(?:def )?(\w+)", ODD, flags=re.MULTILINE):
        plug_in("bertft.metrics", f"{name} = odd_metrics:{name}", odd_metrics=ODD)


def _report(*names: str) -> EvaluationReport:
    labels = labels_of(np.array([0, 0, 0, 1, 1, 1]), ("ham", "spam"))
    p = np.array([0.9, 0.8, 0.7, 0.2, 0.6, 0.9])
    said = labels.predictions(np.stack([p, 1 - p], axis=1))
    texts = RowTexts(texts=list("abcdef"))
    return with_extra(evaluate(labels, said, texts, bootstrap=Bootstrap(resamples=100)), names, labels, said)


def test_a_metric_stands_in_the_report_its_json_and_its_page() -> None:
    report = _report("worst_recall", "surprise")
    found = {score.name: score.value for score in report.extra}
    assert found == {"worst_recall": pytest.approx(1 / 3), "surprise": pytest.approx(-np.log(0.1))}
    assert "| worst_recall | 0.3333 | none for a metric of a plug-in |" in report.to_markdown()
    assert EvaluationReport.from_json(report.to_json()) == report
    rows = {row.name: row for row in page_of(report, title="t").scores}
    assert rows["surprise"].is_lower_better and not rows["worst_recall"].is_lower_better
    assert rows["worst_recall"].no_interval == "none for a metric of a plug-in"


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        (
            "broken",
            r"evaluation\.extra_metrics: broken failed \(ZeroDivisionError: no row of class 7\): it is left out",
        ),
        ("undefined", r"evaluation\.extra_metrics: undefined is nan: it is left out"),
    ],
)
def test_a_metric_that_fails_is_a_warning(name: str, warning: str) -> None:
    report = _report(name, "constant")
    assert [score.value for score in report.extra] == [None, 0.5]
    assert any(re.match(warning, text) for text in report.warnings)
    assert f"| {name} | – |" in report.to_markdown()


def test_a_metric_that_is_not_there_ends_a_run_before_it_trains() -> None:
    with pytest.raises(
        ConfigError, match=r"evaluation\.extra_metrics: 'worst_recal' is no .*did you mean worst_recall"
    ):
        require_metrics(["worst_recal"])
    with pytest.raises(
        ConfigError, match=r"evaluation\.extra_metrics: number is odd_metrics:number, which is no function"
    ):
        require_metrics(["number"])


def test_a_metric_of_a_plug_in_does_not_decide() -> None:
    tree = {"name": "n", "data": {"source": "x.csv"}, "model": {"pretrained": "m"}}
    with pytest.raises(ConfigError, match=r"evaluation\.metric: .*'worst_recall'"):
        parse_config({**tree, "evaluation": {"metric": "worst_recall"}}, Path("."))


def test_the_contract_holds_for_the_metrics_of_the_page_and_for_sets_of_labels() -> None:
    assert check_metric("worst_recall")["right"] == 1.0
    assert check_metric("surprise")["right"] == pytest.approx(-np.log(0.8))
    assert check_metric("any_shape", multi_label=True)["wrong"] == 0.0


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("constant", "says that more is better, but gives"),
        ("backwards", "says that more is better, but gives"),
        ("broken", r"of right answers it failed \(ZeroDivisionError"),
        ("undefined", "of right answers it is nan"),
        ("by_order", "of the rows in another order"),
        ("absent", "no entry point of bertft.metrics"),
    ],
)
def test_the_contract_names_the_promise_that_is_broken(name: str, broken: str) -> None:
    with pytest.raises(ConfigError, match=broken):
        check_metric(name)
