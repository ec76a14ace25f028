"""Rows that an encoder cannot tell apart, found by their token ids, and the splits without them.

Test rows are never left out: they are the same for every encoder, so that versions can be compared.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bertft_core.base.errors import DataError
from bertft_core.base.files import is_complete, staged_folder, write_json
from bertft_core.base.hashes import hash_json
from bertft_core.base.text import counted
from bertft_core.data.dataset import DataReport, DatasetSplits, load_dataset_splits
from bertft_core.data.prepare import CONFLICT
from bertft_core.data.quality import gate_faulty_share
from bertft_core.data.splits import SPLITS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from bertft_core.data.tokens.tokenization import TokenArrays

TWINS_VERSION = 2
FILE = "left_out.npz"  # in a folder of tokens: why each row of train and of validation is left out
STAYS, OVERLAP, DUPLICATE, CONFLICTING, EMPTY, ALIKE = range(6)
_WHY = {CONFLICTING: CONFLICT, EMPTY: "empty text"}  # as the gate of data calls them
Codes = npt.NDArray[np.int8]


def unknown_id(tokenizer: Tokenizer) -> int:
    """The id that stands for whatever the vocabulary lacks, -1 for none."""
    token = getattr(tokenizer.model, "unk_token", None) or "<unk>"  # a Unigram model does not name it
    found = tokenizer.token_to_id(token)
    return -1 if found is None else int(found)


@dataclass(frozen=True, kw_only=True, eq=False)
class RowTraits:
    """What the token ids of rows say of them, 18 bytes a row, so that nobody goes through all ids again.

    keys: uint64 [n, 2], equal for equal ids and token types; is_certain [n]: no id stands for what the vocabulary
    lacks; is_empty [n]: no id but special ones.
    """

    keys: npt.NDArray[np.uint64]
    is_certain: npt.NDArray[np.bool_]
    is_empty: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, ids: list[Any], pair_start: Any, marks: set[int], unknown: int) -> RowTraits:
        """Of a batch of rows, at least one. ids: int32 of each; marks: the special ones."""
        digests, flat = bytearray(), np.concatenate(ids)
        for row, start in zip(ids, pair_start.tolist(), strict=True):
            digests += hashlib.blake2b(row.tobytes() + start.to_bytes(4, "little"), digest_size=16).digest()
        ends = np.cumsum([0, *map(len, ids)])

        def holds(which: Any) -> Any:
            held = np.concatenate([[0], np.cumsum(which)])
            return held[ends[1:]] > held[ends[:-1]]

        return cls(
            keys=np.frombuffer(bytes(digests), dtype=np.uint64).reshape(-1, 2),
            is_certain=~holds(flat == unknown),
            is_empty=~holds(~np.isin(flat, list(marks))),
        )

    @classmethod
    def joined(cls, parts: list[RowTraits]) -> RowTraits:
        """Of the rows of all parts, in order."""
        keys = [np.zeros((0, 2), dtype=np.uint64), *(part.keys for part in parts)]
        none = np.zeros(0, dtype=bool)
        return cls(
            keys=np.concatenate(keys),
            is_certain=np.concatenate([none, *(part.is_certain for part in parts)]),
            is_empty=np.concatenate([none, *(part.is_empty for part in parts)]),
        )


def find_twins(splits: list[TokenArrays], traits: list[RowTraits], cut: list[Any]) -> list[Codes]:
    """Why each row of train, validation and test should not stand there, int8 [n] each: STAYS or one of the others.

    traits: of the rows of each split, of which the labels alone are read.
    OVERLAP: a split nearer to test has a row of the same ids, and neither was `cut` (bool [n]). ALIKE: the same of rows
    that were cut: they are different texts, as those to come will be, and stay. Among uncut rows of one split that hold
    no unknown id: CONFLICTING, the same ids have several labels; DUPLICATE, all but the first of one label. EMPTY: no
    ids but the special ones.
    """
    rows = RowTraits.joined(traits)
    sides = np.repeat(np.arange(3, dtype=np.int8), [len(part.is_empty) for part in traits])
    out = np.full(len(sides), STAYS, dtype=np.int8)
    group, counts = _groups(rows.keys)
    is_whole = ~np.concatenate(cut)
    for code, among in ((ALIKE, np.ones_like(is_whole)), (OVERLAP, is_whole)):
        nearest = np.full(len(counts), -1, dtype=np.int8)
        np.maximum.at(nearest, group[among], sides[among])
        out[among & (sides < nearest[group])] = code
    in_several = counts[group] > 1
    places = np.flatnonzero(in_several & is_whole & rows.is_certain & ~_is_left_out(out))
    labels = _labels(splits)
    by_group: dict[int, list[int]] = {}
    for place in places.tolist():
        by_group.setdefault(int(group[place]), []).append(place)
    for alike in by_group.values():
        if len({labels(row) for row in alike}) > 1:
            out[alike] = CONFLICTING
        else:
            out[alike[1:]] = DUPLICATE
    out[rows.is_empty] = EMPTY
    return np.split(out, np.cumsum([len(part.is_empty) for part in traits])[:-1])


def _groups(keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """A number for each row [n], the same for equal keys, and how many rows have it."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    is_new = np.ones(len(keys), dtype=bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    group = np.empty(len(keys), dtype=np.int32)
    group[order] = np.cumsum(is_new, dtype=np.int32) - 1
    return group, np.bincount(group)


