"""MLflow registry: log the served folder and register it, once per run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertft_core.base.addresses import local_path
from bertft_core.base.errors import RegistryError
from bertft_core.base.files import PRIVATE, follow_umask, is_complete
from bertft_core.config.store import Store
from bertft_core.registry import ledger
from bertft_core.registry.aliases import (
    FILES,
    MACHINE,
    MODEL_ID,
    READY,
    RUN_ID,
    RegisteredVersion,
    aliases,
    champion,
    describe,
    ensure_model,
    find,
    require_ready,
    versions,
)
from bertft_core.registry.artifacts import EVIDENCE_FOLDER
from bertft_core.registry.entries import rollback_target
from bertft_core.registry.files import digest
from bertft_core.registry.served_code import MODEL_FILE, copy_served_code
from bertft_core.serving.artifact import ArtifactCard, read_card
from bertft_core.tracking import lineage
from bertft_core.tracking.inputs import model_metrics
from bertft_core.tracking.store import (
    WEIGHTS,
    client,
    ensure_store,
    let_read,
    literal,
    logged_model_location,
    store_lock,
)

# What the served folder imports; mlflow adds itself. Versions are those the model was judged with.
_SERVED_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pandas")
_ONNX_PACKAGES = ("onnxruntime", "tokenizers", "numpy", "pandas")
_BLEND_PACKAGES = ("scikit-learn", "scipy")
_FORBIDDEN = re.compile(r"[/:.%\"']")  # in a logged model's name


def register(
    store: Store,
    run_id: str,
    model_folder: Path | str,
    registered_model: str,
    tags: Mapping[str, str],
    *,
    extra_files: Sequence[Path | str] = (),
) -> RegisteredVersion:
    """Log the artefact `model_folder` under the MLflow run `run_id`; register it once per tag bertft.run_id.

    A version with that tag is returned as it is; a model that was logged but not yet registered (a kill in
    between) is registered without logging it again. `extra_files` travel in the logged model's evidence
    folder. Raises RegistryError when the tag is missing, the folder is damaged, the logged model is not READY,
    or the run's version has other weights than the tag bertft.weights says.
    """
    if not tags.get(RUN_ID):
        raise RegistryError(f"a version needs the tag {RUN_ID}: without it a repeat would register twice")
    experiment = ensure_store(store, writes=True)
    with store_lock(store, timeout_seconds=600):
        known = find_version(store, registered_model, tags[RUN_ID])
        if known is not None:
            _require_same_weights(known, tags)
            require_ready(store, known.model_id)
            return known
        folder = Path(model_folder)
        if not is_complete(folder):
            raise RegistryError(f"{folder} is not a complete artefact: build it again with build_artifact")
        api, query = client(store), f"tags.`{RUN_ID}` = {literal(tags[RUN_ID])}"
        logged = api.search_logged_models([experiment], filter_string=query)
        weights = tags.get(WEIGHTS)  # logged by a process that was killed: of this fit, or of another one of its run
        ready = [str(m.model_id) for m in logged if str(m.status) == READY and m.tags.get(WEIGHTS) == weights]
        marks = {key: str(tags[key]) for key in (RUN_ID, WEIGHTS) if key in tags}
        model_id = (
            ready[0] if ready else _log_model(store, experiment, run_id, folder, registered_model, marks, extra_files)
        )
        require_ready(store, model_id)
        ensure_model(store, registered_model)
        model = api.get_logged_model(model_id)
        # A database registry resolves models:/ids by MLflow's global URI, not by its client's: give the place
        # itself. A tracking server resolves ids in its own store, and refuses file paths.
        if store.registry_uri.startswith(("http://", "https://")):
            source = f"models:/{model_id}"
        else:
            source = str(model.artifact_location)
        marks = {key: str(value) for key, value in tags.items()} | {MODEL_ID: model_id}
        if known_files := model.tags.get(FILES):
            marks[FILES] = known_files
        created = api.create_model_version(
            registered_model,
            source=source,
            run_id=run_id,
            tags=marks,
            model_id=model_id,
            description=f"decisions on it: bertft history {registered_model}",
            await_creation_for=0,  # it is there at once, and MLflow says so at length
        )
        return describe(created, was_found=False)


def _require_same_weights(known: RegisteredVersion, tags: Mapping[str, str]) -> None:
    """Raise RegistryError where a run's version has other weights than the fit that is to be registered as it."""
    theirs, ours = known.tags.get(WEIGHTS), tags.get(WEIGHTS)
    if not theirs or not ours or theirs == ours:
        return
    first, second = (tagged.get(MACHINE) or "machine not known" for tagged in (known.tags, tags))
    raise RegistryError(
        f"run {tags[RUN_ID]} is {known} already, with the weights {theirs[:12]} ({first}); this fit of the same run "
        f"has the weights {ours[:12]} ({second}): one run never stands for two sets of weights, so these are not "
        "registered. `bertft run CONFIG` goes on with the version; `bertft run CONFIG --again` trains a run of its own"
    )


def registered_runs(store: Store, name: str) -> frozenset[str]:
    """The ids of the runs that have a version."""
    return frozenset(v.tags[RUN_ID] for v in versions(store, name) if RUN_ID in v.tags)


def find_version(store: Store, name: str, run_id: str) -> RegisteredVersion | None:
    """The oldest version tagged bertft.run_id = `run_id`, or None."""
    matching = [v for v in versions(store, name) if v.tags.get(RUN_ID) == run_id]
    return matching[0] if matching else None


