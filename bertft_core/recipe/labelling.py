"""`bertft label`: a file of the rows worth labelling next, and the labelled ones taken back into the data."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bertft_core.base.cells import cell, is_formula
from bertft_core.base.errors import InputError
from bertft_core.base.files import read_json, replacing
from bertft_core.base.hashes import hash_json
from bertft_core.base.locks import FOREVER, exclusive
from bertft_core.base.text import counted
from bertft_core.config.run import DataConfig, RunConfig
from bertft_core.config.store import Store
from bertft_core.data.dataset import DatasetSplits, take_rows
from bertft_core.data.labels import LabelColumn
from bertft_core.data.quality import RowChecker
from bertft_core.data.readers import RowBatch, read_batches
from bertft_core.data.sources import inspect_source
from bertft_core.data.splits import key_digest
from bertft_core.evaluation.label_choice import choose_rows
from bertft_core.recipe.prepare import ingest
from bertft_core.recipe.runs import Run, run_at
from bertft_core.recipe.unlabelled import Cells, KnownTexts, row_keys, rows_of, unlabelled_rows, without_labels
from bertft_core.serving.artifact import CARD

POOL = 5_000  # rows that are scored; of a larger file those of the smallest hash
_DOUBTFUL = 4  # at most one row in so many is one whose label is doubted
WHY = "why"


def offer(
    config: RunConfig, unlabelled: Path, rows: int, target: Path, store: Store, registered: str
) -> dict[str, Any]:
    """Write `rows` rows of a file without labels that are worth labelling most, label columns empty, as CSV.

    The champion, else the model of the last run, is unsure of them, and they differ (`label_choice`). On top stand
    training rows whose label its report doubts. Rows that the data has, near-copies of them, and rows that would fall
    into validation or test are left out. Formulas are neutralised (`base.cells`).

    registered: name of the registered model.

    Raises InputError where the target exists, no model is there, or no row is left; DataError for a file at fault.
    """
    if target.exists():
        raise InputError(f"--output {target} exists, and may hold labels: name another file, or remove it")
    if not unlabelled.is_file():
        raise InputError(f"--unlabelled {unlabelled}: no such file")
    home = Path(store.home)
    dataset, data = ingest(_without_missing(config), home), config.data
    run = _last_run(home, config.name)
    folder, model = _model(store, registered, run)
    pool, read = _pool(config, unlabelled, KnownTexts.of(dataset))
    if not pool:
        raise InputError(
            f"--unlabelled {unlabelled}: none of {counted(read, 'row')} is left: empty, in the data already, or of a "
            "text that the split puts into validation or test"
        )
    doubtful = _doubtful(config, dataset, run)[: rows // _DOUBTFUL]
    from bertft_core.serving.predictor import Predictor

    predictor = Predictor.load(folder)
    texts = [str(row[data.text]) for row in pool]
    pairs = [str(row[data.text_pair] or "") for row in pool] if data.text_pair else None
    p, features = predictor.probabilities(texts, pairs), predictor.features(texts, pairs)
    places = choose_rows(
        p, features, rows - len(doubtful), config.training.seed, multi_label=predictor.card.multi_label
    )
    _write(target, data, [*doubtful, *({**pool[i], WHY: "the model is unsure"} for i in places)])
    return {
        "output": str(target),
        "rows": len(doubtful) + len(places),
        "doubtful": len(doubtful),
        "of": len(pool),
        "read": read,
        "model": model,
        "next": f"fill in {', '.join(data.label_columns)}, then `bertft label CONFIG --import {target}`",
    }


def _without_missing(config: RunConfig) -> RunConfig:
    """The configuration without a data.chosen that is not there yet: the first import makes it."""
    place = config.data.chosen and config.base_dir / config.data.chosen
    if not place or place.is_file():
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"chosen": None})})


def _last_run(home: Path, name: str) -> Run | None:
    """The run of this name that was fitted last."""
    found = []
    for folder in (run_at(path).folder for path in (home / "runs").glob("[!.]*/")):
        with suppress(OSError, ValueError):  # unfinished, or damaged: `bertft doctor` says so
            if (folder.served / CARD).is_file() and read_json(folder.config).get("name") == name:
                found.append((folder.served.stat().st_mtime, folder.path))
    return run_at(max(found)[1]) if found else None


def _model(store: Store, registered: str, run: Run | None) -> tuple[Path, str]:
    """Folder and name of the model that is asked."""
    from bertft_core.registry.artifacts import resolve_model

    try:
        served = resolve_model(store, f"models:/{registered}@champion")
        return served.folder, served.uri
    except InputError:
        if run is None:
            raise InputError(f"{registered} has no champion and no finished run: `bertft run` comes first") from None
    return run.folder.served, f"run {run.run_id}"


def _pool(config: RunConfig, file: Path, known: KnownTexts) -> tuple[list[Cells], int]:
    """The rows that may be offered, POOL at most by hash, and how many were read."""
    data, found, read = without_labels(config.data), dict[bytes, Cells](), 0
    for row in unlabelled_rows(file, inspect_source(file, data), data, known):
        read += 1
        if row is not None:
            found.setdefault(row.text, row.cells)
    return [found[key] for key in sorted(found)[:POOL]], read


def _doubtful(config: RunConfig, dataset: DatasetSplits, run: Run | None) -> list[Cells]:
    """Training rows whose label the last report doubts, but for those that were labelled by hand since.

    None where rows have dates: the file would have to say one for them.
    """
    data = config.data
    if run is None or data.date or not run.folder.evaluation.doubtful_labels.is_file():
        return []
    table = dataset.table("train")
    reviewed = Path(data.chosen).name if data.chosen else None
    rows = zip(table["text"].to_pylist(), table["file"].to_pylist(), strict=True)
    places = {cell(text): i for i, (text, file) in enumerate(rows) if file != reviewed}
    found = []
    with open(run.folder.evaluation.doubtful_labels, newline="", encoding="utf-8") as handle:
        for line in csv.DictReader(handle):
            if (place := places.get(line["text"])) is None:
                continue
            (row,) = take_rows(table, [place]).to_pylist()
            cells = {data.text: row["text"], **dict(data.where), **dict(zip(data.slices, row["slices"], strict=True))}
            cells |= {data.text_pair: row["text_pair"]} if data.text_pair else {}
            cells |= {data.group: row["group"]} if data.group else {}
            found.append({**cells, WHY: f"doubtful label {line['label']}: {line['suggested']}?"})
    return found


def _write(target: Path, data: DataConfig, rows: list[Cells]) -> None:
    """Columns: why, the empty label columns, what else the configuration reads, the texts last."""
    texts = [data.text, *([data.text_pair] if data.text_pair else [])]
    others = [column for column in data.columns if column not in (*texts, *data.label_columns)]
    columns = [*([WHY] if WHY not in data.columns else []), *data.label_columns, *others, *texts]
    with replacing(target, is_private=False) as part, open(part, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([cell(column) for column in columns])
        for row in rows:
            values = [row.get(column) if column not in data.label_columns else "" for column in columns]
            writer.writerow(["" if value is None else cell(str(value)) for value in values])


# ---- back


def take_back(config: RunConfig, labelled: Path, home: Path) -> dict[str, Any]:
    """Add the labelled rows of a file to data.chosen; rows without a label, and those that it has, are counted.

    All or nothing. A row whose text, near-copy or group lies in validation or test is left out: its label stays.
    Raises InputError for a label that no class has, for two labels of one text, and without data.chosen.
    """
    data = config.data
    if data.chosen is None:
        raise InputError(
            f"data.chosen: not set; add `chosen: {config.name}.chosen.jsonl` below `data:`: the file in which labelled "
            "rows are kept, and which makes them training rows in every run"
        )
    if not labelled.is_file():
        raise InputError(f"--import {labelled}: no such file")
    target = config.base_dir / data.chosen
    lock = home / "locks" / f"chosen-{hash_json(str(target.resolve()))[:12]}.lock"
    with exclusive(lock, f"an import into {target}", FOREVER):
        dataset = ingest(_without_missing(config), home)
        known = KnownTexts.of(dataset)
        kept = list(_labelled(target, data, dataset)) if target.is_file() else []
        labels = {text: (label, place) for place, label, text, _, _ in kept}
        new, counts = list[Cells](), {"imported": 0, "known": 0, "in_validation_or_test": 0, "without_label": 0}
        for place, label, text, deciding, row in _labelled(labelled, data, dataset):
            if row is None:
                counts["without_label"] += 1
            elif text in labels and labels[text][0] != label:
                raise InputError(
                    f"{place} has another label than {labels[text][1]}, which has the same text: nothing is imported; "
                    "take one of the two out"
                )
            elif text in labels:
                counts["known"] += 1
            elif {text, deciding} & known.held:
                counts["in_validation_or_test"] += 1
            else:
                labels[text] = (label, place)
                new.append(row)
        counts["imported"] = len(new)
        if new:
            before = target.read_text(encoding="utf-8") if target.is_file() else ""
            before += "\n" if before and not before.endswith("\n") else ""  # edited by hand
            with replacing(target, is_private=False) as part:
                lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new)
                part.write_text(before + lines, encoding="utf-8")
    return {"chosen": str(target), "rows": len(kept) + len(new), **counts}


def _labelled(
    file: Path, data: DataConfig, dataset: DatasetSplits
) -> Iterator[tuple[str, Any, bytes, bytes, Cells | None]]:
    """(place, label, digest of the text, of what decides its split, row); the row is None where no label is given.

    Raises InputError for what a run would refuse, naming the rows.
    """
    merge = data.merge_labels == "casefold"
    column = LabelColumn(list(dataset.classes), multi_label=dataset.multi_label, merge=merge)
    checker = RowChecker(data, column)
    for batch in read_batches(file, data, inspect_source(file, data)):
        faults = [f"row {fault.row}: {fault.reason}" for fault in batch.faults]
        for number, name, row in zip(batch.rows, batch.files, list(rows_of(batch)), strict=True):
            cells = {key: _plain(value) for key, value in row.items()}
            place = f"{name}, row {number}"
            if all(str(cells[key] if cells[key] is not None else "").strip() == "" for key in data.label_columns):
                yield place, None, b"", b"", None
                continue
            columns = {key: [value] for key, value in cells.items()}
            checked = checker.check(RowBatch(files=[name], rows=[number], columns=columns, faults=[]))
            if checked.faults or checked.filtered:
                why = checked.faults[0].reason if checked.faults else "data.where or data.until leaves it out"
                faults.append(f"row {number}: {why}")
                continue
            key, group = map(key_digest, row_keys(cells, data))
            yield place, checked.labels[0], key, group, cells
        if faults:
            more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
            raise InputError(
                f"{file}: nothing is imported: {'; '.join(faults[:5])}{more}; classes: {', '.join(dataset.classes)}"
            )


def _plain(value: Any) -> Any:
    """A cell without the apostrophe that `base.cells` put before it."""
    return value[1:] if isinstance(value, str) and value[:1] == "'" and is_formula(value[1:]) else value
