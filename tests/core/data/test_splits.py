"""Salts of the splits, what an unlucky draw is told, and that no row moves without a salt."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertft_core.base.errors import ConfigError, DataError
from bertft_core.config.run import DataConfig, SplitConfig, parse_config
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.splits import SPLITS, halves, key_digest, row_key, salted, sides_of, split_key, split_of

# where the first release put these rows at the default shares
KNOWN = {
    "train": "3 6 7 8 10 12 14 15 17 18 19 20 21 22 23 24 25 26 27 29 30 31 32 34 35 38",
    "validation": "1 4 5 13 36 37",
    "test": "0 2 9 11 16 28 33 39",
}


def prepare(
    folder: Path, rows: list[tuple[Any, ...]], header: tuple[str, ...] = ("text", "label"), **settings: Any
) -> DatasetSplits:
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])
    return prepare_dataset(DataConfig(source="rows.csv", **settings), folder / "home/datasets", folder)


def sides(data: DatasetSplits) -> dict[str, str]:
    return {text: split for split in SPLITS for text in data.table(split)["text"].to_pylist()}


def key_of(text: str) -> str:
    return split_key(row_key(text))


def plain(n: int) -> list[tuple[str, str]]:
    return [(f"text number {i}", "ab"[i % 2]) for i in range(n)]


def rare(split: str, n: int = 3) -> list[tuple[str, str]]:
    """n rows of class c that the default draw puts into one split."""
    texts = (f"rare {i}" for i in range(1_000))
    return [(t, "c") for t in texts if split_of(key_of(t), SplitConfig()) == split][:n]


def salt_in(text: str, key: str) -> Any:
    found = re.search(rf"data\.split\.{key}: (\{{.*\}}|\S+) \(", text)
    assert found, text
    return json.loads(found[1]) if key == "class_salt" else found[1]


def test_without_a_salt_every_row_stays_where_the_first_release_put_it(tmp_path: Path) -> None:
    found = sides(prepare(tmp_path, [(f"row {i}", "ab"[i % 2]) for i in range(40)]))
    assert {s: " ".join(t.removeprefix("row ") for t, side in found.items() if side == s) for s in SPLITS} == KNOWN


def old_key(text: str) -> str:
    """What was hashed before invisible signs were left out."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def test_only_rows_with_invisible_signs_have_another_key() -> None:
    texts = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    moved = {text for text in texts if row_key(f"a{text}b") != old_key(f"a{text}b")}
    assert moved == {text for text in texts if row_key(text) == "" and not text.isspace()}
    kinds = Counter(unicodedata.category(text) for text in moved)
    assert set(kinds) <= {"Cc", "Cf", "Cn", "Mn", "Lo"} and {"\u200b", "\ufeff", "\xad", "\ufe0f", "\0"} <= moved
    assert [row_key(t) for t in ("BBC  News", "\u00c5ngstr\u00f6m", "A\x1fb")] == [
        "bbc news",
        "\u00e5ngstr\u00f6m",
        "a b",
    ]


def test_copies_with_an_invisible_sign_are_duplicates_or_conflicts_and_never_in_two_splits(tmp_path: Path) -> None:
    rows = [(f"the film {i} is here", "ab"[i % 2]) for i in range(300)]
    signs = ("\u200b", "\ufeff", "\xad", "\u200d", "\x07", "\u2060")
    copies = [(f"{text[:4]}{signs[i % 6]}{text[4:]}", label) for i, (text, label) in enumerate(rows)]
    flipped = [(text, "ba"[label == "b"]) for text, label in copies[:100]]
    data = prepare(tmp_path, [*rows, *copies], max_faulty_share=0.5)
    assert (data.report.rows_used, data.report.duplicates_dropped) == (300, 300)
    data = prepare(tmp_path, [*rows, *flipped], max_faulty_share=0.9)
    assert data.report.reasons == {"conflicting labels": 200} and data.report.rows_used == 200