def _labels(splits: list[TokenArrays]) -> Any:
    """The label of a row by its place in all splits: comparable values."""
    ends = np.cumsum([len(arrays.labels) for arrays in splits]).tolist()

    def label(place: int) -> Any:
        side = int(np.searchsorted(ends, place, side="right"))
        arrays, row = splits[side], place - (ends[side - 1] if side else 0)
        return int(arrays.labels[row]) if arrays.weights is None else arrays.weights[row].tobytes()

    return label


def without_twins(
    dataset: DatasetSplits, tokens: Path, root: Path, encoder: str, max_faulty_share: float
) -> DatasetSplits:
    """The splits without the rows of train and validation that the folder `tokens` says to leave out.

    Content-addressed under `root`, or `dataset` with a warning more where no row is left out. The report of the gate
    counts the rows, those that contradict each other or are empty go to the quarantine. Raises DataError where a class
    is left without a row in train, or validation without any, and where more than `max_faulty_share` of the rows are in
    the quarantine.
    """
    with np.load(tokens / FILE, allow_pickle=False) as stored:
        codes = [stored[split] for split in SPLITS]
    if not any(_is_left_out(code).any() for code in codes[:2]):
        return replace(dataset, report=_with_twins(dataset.report, codes, encoder))
    key = hash_json([TWINS_VERSION, dataset.path.name, encoder, _content(codes)])[:32]
    folder = Path(root).resolve() / key
    if not is_complete(folder):
        with staged_folder(folder) as staging:
            _write(dataset, codes, staging, folder, encoder, max_faulty_share)
    return load_dataset_splits(folder)


def _write(
    dataset: DatasetSplits, codes: list[Codes], staging: Path, folder: Path, encoder: str, max_faulty_share: float
) -> None:
    for name in ("test.arrow", "quarantine.jsonl"):
        shutil.copyfile(dataset.path / name, staging / name)
    gone = []
    with open(staging / "quarantine.jsonl", "a", encoding="utf-8") as quarantine:
        for split, code in zip(SPLITS[:2], codes, strict=False):
            rows = _copy_kept(dataset.path / f"{split}.arrow", code, staging / f"{split}.arrow")
            gone.append(Counter(name for row, _ in rows for name in _names(dataset, row)))
            for row, why in rows:
                if why in _WHY:
                    reason = f"{_WHY[why]}: by the token ids of {encoder}"
                    fault = {"file": row["file"], "row": row["row"], "reason": reason, "text": row["text"][:200]}
                    quarantine.write(json.dumps(fault, ensure_ascii=False) + "\n")
    copy = folder.parent.parent / "quarantine" / f"{folder.name}.jsonl"
    if any(np.isin(code, list(_WHY)).any() for code in codes[:2]):
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(staging / "quarantine.jsonl", copy)
    fields = _fields(dataset, codes, gone, encoder)
    gate_faulty_share(fields["report"]["reasons"], dataset.report.rows_read, max_faulty_share, copy)
    write_json(staging / "report.json", {**fields, "fingerprint": hash_json([dataset.fingerprint, _content(codes)])})


def _is_left_out(code: Codes) -> npt.NDArray[np.bool_]:
    return ~np.isin(code, (STAYS, ALIKE))


def _number(codes: list[Codes], code: int) -> int:
    """Rows of train and validation with a code."""
    return sum(int((own == code).sum()) for own in codes[:2])


def _overlaps(codes: list[Codes]) -> dict[str, int]:
    return {split: int((code == OVERLAP).sum()) for split, code in zip(SPLITS[:2], codes, strict=False)}


def _content(codes: list[Codes]) -> list[str]:
    return [hashlib.sha256(code.tobytes()).hexdigest() for code in codes[:2]]


