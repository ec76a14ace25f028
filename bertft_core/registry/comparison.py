"""Two registered versions on one labelled file, each answering in a fresh process with its own code."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bertft_core.base.errors import ArtifactError, DataError, InputError
from bertft_core.config.run import DataConfig
from bertft_core.config.store import Store
from bertft_core.registry import aliases, artifacts
from bertft_core.registry.answers import require, score_versions
from bertft_core.serving.artifact import ArtifactCard

_TEXT = 160  # characters of a text that are shown


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """Usable rows: row in the file (from 1), texts, labels [n], soft weights [n, C] or None; the others by reason.

    Multi-label: labels are 0 and 1 [n, C]. groups: of data.group, uint64 [n], or None. keys: fingerprints
    of the texts, uint64 [n], by which a version knows its training rows.
    """

    rows: tuple[int, ...]
    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: Any
    weights: Any
    groups: Any
    keys: Any
    skipped: dict[str, int]

    def without(self, seen: dict[str, Any]) -> LabelledRows:
        """One row of each text, and none that a version was trained on; the others counted. seen: keys by version.

        A text with several labels is left out whole: training would not have known which is right.
        """
        answers = [row.tobytes() for row in (self.labels if self.weights is None else self.weights)]
        answers_of: dict[int, set[bytes]] = {}
        for key, answer in zip(self.keys.tolist(), answers, strict=True):
            answers_of.setdefault(key, set()).add(answer)
        first = set(np.unique(self.keys, return_index=True)[1].tolist())
        known = {f"version {version} was trained on it": np.isin(self.keys, keys) for version, keys in seen.items()}
        skipped, kept = Counter(self.skipped), []
        for i, key in enumerate(self.keys.tolist()):
            reason = "conflicting labels" if len(answers_of[key]) > 1 else "duplicate" if i not in first else ""
            reason = reason or next((why for why, mask in known.items() if mask[i]), "")
            if reason:
                skipped[reason] += 1
            else:
                kept.append(i)
        return replace(
            self,
            rows=tuple(self.rows[i] for i in kept),
            texts=tuple(self.texts[i] for i in kept),
            pairs=None if self.pairs is None else tuple(self.pairs[i] for i in kept),
            labels=self.labels[kept],
            weights=None if self.weights is None else self.weights[kept],
            groups=None if self.groups is None else self.groups[kept],
            keys=self.keys[kept],
            skipped=dict(skipped),
        )


def compare_versions(
    store: Store, name: str, first: str, second: str, data: Path, label: str | None, encoding: str | None = None
) -> dict[str, Any]:
    """Both versions' scores, the paired difference (second minus first) with interval, McNemar, disagreements.

    Columns and encoding are those of the first version's training rows; `label` and `encoding` override them. Where
    those had groups (data.group) and the file has their column, whole groups are drawn and exchanged; `group` names the
    column. Of each text one row counts, and none that either version was trained on. Raises InputError for an unknown
    version or other classes, DataError for an unusable file, ArtifactError where a version does not answer.
    """
    import pandas as pd

    from bertft_core.data.labels import class_names
    from bertft_core.evaluation.comparison import compare
    from bertft_core.evaluation.scores.labels import labels_of

    aliases.require_model(store, name)
    cards = [artifacts.read_served_card(store, name, version) for version in (first, second)]
    classes, others = (class_names(card.classes) for card in cards)
    if set(classes) != set(others):
        raise InputError(
            f"version {first} of {name} knows the classes {sorted(classes)}, version {second} {sorted(others)}: "
            "not comparable"
        )
    group = _group_column(store, name, first)
    rows = read_labelled(data, cards[0], label, encoding, group)
    seen = {version: artifacts.trained_on(store, name, version) for version in dict.fromkeys((first, second))}
    rows = rows.without({version: keys for version, keys in seen.items() if keys is not None})
    if not rows.rows:
        why = ", ".join(f"{n} {reason}" for reason, n in rows.skipped.items())
        raise DataError(f"--data {data}: no row is left to compare on: {why}")
    labels = labels_of(rows.labels, classes, rows.weights, rows.groups)
    frame = pd.DataFrame({"text": rows.texts, **({} if rows.pairs is None else {"text_pair": rows.pairs})})
    with tempfile.TemporaryDirectory(dir=store.home, prefix=artifacts.SCRATCH) as scratch:
        source = Path(scratch) / "rows.parquet"
        frame.to_parquet(source)
        outs = {f"models:/{name}/{version}": Path(scratch) / f"{version}.npz" for version in (first, second)}
        scored = score_versions(outs, source, 0, store)
        both = [require(scored[f"models:/{name}/{version}"]) for version in (first, second)]
        one, two = (labels.predictions(a.probabilities(classes), a.predicted(classes)) for a in both)
    result = compare(labels, one, two).to_json()
    result["shown"] = [
        {**shown, "row": rows.rows[shown["row"]], "text": rows.texts[shown["row"]][:_TEXT]} for shown in result["shown"]
    ]
    named: dict[str, Any] = {"registered_model": name, "versions": [first, second], "data": str(data)}
    named |= {"group": None if rows.groups is None else group}
    named |= {"training_rows_unknown": [version for version, keys in seen.items() if keys is None]}
    return {**named, "skipped": rows.skipped, **result}


def _group_column(store: Store, name: str, version: str) -> str | None:
    """The data.group of the rows that a version was trained on, None where they have none or nobody knows."""
    try:
        evidence = artifacts.read_evidence(store, name, version)
    except ArtifactError:
        return None
    column = evidence["config"]["data"].get("group")
    return None if column is None else str(column)


def read_labelled(
    data: Path, card: ArtifactCard, label: str | None, encoding: str | None = None, group: str | None = None
) -> LabelledRows:
    """The rows of a file that training would have taken; the others are counted by reason.

    group: the column of data.group; where the file has no such column, rows stand for themselves.
    Raises DataError when the file, a column or every row cannot be used.
    """
    from bertft_core.data.labels import LabelColumn
    from bertft_core.data.quality import RowChecker
    from bertft_core.data.readers import read_batches
    from bertft_core.data.sources import inspect_source
    from bertft_core.data.splits import halves
    from bertft_core.serving.tables import reading_of

    if not data.is_file():
        raise DataError(f"--data {data}: no such file")
    labelled = label or card.label  # one column, or one for each class
    columns: dict[str, Any] = {"text": card.text, "text_pair": card.text_pair, "encoding": encoding}
    if isinstance(labelled, str):
        columns |= {"label": labelled, "classes": list(card.classes)}
    else:
        columns["label"] = list(labelled)
    config = DataConfig(source=str(data), **columns, group=group)
    files = inspect_source(data, config, reading_of(card))
    if group is not None:
        try:
            next(read_batches(data, config, files), None)
        except DataError:  # it has no such column; what else may be wrong is said below
            config = DataConfig(source=str(data), **columns)
    merge = card.merge_labels == "casefold"
    column = LabelColumn(list(card.classes), multi_label=card.multi_label, merge=merge)
    checker, skipped = RowChecker(config, column), Counter[str]()
    rows, texts, pairs, groups, keys = [], [], [], [], []
    for batch in read_batches(data, config, files):
        checked = checker.check(batch)
        skipped.update(fault.reason.partition(":")[0] for fault in checked.faults)
        own_group = halves(checked.split_digests)[:, 0] if config.group else checked.rows
        parts = (checked.rows, checked.texts, checked.pairs, checked.labels, own_group, halves(checked.digests)[:, 0])
        for row, text, pair, value, of, key in zip(*parts, strict=True):
            if card.text_pair is not None and not (pair or "").strip():
                skipped["missing text_pair"] += 1
                continue
            rows.append(row)
            texts.append(text)
            pairs.append(pair or "")
            groups.append(of)
            keys.append(key)
            column.append(value)
    if not rows:
        why = ", ".join(f"{n} {reason}" for reason, n in skipped.items()) or "it holds no rows"
        raise DataError(f"--data {data}: no row can be used: {why}; classes of the model: {', '.join(card.classes)}")
    labels = column.close()
    return LabelledRows(
        rows=tuple(rows),
        texts=tuple(texts),
        pairs=tuple(pairs) if card.text_pair is not None else None,
        labels=labels.dense(0, len(rows)).astype(int) if labels.multi_label else labels.top,
        weights=labels.dense(0, len(rows)) if labels.is_soft else None,
        groups=np.array(groups, dtype=np.uint64) if config.group else None,
        keys=np.array(keys, dtype=np.uint64),
        skipped=dict(skipped),
    )