def test_key_of_the_split_differs_for_accents_compatibility_forms_and_final_marks_alone() -> None:
    texts = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    moved = {text for text in texts if key_of(f"a{text}b") != row_key(f"a{text}b")}
    assert {"\u00e9", "\uff46", "\uff01", "\u0301", "\u2122"} <= moved
    apart = {text: unicodedata.normalize("NFKD", text.casefold()) for text in moved}
    assert all(a != text.casefold() or any(unicodedata.category(c) == "Mn" for c in a) for text, a in apart.items())
    kept = ["good.", "good .", "good", "a? b", "3.5", "?", "...", "\u6f22\u3002", 'he said "no."', "(good)"]
    assert [key_of(text) for text in kept] == [row_key(text) for text in kept]
    assert {key_of(text) for text in ("good!", "good ?!", "good...", "Good !!", "g\u00f6od\uff01", "good.!")} == {
        "good"
    }
    assert split_key(row_key("one!", "two?")) == row_key("one", "two")


def test_copies_that_differ_by_an_accent_or_a_final_mark_lie_in_one_split_whatever_the_encoder(tmp_path: Path) -> None:
    rows = [(f"the film {i} is here", "ab"[i % 2]) for i in range(300)]
    forms = ("{}!", "{} ?!", "{}...", "{}\u0301", "{}\uff01")
    copies = [(forms[i % 5].format(text), label) for i, (text, label) in enumerate(rows)]
    copies += [(text.replace("film", "\uff46ilm"), label) for text, label in rows]
    found = sides(prepare(tmp_path, [*rows, *copies]))
    assert len(found) == 900
    assert all(found[copy] == found[text] for (text, _), (copy, _) in zip([*rows, *rows], copies, strict=True))


def test_near_copies_in_other_splits_are_counted(tmp_path: Path) -> None:
    rows = [(f"the film, {i} is 3.5 here", "ab"[i % 2]) for i in range(200)]
    copies = [(text.replace("film,", "film ,") + ".", label) for text, label in rows]
    data = prepare(tmp_path, [*rows, *copies, ("the film 35 is 35 here", "a")])
    found, order = sides(data), {split: place for place, split in enumerate(SPLITS)}
    pairs = [sorted((found[a], found[b]), key=order.__getitem__) for (a, _), (b, _) in zip(rows, copies, strict=True)]
    n, of_validation = (sum(low == split != high for low, high in pairs) for split in ("train", "validation"))
    first, second = data.report.warnings
    assert n > 50 and f"{n} rows of train differ from a validation or test row by spaces, punctuation" in first
    assert of_validation > 3 and f"{of_validation} rows of validation differ from a test row" in second
    assert data.report.rows_used == 401


def test_texts_in_which_nothing_can_be_seen_are_empty(tmp_path: Path) -> None:
    unseen = ["\u200b", "\ufeff\u200b \u200b", "\u3164", "\x01\x02", "\u00ad", "\u2060\u00a0\ufe0f"]
    data = prepare(tmp_path, [*plain(200), *((text, "a") for text in unseen)], max_faulty_share=0.1)
    assert data.report.reasons == {"empty text": 6} and data.report.rows_used == 200


def test_salt_draws_all_rows_anew_and_independently() -> None:
    u = halves(b"".join(key_digest(f"row {i}") for i in range(20_000)))[:, 0]
    split = SplitConfig()
    draws = [sides_of(hashes, split) for hashes in (u, salted(u, "draw-2"), salted(u, "draw-3"))]
    for draw in draws:
        assert np.bincount(draw) / len(u) == pytest.approx([0.7, 0.1, 0.2], abs=0.01)
    for one, other in ((0, 1), (0, 2), (1, 2)):  # 4 degrees of freedom: 18.5 is the 0.1 % point of chi square
        table = np.bincount(draws[one] * 3 + draws[other], minlength=9).reshape(3, 3)
        expected = np.outer(table.sum(1), table.sum(0)) / len(u)
        assert ((table - expected) ** 2 / expected).sum() < 18.5


def test_salted_split_is_frozen_and_agrees_one_by_one() -> None:
    split = SplitConfig(salt="draw-2")
    keys = [f"row {i}" for i in range(200)]
    found = sides_of(salted(halves(b"".join(map(key_digest, keys)))[:, 0], "draw-2"), split)
    assert [SPLITS[s] for s in found] == [split_of(key, split) for key in keys]
    assert hex(int(salted(np.array([1], dtype=np.uint64), "draw-2")[0])) == "0xdcbd1be1d7684cf6"