def artifact_size(store: Store, version: RegisteredVersion) -> int | None:
    """Bytes of a version's artefacts on this machine; None when they lie elsewhere or are gone."""
    location = logged_model_location(store, version.model_id)
    folder = local_path(location) if location else None
    if folder is None:
        return None
    files = [p for p in folder.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)


def delete_version(store: Store, name: str, version: str) -> None:
    """Delete a version with its logged model and artefacts; safe to kill and repeat.

    Raises RegistryError for a version that an alias points at, that a rollback would return to, or whose
    artefacts another version shares.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with store_lock(store):
        registered = find(store, name, version)
        if registered is None:
            return
        if reason := _needed(store, registered):
            raise RegistryError(f"{registered} is not deleted: {reason}")
        api, location = client(store), logged_model_location(store, registered.model_id)
        if location is not None:  # the version goes last: until then a killed removal is found again
            files: Any = get_artifact_repository(location, tracking_uri=store.tracking_uri)
            files.delete_artifacts()
            api.delete_logged_model(registered.model_id)
        api.delete_model_version(name, version)


def _needed(store: Store, version: RegisteredVersion) -> str | None:
    pointing = [alias for alias, target in aliases(store, version.name).items() if target == version.version]
    if pointing:
        return f"alias {pointing[0]} points at it"
    existing = {v.version for v in versions(store, version.name)}
    target = rollback_target(ledger.read(store, version.name), champion(store, version.name), existing)
    if target == version.version:
        return "a rollback would return to it"
    sharing = client(store).search_model_versions(f"tags.`{MODEL_ID}` = {literal(version.model_id)}")
    return "another version shares its artefacts" if len(sharing) > 1 else None


def _log_model(
    store: Store,
    experiment: str,
    mlflow_run: str,
    folder: Path,
    registered_model: str,
    tags: dict[str, str],
    extra_files: Sequence[Path | str],
) -> str:
    """Save locally, upload, mark READY; by explicit client calls, so no global MLflow state is touched.

    Parameters, metrics with their data sets, and origin are those of the run that trained it.
    """
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    api, card = client(store), read_card(folder)
    own: tuple[str, ...] = _SERVED_PACKAGES if card.runtime == "torch" else _ONNX_PACKAGES
    packages = own + (_BLEND_PACKAGES if card.policy.blend else ())
    trained = api.get_run(mlflow_run)
    created = api.create_logged_model(
        experiment,
        name=_FORBIDDEN.sub("-", registered_model),
        source_run_id=mlflow_run,
        tags={key: trained.data.tags[key] for key in lineage.ORIGIN if key in trained.data.tags} | tags,
        params=trained.data.params,
        model_type="classifier",
    )
    model_id = str(created.model_id)
    try:
        with tempfile.TemporaryDirectory(prefix="bertft-model-") as scratch:
            target = Path(scratch) / "model"
            record = Model(
                artifact_path=created.artifact_location, model_uuid=model_id, run_id=mlflow_run, model_id=model_id
            )
            with _without_information():
                mlflow.pyfunc.save_model(
                    str(target),
                    mlflow_model=record,
                    python_model=str(MODEL_FILE),
                    artifacts={"model": str(folder)},
                    code_paths=[str(copy_served_code(Path(scratch)))],
                    # The part after + names a build (2.13.0+cpu) that no index serves under that name.
                    pip_requirements=[
                        f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in packages
                    ],
                    signature=_signature(card.classes),
                    input_example=_example(card),
                )
            (target / EVIDENCE_FOLDER).mkdir()
            for file in extra_files:
                shutil.copyfile(file, target / EVIDENCE_FOLDER / Path(file).name)
            api.set_logged_model_tags(model_id, {FILES: digest(target)})
            follow_umask(target, PRIVATE)  # MLflow copies the modes of our code's files
            api.log_model_artifacts(model_id, str(target))
            let_read(store, created.artifact_location)
        if metrics := model_metrics(trained, model_id):
            api.log_batch(mlflow_run, metrics=metrics)
    except BaseException:
        api.finalize_logged_model(model_id, "FAILED")
        raise
    api.finalize_logged_model(model_id, READY)
    api.log_outputs(mlflow_run, [LoggedModelOutput(model_id, 0)])
    return model_id


@contextlib.contextmanager
def _without_information() -> Iterator[None]:
    """MLflow tells on stderr of each model that it saves that it looks at its example."""
    logger = logging.getLogger("mlflow.pyfunc")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _example(card: ArtifactCard) -> Any:
    """A call of the model as a frame. The text is nobody's: a served artefact holds no row that it was trained on."""
    import pandas as pd

    row = {"text": "A text to classify."}
    return pd.DataFrame([row | ({"text_pair": "What it is read beside."} if card.text_pair else {})])


def _signature(classes: tuple[str, ...]) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    inputs = Schema([ColSpec("string", "text"), ColSpec("string", "text_pair", required=False)])
    probabilities = (ColSpec("double", f"probability_{name}") for name in classes)
    answer = [ColSpec("string", "label"), ColSpec("double", "confidence"), ColSpec("boolean", "abstain")]
    outputs = Schema([*answer, *probabilities])
    params = ParamSchema([ParamSpec("batch_size", "long", 0)])  # 0 = the artefact's token budget
    return ModelSignature(inputs=inputs, outputs=outputs, params=params)
