"""What tonight's texts say before anything is trained: drift from the last training's, the champion on new rows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bertft_core.base.errors import ArtifactError, InputError
from bertft_core.base.files import load_array, load_arrays, save_arrays
from bertft_core.base.hashes import hash_json
from bertft_core.config.run import RunConfig
from bertft_core.config.store import Store
from bertft_core.data.dataset import fingerprints_of, take_rows
from bertft_core.data.splits import SPLITS
from bertft_core.evaluation.drift.domain_shift import domain_shift
from bertft_core.evaluation.drift.label_shift import LabelShift
from bertft_core.evaluation.drift.report import DriftReport
from bertft_core.evaluation.drift.text_figures import text_figures
from bertft_core.evaluation.scores.intervals import share_interval
from bertft_core.evaluation.scores.labels import labels_of
from bertft_core.recipe.nights.rows import Rows
from bertft_core.recipe.nights.triggers import NewRowsScore
from bertft_core.recipe.prepare import Prepared, at_hand
from bertft_core.recipe.process.client import Trainer
from bertft_core.registry import aliases, artifacts
from bertft_core.registry.answers import Answers, score_in_fresh_process
from bertft_core.registry.evaluation_folder import EvaluationFolder
from bertft_core.training.spec import MachineSettings

MOST_ROWS = 1_000  # on either side of a comparison: features cost an encoder pass a row
_TRAIN = SPLITS.index("train")


def measure_drift(
    config: RunConfig, prepared: Prepared, last: Path, label: LabelShift, home: Path
) -> DriftReport | None:
    """How the new training texts differ from those of the last training, by the pretrained encoder and by their words.

    last: folder of the last training's run. At most 1,000 rows a side, smallest hash first: from night to night the
    same ones, whose features are kept. None where one of the sides has no row.
    """
    before, now = Rows.require(last), Rows.of(prepared.dataset)
    is_known, in_train = now.is_in(before), now.splits == _TRAIN
    sides = [now.hashes[in_train & known][:MOST_ROWS] for known in (is_known, ~is_known)]
    if not (len(sides[0]) and len(sides[1])):
        return None
    features = _features(config, prepared, np.concatenate(sides), home)
    old, new = features[: len(sides[0])], features[len(sides[0]) :]
    texts = (prepared.dataset.joined_texts("train").at(_places(prepared, side)) for side in sides)
    return DriftReport(label=label, domain=domain_shift(old, new, seed=config.training.seed), text=text_figures(*texts))


def _places(prepared: Prepared, hashes: Any) -> list[int]:
    """Where these rows lie in the training split."""
    fingerprints = fingerprints_of(prepared.dataset.table("train")).view("S16").reshape(-1)
    order = np.argsort(fingerprints, kind="stable")
    places: list[int] = order[np.searchsorted(fingerprints, hashes, sorter=order)].tolist()
    return places


def _features(config: RunConfig, prepared: Prepared, hashes: Any, home: Path) -> Any:
    """[n, H] of training rows by the hash of their text; what is not in the store is computed and added."""
    manner = hash_json([prepared.encoder, config.tokenization.model_dump()])[:16]
    file = home / "features" / f"{config.name}-{manner}.npz"
    stored = load_arrays(file, "hashes", "values") or {"hashes": np.array([], dtype="S16"), "values": ()}
    known = dict(zip(stored["hashes"].tolist(), stored["values"], strict=True))
    missing = [h for h in hashes.tolist() if h not in known]
    if not missing:
        return np.stack([known[h] for h in hashes.tolist()])
    with tempfile.TemporaryDirectory(dir=home, prefix=artifacts.SCRATCH) as folder, Trainer() as trainer:
        # 0: as many threads as torch takes by itself
        machine = MachineSettings(precision="float32", device="cpu", threads=config.training.threads or 0)
        rows = (
            prepared.pretrained,
            at_hand(config, prepared, home).tokens.path,
            "train",
            Path(folder) / "features.npy",
        )
        computed = np.load(trainer.features(*rows, machine, places=_places(prepared, missing)), allow_pickle=False)
    known |= dict(zip(missing, computed, strict=True))
    values = np.stack([known[h] for h in hashes.tolist()])
    save_arrays(file, hashes=hashes, values=values)
    return values


def champion_on_new(config: RunConfig, prepared: Prepared, last: Path, store: Store, home: Path) -> NewRowsScore | None:
    """Today's champion on rows that came after the last training (its run's folder), none of them test rows.

    None where there is no champion that answers; the release says then what is wrong with it.
    """
    import pandas as pd

    name = store.config.model_name(config.name)
    version = aliases.champion(store, name)
    if version is None:
        return None
    before, now = Rows.require(last), Rows.of(prepared.dataset)
    texts, labels, groups = _new_rows(prepared, now.hashes[~now.is_in(before)])
    if not texts["text"]:
        return None
    with tempfile.TemporaryDirectory(dir=home, prefix=artifacts.SCRATCH) as scratch:
        folder = Path(scratch)
        pd.DataFrame({k: v for k, v in texts.items() if v}).to_parquet(folder / "rows.parquet")
        try:
            found = score_in_fresh_process(
                f"models:/{name}/{version}", folder / "rows.parquet", folder / "answers.npz", 0, store
            )
        except (ArtifactError, InputError):
            return None
        answers = found.labels()
    is_right = answers == np.array(labels, dtype=object)
    trained_on = artifacts.trained_on(store, name, version)
    on_test = champion_on_test(EvaluationFolder(last / "evaluation"), version, trained_on)
    return NewRowsScore(
        right=int(is_right.sum()),
        rows=len(labels),
        high=share_interval(is_right, groups)[1],
        test_accuracy=None if on_test is None else on_test[0],
        test_low=None if on_test is None else on_test[1],
    )


def champion_on_test(folder: EvaluationFolder, version: str, trained_on: Any) -> tuple[float, float] | None:
    """Accuracy of a version on the test rows of the last training, and the lower end of its 95 % interval.

    From the answers that it gave to the gate then, be it as candidate or as champion, without the rows that it was
    trained on (trained_on: their fingerprints, uint64; None where nobody knows); None where there is none left.
    """
    answers = Answers.known(folder.answers(version))
    if answers is None:
        return None
    classes = artifacts.evidence_in(folder.evidence)["classes"]
    if set(answers.classes) != set(classes):
        return None
    rows = load_array(folder.test_fingerprints)
    unseen = ~np.isin(rows, np.zeros(0, np.uint64) if trained_on is None else trained_on)
    if not unseen.any():
        return None
    groups = load_array(folder.groups)[unseen] if folder.groups.exists() else None
    labels = labels_of(load_array(folder.labels)[unseen], classes, groups=groups)
    said = labels.predictions(answers.probabilities(classes)[unseen], answers.predicted(classes)[unseen])
    is_right = labels.is_right(said)
    return float(is_right.mean()), share_interval(is_right, labels.groups)[0]


def _new_rows(prepared: Prepared, hashes: Any) -> tuple[dict[str, list[str]], list[str], Any]:
    """Texts, labels and groups (None where there are none) of the rows with these hashes, at most 1,000 a split."""
    wanted = set(hashes.tolist())
    texts: dict[str, list[str]] = {"text": [], "text_pair": []}
    labels: list[str] = []
    groups: list[Any] = []
    for split in ("train", "validation"):
        table = prepared.dataset.table(split)
        places = [i for i, h in enumerate(table["fingerprint"].to_pylist()) if h.rstrip(b"\0") in wanted][:MOST_ROWS]
        part = take_rows(table, places)
        texts["text"] += part["text"].to_pylist()
        if prepared.dataset.has_pair:
            texts["text_pair"] += part["text_pair"].to_pylist()
        labels += prepared.dataset.label_texts(part)
        own = prepared.dataset.groups(split)  # codes of this split: no group has rows in two
        groups += [(split, int(own[i])) for i in places] if own is not None else []
    codes = {group: code for code, group in enumerate(dict.fromkeys(groups))}
    return texts, labels, np.array([codes[group] for group in groups]) if len(groups) == len(labels) else None
