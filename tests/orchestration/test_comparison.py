"""`bertft compare`: a labelled file read as training reads it, both versions in fresh processes."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from bertft_core.base.errors import DataError, InputError
from bertft_core.config.run import DataConfig
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.splits import halves
from bertft_core.registry.answers import Answers
from bertft_core.registry.comparison import compare_versions, read_labelled
from bertft_core.serving.artifact import ArtifactCard

MODEL = "letters"
CARD = ArtifactCard(max_length=48, truncation="head", classes=("ham", "spam"), text="words", label="kind")


def write(path, *rows, header=("words", "kind")):
    with open(path, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])
    return path


def test_labelled_rows_use_the_training_columns_and_count_what_is_left_out(tmp_path):
    file = write(tmp_path / "rows.csv", ("a b", "spam"), ("", "ham"), ("c", "eggs"), ("d", ""), ("NA", "ham"))
    rows = read_labelled(file, CARD, None)
    assert (rows.rows, rows.texts, rows.labels.tolist()) == ((1, 5), ("a b", "NA"), [1, 0])
    assert rows.skipped == {"empty text": 1, "unknown label": 1, "missing label": 1} and rows.weights is None


def test_groups_are_read_where_the_file_has_their_column(tmp_path):
    header = ("words", "kind", "customer")
    cells = [("a", "spam", "x"), ("b", "ham", "x"), ("c", "ham", "y"), ("d", "ham", "")]
    groups = read_labelled(
        write(tmp_path / "rows.csv", *cells, header=header), CARD, None, group="customer"
    ).groups.tolist()
    assert groups[0] == groups[1] and len(set(groups)) == 3
    without = write(tmp_path / "plain.csv", *(row[:2] for row in cells))
    assert read_labelled(without, CARD, None, group="customer").groups is None


def test_label_column_can_be_named(tmp_path):
    file = write(tmp_path / "rows.csv", ("a", "spam"), header=("words", "gold"))
    assert read_labelled(file, CARD, "gold").labels.tolist() == [1]
    with pytest.raises(DataError, match="no column 'kind'"):
        read_labelled(file, CARD, None)


def test_pair_model_leaves_out_rows_without_their_pair(tmp_path):
    card = ArtifactCard(max_length=48, truncation="head", classes=("ham", "spam"), text_pair="b")
    file = write(tmp_path / "rows.csv", ("x", "y", "ham"), ("x", "", "ham"), header=("text", "b", "label"))
    rows = read_labelled(file, card, None)
    assert rows.pairs == ("y",) and rows.skipped == {"missing text_pair": 1}


def test_file_without_a_usable_row_says_why(tmp_path):
    with pytest.raises(DataError, match="1 unknown label; classes of the model: ham, spam"):
        read_labelled(write(tmp_path / "rows.csv", ("a", "eggs")), CARD, None)
    with pytest.raises(DataError, match="no such file"):
        read_labelled(tmp_path / "gone.csv", CARD, None)


def test_one_row_of_each_text_is_compared_and_none_that_a_version_was_trained_on(tmp_path):
    texts = ["a b", "c", "A  B", "d", "e", "d", "f", "g", "c"]
    kinds = ["spam", "ham", "spam", "ham", "ham", "spam", "spam", "ham", "ham"]
    rows = read_labelled(write(tmp_path / "rows.csv", *zip(texts, kinds, strict=True)), CARD, None)
    whole = rows.without({})
    assert whole.rows == (1, 2, 5, 7, 8) and whole.texts == ("a b", "c", "e", "f", "g")
    assert whole.labels.tolist() == [1, 0, 0, 1, 0]
    assert whole.skipped == {"duplicate": 2, "conflicting labels": 2}
    seen = {"1": rows.keys[[1, 8]], "2": np.sort(rows.keys[[0, 1, 6]])}
    left = rows.without(seen)
    assert left.rows == (5, 8) and left.keys.tolist() == rows.keys[[4, 7]].tolist()
    assert left.skipped == {
        "duplicate": 2,
        "conflicting labels": 2,
        "version 1 was trained on it": 1,
        "version 2 was trained on it": 2,
    }


def test_rows_are_known_by_the_fingerprints_that_training_keeps(tmp_path):
    file = write(tmp_path / "rows.csv", *[(f"text number {i}", CARD.classes[i % 2]) for i in range(60)])
    data = DataConfig(source=str(file), text="words", label="kind", classes=list(CARD.classes))
    splits = prepare_dataset(data, tmp_path / "data", tmp_path)
    trained = halves(b"".join(splits.table("train")["fingerprint"].to_pylist()))[:, 0]
    rows = read_labelled(file, CARD, None)
    left = rows.without({"1": trained})
    assert len(trained) == splits.n_train and len(left.rows) == 60 - splits.n_train
    known = {*splits.table("validation")["text"].to_pylist(), *splits.table("test")["text"].to_pylist()}
    assert set(left.texts) == known


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["False", "True"], ("false", "true")),
        (["0.0", "1.0"], ("0", "1")),
        (["1", "1.0"], ("1", "1.0")),  # two classes stay two
    ],
)
def test_answers_of_an_older_version_have_its_classes_as_data_are_read_now(written, read, tmp_path):
    p = np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32)
    np.savez(tmp_path / "1.npz", probabilities=p, predicted=np.array([0, 1]))
    (tmp_path / "1.npz.json").write_text(json.dumps({"classes": written, "latency_ms": 1.0, "code": "x"}))
    answers = Answers.read(tmp_path / "1.npz")
    assert answers.classes == read and answers.predicted(read[::-1]).tolist() == [1, 0]
    np.testing.assert_array_equal(answers.probabilities(read[::-1]), p[:, ::-1])


@pytest.mark.orchestration
def test_unknown_version_is_refused_before_anything_is_read(shelf, tmp_path):
    with pytest.raises(InputError, match="no version 9"):
        compare_versions(shelf(), MODEL, "1", "9", tmp_path / "gone.csv", None)


@pytest.mark.slow
@pytest.mark.orchestration
def test_two_versions_are_compared_in_fresh_processes(shelf, tmp_path):
    rows = [(f"text number {i} " + "zebra " * (i % 7), ("ham", "spam")[i % 2]) for i in range(30)]
    file = write(tmp_path / "rows.csv", *rows, header=("text", "label"))
    result = compare_versions(shelf(), MODEL, "1", "2", file, None)
    assert result["n"] == 30 and result["versions"] == ["1", "2"]
    assert result["training_rows_unknown"] == ["1", "2"] and not result["skipped"]  # these have no evidence
    only = result["second_only"] - result["first_only"]
    assert result["differences"]["accuracy"]["difference"] == pytest.approx(only / 30)
    assert result["disagreements"] == result["first_only"] + result["second_only"] >= len(result["shown"])
    for shown in result["shown"]:
        assert rows[shown["row"] - 1] == (shown["text"].ljust(len(rows[shown["row"] - 1][0])), shown["label"])
    same = compare_versions(shelf(), MODEL, "1", "1", file, None)
    assert same["disagreements"] == 0 and same["p_value"] == 1.0
