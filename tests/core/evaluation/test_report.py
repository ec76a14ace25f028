from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from bertft_core.evaluation.report import BlendParts, EvaluationReport, RowTexts, evaluate
from bertft_core.evaluation.scores.intervals import Bootstrap
from bertft_core.evaluation.scores.labels import labels_of
from bertft_core.reporting.run.pictures import confusion_picture, learning_curve_picture
from bertft_core.training.results import EpochResult

CLASSES = ("business", "sport", "a|very <long> $class$ name of forty letters")


def rows(n: int = 120, right: float = 0.9, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    guess = np.where(rng.random(n) < right, y, (y + 1) % 3)
    p = rng.dirichlet([0.4, 0.4, 0.4], n)
    p[np.arange(n), guess] += 1.1
    return y, p / p.sum(axis=1, keepdims=True)


def report(*, has_baseline: bool = True) -> EvaluationReport:
    y, p = rows()
    labels = labels_of(y, CLASSES)
    return evaluate(
        labels,
        labels.predictions(p),
        RowTexts(texts=[f"text | *{i}*\nsecond line" for i in range(120)], sources=[f"a.csv:{i}" for i in range(120)]),
        baseline=labels.predictions(rows(right=0.6, seed=1)[1]) if has_baseline else None,
        bootstrap=Bootstrap(resamples=500),
    )


def test_every_interval_holds_its_score() -> None:
    found = report()
    for name in ("accuracy", "macro_f1", "log_loss"):
        low, high = found.intervals[name] or (1.0, 0.0)
        assert low < getattr(found.scores, name) < high
    assert found.baseline_difference == pytest.approx(found.scores.accuracy - found.baseline_accuracy)


def test_report_survives_a_trip_through_json() -> None:
    found = report()
    assert EvaluationReport.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_report_without_a_baseline_survives_json_too() -> None:
    found = report(has_baseline=False)
    assert found.baseline_accuracy is None
    assert EvaluationReport.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_report_has_each_key_of_the_baseline_under_its_older_name_and_reads_that_alone() -> None:
    found = report()
    document = found.to_json()
    names = ("accuracy", "macro_f1", "difference", "difference_interval")
    names += ("score", "score_difference", "score_interval")
    assert all(document[f"floor_{name}"] == document[f"baseline_{name}"] is not None for name in names)
    older = {key: value for key, value in document.items() if not key.startswith("baseline_")}
    assert EvaluationReport.from_json(json.loads(json.dumps(older))) == found


def test_report_written_before_the_deciding_metric_was_compared_is_read() -> None:
    document = {key: value for key, value in report().to_json().items() if "_score" not in key}
    assert EvaluationReport.from_json(json.loads(json.dumps(document))).baseline_score_interval is None


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy", "log_loss"])
def test_the_metric_that_decides_is_compared_with_the_baseline_too(metric: str) -> None:
    y, p = rows()
    labels, other = labels_of(y, CLASSES), rows(right=0.6, seed=1)[1]
    ours, theirs = labels.predictions(p), labels.predictions(other)
    texts = RowTexts(texts=["t"] * len(y))
    found = evaluate(labels, ours, texts, baseline=theirs, metric=metric, bootstrap=Bootstrap(resamples=500))
    below = labels.scores(theirs).score(metric)
    assert found.baseline_score == below
    assert found.baseline_score_difference == pytest.approx(found.score - below)
    low, high = found.baseline_score_interval or (1.0, 0.0)
    assert low < found.baseline_score_difference < high
    assert "| model minus TF-IDF baseline, accuracy |" in found.to_markdown()


def test_what_became_of_the_model_comes_first_in_the_markdown() -> None:
    text = report().to_markdown("news", verdict=("Not promoted: there is no champion", "not worth promoting: *x*"))
    assert text.startswith("# news\n\n**Not promoted: there is no champion**. Not worth promoting: \\*x\\*\n\n| score")


def test_worst_errors_are_the_ten_most_confident_wrong_rows() -> None:
    found = report()
    y, p = rows()
    wrong = sorted(p.max(axis=1)[p.argmax(axis=1) != y], reverse=True)[:10]
    assert [e.confidence for e in found.worst_errors] == pytest.approx(wrong)
    first = found.worst_errors[0]
    assert (
        first.text == f"text | *{first.row}* second line"
        and first.source == f"a.csv:{first.row}"
        and first.label != first.predicted
    )


def test_warnings_name_absent_classes_and_a_baseline_that_was_not_beaten() -> None:
    y, p = rows(40)
    labels = labels_of(y, (*CLASSES, "tech"))
    predictions = labels.predictions(np.c_[p, np.zeros(40)])
    found = evaluate(
        labels,
        predictions,
        RowTexts(texts=["t"] * 40),
        baseline=predictions,
        bootstrap=Bootstrap(resamples=200),
        warnings=("from the gate",),
    )
    text = " ".join(found.warnings)
    assert found.warnings[0] == "from the gate"
    assert "no test row of class tech" in text and "only 40 test rows" in text
    assert "not shown to be better than the TF-IDF baseline: macro F1, model minus TF-IDF baseline: +0.0000" in text


def test_markdown_escapes_what_comes_from_the_data() -> None:
    page = report().to_markdown("news | <b>", [("Confusion", "confusion.png")])
    for line in page.splitlines():
        if line.startswith("|"):
            assert "<" not in line.replace("&lt;", "")
    table = [line for line in page.split("## Most confident errors")[1].splitlines() if line.startswith("|")]
    assert len(table) == 12 and all(line.replace("\\|", "").count("|") == 6 for line in table)
    assert "![Confusion](confusion.png)" in page and page.startswith("# news \\| &lt;b>")


def size_of(png: Path) -> tuple[int, int]:
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    return int(width), int(height)


def test_confusion_picture_is_a_png(tmp_path: Path) -> None:
    assert min(size_of(confusion_picture(report(), tmp_path / "confusion.png"))) > 300


def test_learning_curve_picture_is_a_png_with_and_without_phases(tmp_path: Path) -> None:
    history = [
        EpochResult(
            epoch=e,
            step=90 * e,
            train_loss=1 / e,
            validation_loss=1.1 / e,
            accuracy=1 - 0.3 / e,
            macro_f1=1 - 0.35 / e,
            depth=2 * e,
            seconds=1.0,
        )
        for e in (1, 2, 3)
    ]
    phases = ((0.0, 0.25, 1), (0.25, 0.5, 2), (0.5, 0.75, 4), (0.75, 1.0, 7))
    assert min(size_of(learning_curve_picture(history, tmp_path / "a.png"))) > 300
    assert min(size_of(learning_curve_picture(history, tmp_path / "b.png", phases))) > 300
    assert min(size_of(learning_curve_picture(history[:1], tmp_path / "c.png"))) > 300


def test_a_blend_shows_its_encoder_alone_and_warns_where_that_is_worse() -> None:
    y, p = rows()
    labels, (_, weak), (_, words) = labels_of(y, CLASSES), rows(right=0.5, seed=2), rows(right=0.85, seed=1)
    parts = BlendParts(weights="encoder 0.1, TF-IDF 2", milliseconds=0.4, encoder=labels.predictions(weak))
    found = evaluate(
        labels,
        labels.predictions(p),
        RowTexts(texts=["a text"] * 120),
        baseline=labels.predictions(words),
        bootstrap=Bootstrap(resamples=500),
        blend=parts,
    )
    assert found.blend is not None and found.blend.encoder_accuracy == labels.is_right(parts.encoder).mean()
    assert "the encoder alone is worse than the TF-IDF baseline it is blended with: accuracy" in found.warnings[-1]
    shown = found.to_markdown()
    assert "The model is a blend (encoder 0.1, TF-IDF 2); TF-IDF costs 0.4 ms a row." in shown
    assert EvaluationReport.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
    assert "blend" not in {k for k, v in report().to_json().items() if v is not None}