def _copy_kept(source: Path, code: Codes, target: Path) -> list[tuple[dict[str, Any], int]]:
    """Copy the rows that stay; the others, each with its code."""
    gone: list[tuple[dict[str, Any], int]] = []
    start = 0
    with pa.OSFile(str(source)) as file, pa.OSFile(str(target), "wb") as sink:
        reader = pa.ipc.open_file(file)
        with pa.ipc.new_file(sink, reader.schema) as writer:
            for number in range(reader.num_record_batches):
                part = reader.get_batch(number)
                of_part = code[start : start + part.num_rows]
                start += part.num_rows
                is_out = _is_left_out(of_part)
                writer.write_batch(part.filter(pa.array(~is_out)))
                gone += zip(part.filter(pa.array(is_out)).to_pylist(), of_part[is_out].tolist(), strict=True)
    return gone


def _names(dataset: DatasetSplits, row: dict[str, Any]) -> list[str]:
    """The classes of a row, as the counts of the gate's report count them."""
    if dataset.multi_label:
        return [name for name, weight in zip(dataset.classes, row["weights"], strict=True) if weight]
    return [dataset.classes[row["label"]]] if row["label"] >= 0 else []


def _fields(dataset: DatasetSplits, codes: list[Codes], lost: list[Counter[str]], encoder: str) -> dict[str, Any]:
    """report.json of the splits that are left; lost: rows of each class that train and validation lose."""
    report = dataset.report
    gone = [int(_is_left_out(code).sum()) for code in codes[:2]]
    counts = {
        split: {name: n - of[name] for name, n in report.class_counts[split].items()}
        for split, of in zip(SPLITS, [*lost, Counter[str]()], strict=True)
    }
    why = f"have the token ids of rows nearer to test, or none, by the tokenizer of {encoder}"
    remedy = "mend the rows, or take an encoder that tells them apart"
    for name in dataset.classes:
        if lost[0][name] and not counts["train"][name]:
            raise DataError(f"class {name!r} has no row left in train: all {lost[0][name]} {why}; {remedy}")
    if gone[1] == dataset.n_validation:
        raise DataError(f"validation has no row left: all {gone[1]} {why}; {remedy}")
    reasons = dict(report.reasons)
    for code, reason in _WHY.items():
        if n := _number(codes, code):
            reasons[reason] = reasons.get(reason, 0) + n
    quarantined = sum(_number(codes, code) for code in _WHY)
    changed = replace(
        _with_twins(report, codes, encoder),
        rows_used=report.rows_used - sum(gone),
        rows_quarantined=report.rows_quarantined + quarantined,
        duplicates_dropped=report.duplicates_dropped + sum(gone) - quarantined,
        reasons=reasons,
        class_counts=counts,
    )
    fields = {name: value for name, value in asdict(dataset).items() if name not in ("directory", "multi_label")}
    sizes = {"n_train": dataset.n_train - gone[0], "n_validation": dataset.n_validation - gone[1]}
    return {**fields, **sizes, "is_multi": dataset.multi_label, "report": asdict(changed)}


def _with_twins(report: DataReport, codes: list[Codes], encoder: str) -> DataReport:
    """The report with overlaps and warnings by token ids; the counts of its rows are as they were."""
    overlaps = {split: report.overlaps.get(split, 0) + n for split, n in _overlaps(codes).items()}
    return replace(report, overlaps=overlaps, warnings=(*report.warnings, *_warnings(codes, encoder)))


def _warnings(codes: list[Codes], encoder: str) -> list[str]:
    """What was left out, and what is left in test."""
    by, later = f"by the tokenizer of {encoder}", {"train": "a validation or test row", "validation": "a test row"}
    lines = [
        f"{counted(n, f'row of {s} has', f'rows of {s} have')} the token ids of {later[s]} {by}: left out of {s}"
        for s, n in _overlaps(codes).items()
        if n
    ]
    if n := _number(codes, ALIKE):
        rows = counted(n, "row of train or validation has", "rows of train or validation have")
        lines.append(
            f"{rows} the token ids of a row nearer to test once cut to tokenization.max_length: they stay, as texts to "
            "come will be cut alike"
        )
    said = {
        DUPLICATE: ("repeats", "repeat", "the token ids of another row of its split: left out"),
        CONFLICTING: ("has", "have", "the token ids of rows with another label: quarantined"),
        EMPTY: ("has", "have", "no token: quarantined"),
    }
    for code, (one, many, text) in said.items():
        if n := _number(codes, code):
            lines.append(f"{counted(n, f'row {one}', f'rows {many}')} {text} ({by})")
    for code, text in ((CONFLICTING, "the token ids of test rows with another label"), (EMPTY, "no token")):
        if n := int((codes[2] == code).sum()):
            lines.append(f"{counted(n, 'test row has', 'test rows have')} {text} {by}: no answer to them can be right")
    return lines
