"""A page filled from a run's own values, as they lie on disk."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from bertft_core.config.promotion import PromotionRule
from bertft_core.data.dataset import DataReport, DatasetSplits
from bertft_core.data.tokens.tokenization import TokenizedSplits
from bertft_core.evaluation.gate.comparison import GateRows, Model
from bertft_core.evaluation.gate.decision import decide
from bertft_core.evaluation.report import EvaluationReport, RowTexts, evaluate
from bertft_core.evaluation.scores.intervals import Bootstrap
from bertft_core.evaluation.scores.labels import labels_of
from bertft_core.reporting.run.document import report_html
from bertft_core.reporting.run.filling import data_facts, page_of
from bertft_core.reporting.run.page import ReleaseFacts, ScoreRow
from bertft_core.training.results import EpochResult, TrainingResult

CLASSES = ("business", "sport")


def rows(right: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(200) % 2
    p = np.where(rng.random(200) < right, 0.9, 0.2)
    return y, np.where(y[:, None] == [0, 1], p[:, None], 1 - p[:, None])


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    y, p = rows(0.95, 0)
    labels = labels_of(y, CLASSES)
    return evaluate(
        labels,
        labels.predictions(p),
        RowTexts(texts=["some text"] * 200),
        baseline=labels.predictions(rows(0.8, 1)[1]),
        bootstrap=Bootstrap(resamples=200),
        warnings=("from the gate",),
    )


def fit() -> TrainingResult:
    history = tuple(
        EpochResult(
            epoch=e,
            step=10 * e,
            train_loss=1 / e,
            validation_loss=1.1 / e,
            accuracy=0.9,
            macro_f1=0.9,
            depth=e,
            seconds=1.0,
        )
        for e in (1, 2)
    )
    return TrainingResult(
        state="complete",
        reason="",
        score=0.9,
        log_loss=0.3,
        best_epoch=2,
        steps=20,
        history=history,
        rungs=(),
        weights_digest="",
        model_dir="",
        seconds=12.4,
    )


def dataset() -> DatasetSplits:
    counts = {"train": {"business": 60, "sport": 40}, "validation": {"sport": 10}, "test": {"business": 100}}
    report = DataReport(
        rows_read=2225,
        rows_used=2100,
        rows_quarantined=24,
        duplicates_dropped=101,
        rows_filtered=0,
        reasons={"empty text": 24},
        encodings={"utf-8": 2224, "latin-1": 1},
        class_counts=counts,
        warnings=(),
        overlaps={"train": 3},
    )
    return DatasetSplits(
        directory="",
        fingerprint="f",
        classes=CLASSES,
        n_train=100,
        n_validation=10,
        n_test=100,
        is_soft=False,
        has_pair=False,
        report=report,
    )


def tokens() -> TokenizedSplits:
    lengths = {"p50": 400, "p90": 700, "p95": 900, "p99": 1200, "max": 3884}
    return TokenizedSplits(
        directory="",
        fingerprint="f",
        max_length=256,
        n_train=100,
        n_validation=10,
        n_test=100,
        rows_cut={"train": 88, "validation": 8, "test": 0},
        percentiles={"train": lengths, "validation": lengths, "test": {}},
        pad_id=0,
        has_pair=False,
    )


def release() -> ReleaseFacts:
    y, p = rows(0.95, 0)
    models = Model(name="the challenger", p=p), Model(name="the champion", p=rows(0.7, 5)[1])
    rule = PromotionRule(metric="accuracy", resamples=200)
    found = decide(rule, GateRows(labels=np.asarray(y), classes=CLASSES), *models)
    outcome = "promoted" if found.promote else "kept"
    return ReleaseFacts(outcome=outcome, reason=found.reason, decision=found)


def test_a_report_alone_fills_scores_classes_and_errors_and_no_more(report: EvaluationReport) -> None:
    page = page_of(report, title="news")
    assert page.scores[0] == ScoreRow(
        name="macro F1",
        value=report.scores.macro_f1,
        interval=report.intervals["macro_f1"],
        baseline=report.baseline_macro_f1,
        decides=True,
    )
    assert len(page.scores) == 11 and page.scores[1].name == "accuracy"
    assert (
        next(s.name for s in page.scores if s.is_lower_better) == "log loss, nats"
        and page.rows == 200
        and page.warnings == report.warnings
    )
    assert [c.support for c in page.classes] == [100, 100] and page.confusion.counts == report.confusion
    assert len(page.errors) == len(report.worst_errors) > 0
    assert page.release is page.fit is page.data is page.coverage is None


def test_the_baseline_is_a_difference_of_its_own_by_the_metric_that_decides_and_by_accuracy(
    report: EvaluationReport,
) -> None:
    decides, accuracy = page_of(report, title="news").differences
    assert (decides.value, decides.interval) == (report.baseline_score_difference, report.baseline_score_interval)
    assert decides.name == "macro F1: this model − TF-IDF baseline"
    assert (accuracy.value, accuracy.interval) == (report.baseline_difference, report.baseline_difference_interval)
    (alone,) = page_of(replace(report, metric="accuracy"), title="news").differences
    assert alone.name == "accuracy: this model − TF-IDF baseline"


def test_champion_and_baseline_stand_beside_the_reports_own_scores(report: EvaluationReport) -> None:
    champion = ReleaseFacts(outcome="kept", reason="", champion=replace(report.scores, auroc=0.97))
    page = page_of(report, title="news", release=champion, baseline=replace(report.scores, auroc=0.9))
    auroc = {s.name: s for s in page.scores}["AUROC, one against the rest"]
    own, spread = report.scores.auroc, report.intervals["auroc"]
    assert (auroc.value, auroc.interval, auroc.champion, auroc.baseline) == (own, spread, 0.97, 0.9)


def test_a_decision_becomes_checks_and_difference(report: EvaluationReport) -> None:
    given = release()
    page = page_of(report, title="news", release=given)
    assert page.release is given and len(given.decision.checks) > 0
    assert page.differences[0].value == given.decision.difference
    assert page.differences[0].name == "accuracy: this model − champion"


def test_the_summary_says_in_one_sentence_what_the_intervals_show(report: EvaluationReport) -> None:
    report = replace(report, metric="accuracy")
    shown = page_of(report, title="news", release=release())
    low, high = report.intervals["accuracy"]
    right = (
        f"about {100 * report.scores.accuracy:.0f} should come out right ({100 * low:.0f} to {100 * high:.0f} at 95 %"
    )
    assert shown.summary.startswith(
        f"Of 100 new texts like the test rows, {right} confidence); by accuracy it is better"
    )
    assert shown.summary.endswith("better than the champion and the TF-IDF baseline, which only counts words.")
    kept = replace(release(), outcome="kept", decision=replace(release().decision, promote=False))
    said = page_of(report, title="news", release=kept).summary
    assert "better than the champion (the gate asks for more) and the TF-IDF baseline" in said
    page = re.sub("<[^>]*>", " ", report_html(shown))
    assert " ".join(page.split()).count("better , +") == 2  # against champion and baseline, with their intervals
    by_loss = replace(report, metric="log_loss", baseline_score_interval=(-0.1, 0.1))
    assert page_of(by_loss, title="news").summary.endswith(
        "; by log loss it is not distinguishable from the TF-IDF baseline, which only counts words."
    )
    nearly = replace(report, scores=replace(report.scores, accuracy=0.998), intervals={})
    assert "about more than 99" not in page_of(nearly, title="news").summary
    assert "more than 99 should come out right" in page_of(nearly, title="news").summary


def test_a_first_decision_has_no_difference(report: EvaluationReport) -> None:
    y, p = rows(0.95, 0)
    given = GateRows(labels=np.asarray(y), classes=CLASSES)
    decision = decide(PromotionRule(resamples=200, baseline="off"), given, Model(name="the challenger", p=p))
    first = ReleaseFacts(outcome="promoted", reason="", decision=decision)
    names = [d.name for d in page_of(report, title="news", release=first).differences]
    assert names == [f"{metric}: this model − TF-IDF baseline" for metric in ("macro F1", "accuracy")]


def test_a_first_version_that_is_kept_leaves_no_champion_to_stay(report: EvaluationReport) -> None:
    y, p = rows(0.95, 0)
    given = GateRows(labels=np.asarray(y), classes=CLASSES, baseline=p, shares=np.array([0.5, 0.5]))
    decision = decide(PromotionRule(resamples=200), given, Model(name="the challenger", p=p[:, ::-1]))
    assert not decision.promote and decision.reason.startswith("not worth promoting: ")
    kept = ReleaseFacts(outcome="kept", reason=decision.reason, serves=False, decision=decision)
    assert replace(kept, serves=True).headline == "Not promoted: the champion stays"  # which was not compared with
    page = report_html(page_of(report, title="news", release=kept))
    (heading,) = re.findall('<h2 class="outcome">(.*?)</h2>', page, re.DOTALL)
    assert heading.endswith("Not promoted: there is no champion") and "M3 3 13 13" in heading  # a cross, no tick
    assert page.index("Not worth promoting: ") < page.index("<h2>Scores</h2>")


def test_the_epoch_that_was_kept_is_marked_among_the_facts_of_the_fit(report: EvaluationReport) -> None:
    page = replace(page_of(report, title="news"), fit=fit(), phases=((0.0, 0.5, 1), (0.5, 1.0, 4)))
    text = " ".join(re.sub("<[^>]*>", " ", report_html(page)).split())
    assert "steps 20 duration 12 s" in text
    assert re.findall(r" (\d) kept ", text) == ["2"]


def test_data_facts_name_reasons_overlaps_and_cut_rows() -> None:
    data = data_facts(dataset(), tokens())
    assert dict(data.facts) == {
        "rows read": "2,225",
        "rows used": "2,100",
        "duplicates left out": "101 (across splits: train 3)",
        "quarantined": "24 (empty text 24)",
        "files by encoding": "utf-8 2,224, latin-1 1",
    }
    assert data.class_counts == (("business", (60, 0, 100)), ("sport", (40, 10, 0)))
    assert dict(data.split_facts) == {
        "rows": ("100", "10", "100"),
        "tokens, median": ("400", "400", "–"),
        "tokens, 95th percentile": ("900", "900", "–"),
        "tokens, longest": ("3,884", "3,884", "–"),
        "cut to 256 tokens": ("88 (88 %)", "8 (80 %)", "0 (0 %)"),
    }


def test_word_weights_go_to_the_errors_in_order(report: EvaluationReport) -> None:
    page = replace(page_of(report, title="news"), words=((("some", 0.5), ("text", -0.1)),))
    items = re.findall(r"<li><p class=\"head\">.*?</li>", report_html(page), flags=re.DOTALL)
    assert ["Strongest: " in item for item in items] == [True, *[False] * (len(report.worst_errors) - 1)]


def test_everything_together_draws_a_page(report: EvaluationReport) -> None:
    page = replace(
        page_of(report, title="news", release=release()),
        fit=fit(),
        phases=((0, 1, 7),),
        data=data_facts(dataset(), tokens()),
        config_yaml="name: news\n",
        lineage=(("git commit", "abc"),),
    )
    text = report_html(page)
    for part in ("verdict", "scores", "classes", "errors", "training", "data", "configuration", "lineage"):
        assert f'id="{part}"' in text