def test_no_row_moves_between_nights_under_salts(tmp_path: Path) -> None:
    split = {"salt": 7, "class_salt": {"a": "x"}}
    before = sides(prepare(tmp_path, plain(60), split=split))
    after = sides(prepare(tmp_path, [*plain(200)[::-1], *((f"new {i}", "c") for i in range(20))], split=split))
    assert before == {text: after[text] for text in before}


def test_class_salt_moves_rows_of_that_class_alone(tmp_path: Path) -> None:
    before, after = (sides(prepare(tmp_path, plain(200), split=s)) for s in ({}, {"class_salt": {"b": "x"}}))
    moved = {text for text in before if before[text] != after[text]}
    assert moved and moved <= {text for text, label in plain(200) if label == "b"}


def test_class_absent_from_train_is_told_the_salt_that_mends_it(tmp_path: Path) -> None:
    rows = [*plain(200), *rare("test")]
    with pytest.raises(DataError, match="class 'c' is absent from train: 3 rows, all in test") as fault:
        prepare(tmp_path, rows)
    salts = salt_in(str(fault.value), "class_salt")
    data = prepare(tmp_path, rows, split={"class_salt": salts})
    assert [data.report.class_counts[s]["c"] for s in SPLITS] == [1, 1, 1] and data.report.warnings == ()
    assert all(word in str(fault.value) for word in ("add rows", "label of another class", "leave it out"))


def test_all_classes_absent_from_train_are_told_at_once(tmp_path: Path) -> None:
    hidden = [(f"{text} {name}", name) for text, _ in rare("test", 60) for name in "cd"]
    rows = [*plain(200), *(row for row in hidden if split_of(key_of(row[0]), SplitConfig()) == "test")]
    with pytest.raises(
        DataError, match=r"2 classes are absent from train: 'c' \(\d+ rows\), 'd' \(\d+ rows\)"
    ) as fault:
        prepare(tmp_path, rows)
    data = prepare(tmp_path, rows, split={"class_salt": salt_in(str(fault.value), "class_salt")})
    assert all(data.report.class_counts["train"][name] for name in "abcd")


def test_all_classes_of_too_few_rows_are_told_at_once(tmp_path: Path) -> None:
    rows = [*plain(200), *rare("train", 1), *((f"{text} x", "d") for text, _ in rare("train", 2))]
    with pytest.raises(DataError, match="2 classes have too few rows: 'c' .1 row., 'd' .2 rows., wanted at least 3"):
        prepare(tmp_path, rows)


def test_classes_absent_from_test_or_validation_are_told_one_setting_for_all(tmp_path: Path) -> None:
    rows = [*plain(200), *rare("train", 4), *((f"{t} x", "d") for t, _ in rare("train", 40))]
    rows = [row for row in rows if row[1] != "d" or split_of(key_of(row[0]), SplitConfig()) != "validation"]
    first = prepare(tmp_path, rows, split={"class_salt": {"a": "mine"}})
    lines = "\n".join(first.report.warnings)
    assert "class 'c' is absent from test (4 rows in all)" in lines and "'d'" in lines
    salts = salt_in(lines, "class_salt")
    assert salts["a"] == "mine" and set(salts) == {"a", "c", "d"}
    data = prepare(tmp_path, rows, split={"class_salt": salts})
    assert data.report.warnings == ()


def test_many_absent_classes_are_counted_and_ten_are_named(tmp_path: Path) -> None:
    rare_rows = rare("train", 60)
    rows = [*plain(200), *((text, f"rare class {i % 30}") for i, (text, _) in enumerate(rare_rows))]
    told = prepare(tmp_path, rows, min_class_rows=1).report.warnings
    for side in ("validation", "test"):
        (line,) = [one for one in told if f" absent from {side}" in one]
        assert line.startswith(f"30 classes are absent from {side}: ") and line.count("'rare class") == 10
        assert line.endswith(" and 20 more: their scores there are undefined")
    assert not any("class_salt" in one for one in told)


