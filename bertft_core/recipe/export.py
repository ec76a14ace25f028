"""A registered version once more in a cheaper form: the same answers from an ONNX file, as a version of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bertft_core.base.errors import InputError
from bertft_core.base.files import staged_folder, write_json
from bertft_core.base.hashes import hash_file, hash_json
from bertft_core.config.store import Store
from bertft_core.recipe.cheaper import origin, side_by_side
from bertft_core.recipe.release import candidate_of_version
from bertft_core.registry import aliases, artifacts
from bertft_core.registry.aliases import RegisteredVersion
from bertft_core.registry.evaluation_folder import EVIDENCE, TRAIN_ROWS
from bertft_core.registry.versions import find_version, register
from bertft_core.serving.artifact import CARD, ONNX_FILE, read_card
from bertft_core.tracking import store as tracking

_SHARED_TAGS = (aliases.MACHINE, "bertft.test_rows", "bertft.rows", "bertft.git_commit")  # true of both forms


def export(
    store: Store, name: str, version: str | None, *, int8: bool, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Register the ONNX form of a version (None: the champion), once, and measure it beside the version itself.

    Nothing is promoted: the gate judges it when it is asked, by non-inferiority (`registry.gate.Candidate.rule`).
    int8: weights of 8 bits. Raises InputError where the version is no torch model with a stock head, was rolled back,
    or the libraries are missing.
    """
    parent = origin(store, name, version, "export")
    runtime = "onnx-int8" if int8 else "onnx"
    made = find_version(store, name, _run_id(parent, runtime))
    if made is None:
        say(f"exporting {parent}")
        made = _registered(store, parent, runtime)
    say(f"answering the test rows with {parent} and {made}")
    old, new = (candidate_of_version(name, one, store, Path(store.home)) for one in (parent.version, made.version))
    return side_by_side(store, parent, made, old, new)


def _run_id(parent: RegisteredVersion, runtime: str) -> str:
    """What stands for the run of an export; one a version and form."""
    return f"{parent.tags.get(aliases.RUN_ID, parent.model_id)}-{parent.version}-{runtime}"


def _registered(store: Store, parent: RegisteredVersion, runtime: str) -> RegisteredVersion:
    """Export, log and register; a kill in between leaves nothing that the same command does not finish."""
    from bertft_core.serving.onnx_export import export_onnx

    name, version = parent.name, parent.version
    source = artifacts.resolve_model(store, parent.model_uri).folder
    card = read_card(source)
    if card.runtime != "torch":
        raise InputError(f"{parent} answers by {card.runtime} already: export the version that it was made of")
    evidence = artifacts.read_evidence(store, name, version)
    with tempfile.TemporaryDirectory(dir=store.home, prefix=artifacts.SCRATCH) as scratch:
        folder, run_id = Path(scratch) / "served", _run_id(parent, runtime)
        with staged_folder(folder) as staging:
            for file in source.iterdir():
                if file.is_file() and not (file.name.startswith("model") or file.name in (CARD, "manifest.json")):
                    shutil.copyfile(file, staging / file.name)
            export_onnx(source, staging / ONNX_FILE, int8=runtime == "onnx-int8")
            write_json(staging / CARD, replace(card, runtime=runtime).to_json())
        blend = evidence["weights"] if card.policy.blend else ""
        weights = hash_json([hash_file(folder / ONNX_FILE), blend])
        evidence |= {"weights": weights, "parent": version}
        evidence["folder"] = str(Path(evidence["folder"]).parents[1] / run_id / "evaluation")
        evidence["size_mb"] = _megabytes(folder)
        write_json(Path(scratch) / EVIDENCE, evidence)
        train = artifacts.download_evidence(store, name, version, TRAIN_ROWS)
        tags = {key: parent.tags[key] for key in _SHARED_TAGS if key in parent.tags}
        tags |= {aliases.RUN_ID: run_id, tracking.WEIGHTS: weights, aliases.PARENT: version}
        run = tracking.find_or_create_run(store, run_id, "export", parent.run_id or None, f"{name} {runtime}")
        made = register(store, run, folder, name, tags, extra_files=[Path(scratch) / EVIDENCE, train])
        tracking.finish_run(store, run)
    return made


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6