def test_large_group_is_named_with_the_salt_that_draws_better(tmp_path: Path) -> None:
    rows = [(f"t{i}", "ab"[i % 2], "acme" if i < 600 else f"g{i}") for i in range(1_000)]
    acme = next(name for name in (f"acme {i}" for i in range(99)) if split_of(name, SplitConfig()) == "test")
    rows = [(t, label, acme if g == "acme" else g) for t, label, g in rows]
    header = ("text", "label", "customer")
    first = prepare(tmp_path, rows, header, group="customer")
    (line,) = first.report.warnings
    assert (
        "far from their shares" in line and f"{acme!r} (60 % of the rows)" in line and "asked for 700, 100, 200" in line
    )
    assert first.n_test > 600
    data = prepare(tmp_path, rows, header, group="customer", split={"salt": salt_in(line, "salt")})
    assert data.n_train > 800 and min(data.n_validation, data.n_test) >= 30
    found = sides(data)
    assert len({found[t] for t, _, g in rows if g == acme}) == 1


def test_group_of_a_fifth_is_named_where_the_shares_hold(tmp_path: Path) -> None:
    name = next(name for name in (f"acme {i}" for i in range(99)) if split_of(name, SplitConfig()) == "train")
    rows = [(f"t{i}", "ab"[i % 2], name if i < 200 else f"g{i}") for i in range(1_000)]
    data = prepare(tmp_path, rows, ("text", "label", "customer"), group="customer")
    assert data.report.warnings == (
        f"the largest values of data.group are {name!r} (20 % of the rows): a split that holds one is mostly that one",
    )
    assert set(data.table("train")["group"].to_pylist()) >= {name}


def test_multi_label_rows_are_drawn_anew_together(tmp_path: Path) -> None:
    rows = [(t, json.dumps([label])) for t, label in plain(200)]
    rows += [(t, '["a", "c"]') for t, _ in rare("train", 6)]
    line = prepare(tmp_path, rows).report.warnings[-1]
    data = prepare(tmp_path, rows, split={"salt": salt_in(line, "salt")})
    assert all(data.report.class_counts[s]["c"] for s in SPLITS)
    with pytest.raises(DataError, match=r"data\.split\.class_salt: a row has several labels"):
        prepare(tmp_path, rows, split={"class_salt": {"c": "x"}})


def test_salt_of_a_class_without_rows_is_a_warning(tmp_path: Path) -> None:
    data = prepare(tmp_path, plain(200), split={"class_salt": {"z": "x"}})
    assert data.report.warnings == ("data.split.class_salt: no row is of class 'z'",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"split": {"salt": ""}}, r"data\.split\.salt: .*at least 1 item"),
        ({"split": {"salt": True}}, r"data\.split\.salt: must not be true or false"),
        ({"split": {"salt": 1.5}}, r"data\.split\.salt: .*string"),
        ({"split": {"class_salt": {"a": "x"}}, "group": "g"}, r"data\.split\.class_salt: .*data\.group"),
        ({"split": {"class_salt": {"a": "x"}}, "label": ["a", "b"]}, r"data\.split\.class_salt: .*several labels"),
        ({"source": None, "train": "a", "validation": "b", "test": "c", "split": {"salt": "x"}}, "no effect on files"),
    ],
)
def test_impossible_salts_are_refused(data: dict[str, Any], message: str, tmp_path: Path) -> None:
    tree = {"name": "x", "data": {"source": "rows.csv", **data}, "model": {"pretrained": "m"}}
    with pytest.raises(ConfigError, match=message):
        parse_config(tree, tmp_path)


def test_salt_is_part_of_what_a_run_is_and_cannot_be_searched(tmp_path: Path) -> None:
    tree = {"name": "x", "data": {"source": "rows.csv"}, "model": {"pretrained": "m"}}
    salted_tree = {**tree, "data": {"source": "rows.csv", "split": {"salt": "x"}}}
    assert parse_config(tree, tmp_path).identity() != parse_config(salted_tree, tmp_path).identity()
    with pytest.raises(ConfigError, match=r"data\.split\.salt"):
        parse_config({**tree, "search": {"trials": 3, "space": {"data.split.salt": ["x", "y"]}}}, tmp_path)
