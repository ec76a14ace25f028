"""MLflow runs: one store, one run per (run_key, role, slot), logging that may be repeated."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertft_core.base.addresses import local_path, sqlite_file
from bertft_core.base.display import masked
from bertft_core.base.errors import ArtifactError, ConfigError, InputError, RegistryError, fault_text
from bertft_core.base.files import follow_umask, make_private, mark_used, users_umask
from bertft_core.base.locks import STORE_LOCK, exclusive
from bertft_core.base.postgres import advisory_lock, is_postgres
from bertft_core.config.store import PLACE, MlflowConfig, Store
from bertft_core.tracking import lineage, moved
from bertft_core.tracking.databases import DatabaseClient, require_sound_store

_LOGGER = logging.getLogger(__name__)
_THREAD = threading.local()
RUN_KEY = "bertft.run_key"
ROLE = "bertft.role"
WEIGHTS = "bertft.weights"  # digest of the weights that a final fit, or a version, stands for
SLOT = "bertft.slot"
NAME = "bertft.name"  # a tag of every run: the configuration's name
NOTE = "mlflow.note.content"  # what MLflow shows as a run's description
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # else MLflow 3 opens it at traces of agents
HIDDEN = "mlflow."  # how the keys of tags begin that MLflow's pages do not show: records that code reads, as JSON
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # of each ended run, with the password
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # of each file that is fetched
}
_PARENT = "mlflow.parentRunId"
_BATCH = 1000  # entries one log_batch takes (MLflow's limit for metrics)
_PARAM_BATCH = 100  # MLflow's limit for parameters and tags
_PARAM_LENGTH = 6000  # MLflow's limit for a parameter's value, characters


@dataclass(frozen=True, kw_only=True)
class MetricPoint:
    """One measured value. step: optimizer steps (or an epoch, or a slot), >= 0. value: may be nan."""

    key: str
    value: float
    step: int = 0


def client(store: Store) -> Any:
    """An MlflowClient for `store` (see `DatabaseClient`); MLflow's telemetry and its prints are switched off first."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    return DatabaseClient(store)


def open_store(config: MlflowConfig, home: Path | str) -> Store:
    """The store of a configuration, made where missing. Raises as `ensure_store` does."""
    store = config.store(home)
    ensure_store(store)
    return store


def ensure_store(store: Store, *, writes: bool = False) -> str:
    """Create the database and the experiment where missing; return the experiment's id.

    "" where each configuration has an experiment of its own and the store is opened for none of them.
    Safe to call from several processes at once (MLflow alone is not on a fresh database, sqlite or PostgreSQL).
    writes: artefacts are to be written. Raises ConfigError when the experiment was deleted, or would write them
    elsewhere than into artifact_root (a home that was moved takes its own along, see `moved`); RegistryError or
    StorageError when the store does not answer.
    """
    with store_lock(store), mlflow_faults(store):
        for uri in (store.tracking_uri, store.registry_uri):
            if (file := sqlite_file(uri)) is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                make_private(file)
        require_sound_store(store)
        root = local_path(store.artifact_root) if store.artifact_root else None
        if root is not None and not root.exists():
            root.mkdir(parents=True)
            let_read(store, root)
        if PLACE in store.experiment:
            client(store).search_experiments(max_results=1)  # MLflow makes its tables
            return ""
        experiment = _find_or_create_experiment(store)
        if experiment.lifecycle_stage == "deleted":
            raise ConfigError(f"experiment {store.experiment!r} was deleted in {store}: restore or rename it")
        location = str(experiment.artifact_location)
        root_uri = store.artifact_root or ""
        places = (root_uri, f"{root_uri}/{experiment.experiment_id}")  # the second where a server made the experiment
        is_elsewhere = bool(root_uri) and not any(moved.is_same_place(location, place) for place in places)
        if is_elsewhere and not moved.take_along(store, location) and writes:
            raise ConfigError(
                f"artifact_root: experiment {store.experiment!r} keeps its artefacts in "
                f"{masked(location)}, mlflow.yaml says {masked(store.artifact_root or '')}: set artifact_root to "
                "the first, move the files there and run the command again while no other one is at work in this "
                "home, or choose another experiment"
            )
    return str(experiment.experiment_id)


@contextlib.contextmanager
def mlflow_faults(store: Store) -> Iterator[None]:
    """MLflow's own exceptions as RegistryError, naming the store; a server that refuses is told with what it wants."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as fault:
        if (status := fault.get_http_status_code()) in (401, 403):  # type: ignore[no-untyped-call]
            raise RegistryError(
                f"{store}: the server refuses this account ({status}): set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to one that may read and write there"
            ) from fault
        raise RegistryError(f"{store}: {fault}") from fault


def all_pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """Every item of a paged search; `search` takes the token of a page, None for the first."""
    token: str | None = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


def literal(text: str) -> str:
    """A value as MLflow's filters read it. They know no escape: a text with both kinds of quotes raises InputError.

    >>> print(literal("it's"))
    "it's"
    """
    quote = next((q for q in ("'", '"') if q not in text), None)
    if quote is None or any(ord(sign) < 32 for sign in text):
        raise InputError(f"{text!r} is no name that MLflow can look up: it holds both quotes, or control signs")
    return f"{quote}{text}{quote}"


def find_or_create_run(
    store: Store,
    run_key: str,
    role: str,
    parent_id: str | None = None,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
    slot: int | None = None,
    started: float | None = None,
) -> str:
    """The id of the run tagged (run_key, role, slot); made when missing, running again when it failed.

    The oldest match wins, so that a second call after a kill continues the first one's run. A finished run
    stays so. started: seconds since 1970, of what began before its run is made; None: now. What of a slot started at
    another time, or has other weights (the tag WEIGHTS), is something else, such as a trial of a study that was lost:
    it has a run of its own, and that one stays as it is. A new run also says who made it, and by what.
    """
    marks = {RUN_KEY: run_key, ROLE: role}
    if slot is not None:
        marks[SLOT] = str(slot)
    if tags and WEIGHTS in tags:
        marks[WEIGHTS] = tags[WEIGHTS]
    if parent_id is not None:  # of a run that goes on below another one too
        tags = {**(tags or {}), _PARENT: parent_id}
    experiment = ensure_store(store, writes=True)
    api = client(store)
    query = " and ".join(f"tags.`{key}` = {literal(value)}" for key, value in marks.items())
    if slot is not None and started is not None:
        query += f" and attributes.start_time = {milliseconds(started)}"
    with store_lock(store):
        for run in api.search_runs([experiment], query, order_by=["attributes.start_time ASC"], max_results=1):
            run_id = str(run.info.run_id)
            if run.info.status in {"FAILED", "KILLED"}:
                api.update_run(run_id, status="RUNNING")
            if tags:
                set_tags(store, run_id, tags)
            return run_id
        begun = None if started is None else milliseconds(started)
        made = api.create_run(experiment, begun, {**lineage.origin_tags(), **(tags or {}), **marks}, name)
        return str(made.info.run_id)


def ended_slots(store: Store, run_key: str, role: str) -> set[tuple[int, int]]:
    """Slot and start (milliseconds since 1970) of each run (run_key, role, slot) that has ended, well or not."""
    experiment, api = ensure_store(store), client(store)
    query = f"tags.`{RUN_KEY}` = {literal(run_key)} and tags.`{ROLE}` = {literal(role)}"
    query += " and attributes.status != 'RUNNING'"
    with mlflow_faults(store):
        runs = all_pages(lambda token: api.search_runs([experiment], query, max_results=_BATCH, page_token=token))
        return {(int(run.data.tags[SLOT]), int(run.info.start_time)) for run in runs}


def run_tags(store: Store, run_id: str) -> dict[str, str]:
    """The tags of a run."""
    return dict(client(store).get_run(run_id).data.tags)


def log_params(store: Store, run_id: str, params: Mapping[str, Any]) -> None:
    """Log parameters once; repeating equal ones does nothing.

    Raises RegistryError when one is already logged with another value (MLflow's parameters cannot change).
    """
    from mlflow.entities import Param

    api = client(store)
    known = api.get_run(run_id).data.params
    texts = {
        key: (value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str))[:_PARAM_LENGTH]
        for key, value in params.items()
    }
    changed = [f"{k} ({known[k]} -> {v})" for k, v in texts.items() if k in known and known[k] != v]
    if changed:
        raise RegistryError(f"run {run_id} already holds other values of {', '.join(changed)}")
    fresh = [Param(k, v) for k, v in texts.items() if k not in known]
    for batch in _batches(fresh, _PARAM_BATCH):
        api.log_batch(run_id, params=batch)


def log_metrics(store: Store, run_id: str, points: Mapping[str, float | None] | Sequence[MetricPoint]) -> None:
    """Log points (a mapping: at step 0) in batches; undefined (None) and infinite values are left out.

    A (key, step) that the run already holds with this value is skipped, so that resuming doubles nothing; of two
    values the later one counts.
    """
    from mlflow.entities import Metric

    if isinstance(points, Mapping):
        points = [MetricPoint(key=k, value=v) for k, v in points.items() if v is not None]
    by_key: dict[str, dict[int, float]] = defaultdict(dict)
    for point in points:
        by_key[point.key][point.step] = point.value
    api = client(store)
    known = set(api.get_run(run_id).data.metrics) & set(by_key)
    history = sorted((m for key in known for m in api.get_metric_history(run_id, key)), key=lambda m: m.timestamp)
    stored = {(m.key, m.step): m.value for m in history}
    now = int(time.time() * 1000)
    fresh = []
    for key, steps in by_key.items():
        for step, value in steps.items():
            logged = stored.get((key, step))
            is_same = logged == value or (logged is not None and math.isnan(logged) and math.isnan(value))
            if not math.isinf(value) and not is_same:
                fresh.append(Metric(key, float(value), now, step))
    for batch in _batches(fresh, _BATCH):
        api.log_batch(run_id, metrics=batch)


def log_history(store: Store, run_id: str, history: Sequence[Mapping[str, Any]]) -> None:
    """Log epochs (mappings with `step` and numbers) as metric curves over optimizer steps."""
    log_metrics(store, run_id, history_points(history))


def history_points(history: Sequence[Mapping[str, Any]]) -> list[MetricPoint]:
    """The points of `log_history`."""
    renamed = {"seconds": "epoch_seconds"}  # a run's own `seconds` is the whole fit
    renamed |= {name: f"validation_{name}" for name in ("accuracy", "macro_f1", "micro_f1")}
    return [
        MetricPoint(key=renamed.get(key, key), value=float(value), step=int(epoch["step"]))
        for epoch in history
        for key, value in epoch.items()
        if key != "step" and isinstance(value, int | float)
    ]


def set_tags(store: Store, run_id: str, tags: Mapping[str, str]) -> None:
    """Set (or replace) tags of a run."""
    from mlflow.entities import RunTag

    pairs = [RunTag(key, str(value)) for key, value in tags.items()]
    api = client(store)
    for batch in _batches(pairs, _PARAM_BATCH):
        api.log_batch(run_id, tags=batch)


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    yield from (items[start : start + size] for start in range(0, len(items), size))


def log_files(store: Store, run_id: str, paths: Sequence[Path | str], folder: str = "") -> None:
    """Copy files (a directory: all below it) to the run's artefacts, below `folder`."""
    api = client(store)
    for path in paths:
        if Path(path).is_dir():
            api.log_artifacts(run_id, str(path), folder or None)
        else:
            api.log_artifact(run_id, str(path), folder or None)
    if store.artifact_root is not None:  # else a server decides where they lie
        let_read(store, str(api.get_run(run_id).info.artifact_uri))


def download_files(store: Store, model_id: str, path: str, folder: Path | str) -> Path:
    """Download `path` of a logged model below `folder`. Raises ArtifactError when it is not there."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    Path(folder).mkdir(parents=True, exist_ok=True)
    mark_used(folder)
    location = logged_model_location(store, model_id)
    if location is None:
        raise ArtifactError(f"logged model {model_id} is gone from {store}")
    try:
        uri = f"{location}/{path}"
        return Path(download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=store.tracking_uri))
    except (OSError, MlflowException) as fault:
        raise ArtifactError(f"{masked(location)}/{path} cannot be downloaded: {fault}") from fault


def download_run_files(store: Store, run_id: str, path: str, folder: Path | str) -> Path:
    """Download `path` of a run's artefacts below `folder`. Raises ArtifactError when it is not there."""
    from mlflow.exceptions import MlflowException

    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        return Path(client(store).download_artifacts(run_id, path, str(folder)))
    except (OSError, MlflowException) as fault:
        raise ArtifactError(f"{path} of run {run_id} cannot be downloaded: {fault_text(fault)}") from fault


def find_runs(store: Store, tags: Mapping[str, str], since: float = 0.0) -> list[Any]:
    """MLflow's runs with these tags that started at `since` (seconds since 1970) or later, the oldest first."""
    experiment, api = ensure_store(store), client(store)
    query = " and ".join(f"tags.`{key}` = {literal(value)}" for key, value in tags.items())
    query += f" and attributes.start_time >= {milliseconds(since)}"
    how: dict[str, Any] = {"max_results": _BATCH, "order_by": ["attributes.start_time ASC"]}
    with mlflow_faults(store):
        return list(all_pages(lambda token: api.search_runs([experiment], query, page_token=token, **how)))


def list_files(store: Store, model_id: str, folder: str) -> list[str]:
    """Paths of a logged model's files in `folder` and one level below it; none when nothing is there."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    location = logged_model_location(store, model_id)
    if location is None:
        raise ArtifactError(f"logged model {model_id} is gone from {store}")
    try:
        files: Any = get_artifact_repository(location, tracking_uri=store.tracking_uri)
        listed = files.list_artifacts(folder)
        below = [f for entry in listed if entry.is_dir for f in files.list_artifacts(entry.path)]
    except (OSError, MlflowException) as fault:
        raise ArtifactError(f"the files of logged model {model_id} cannot be listed: {fault}") from fault
    return [str(f.path) for f in [*listed, *below] if not f.is_dir]


def log_text(store: Store, run_id: str, text: str, file: str) -> None:
    """Write `text` as an artefact of the run. A store that refuses it gets a warning: it is a copy of tags."""
    from mlflow.exceptions import MlflowException

    try:
        client(store).log_text(run_id, text, file)
    except (MlflowException, OSError) as fault:
        _LOGGER.warning("%s of run %s was not written: %s", file, run_id, fault_text(fault))


def logged_model_status(store: Store, model_id: str) -> str:
    """READY, FAILED, PENDING, or GONE when there is no such logged model."""
    model = _logged_model(store, model_id)
    return "GONE" if model is None else str(model.status)


def logged_model_location(store: Store, model_id: str) -> str | None:
    """Where a logged model's files lie; None when there is no such logged model."""
    model = _logged_model(store, model_id)
    if model is None:
        return None
    location = str(model.artifact_location).rstrip("/")
    folder = moved.local_folder(location)
    if store.artifact_root is None or folder is None or folder.exists():
        return location
    former = client(store).get_experiment(model.experiment_id).artifact_location
    return moved.found_again(store, location, str(former))


def _logged_model(store: Store, model_id: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client(store).get_logged_model(model_id)
    except MlflowException as fault:
        if fault.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise RegistryError(f"{store}: {fault}") from fault
        return None


def run_status(store: Store, run_id: str) -> str:
    """RUNNING, FINISHED, FAILED or KILLED."""
    return str(client(store).get_run(run_id).info.status)


def finish_run(
    store: Store, run_id: str, *, failed: bool = False, killed: bool = False, ended: float | None = None
) -> None:
    """End a run as FINISHED, FAILED or KILLED. ended: seconds since 1970; None: now."""
    moment = None if ended is None else milliseconds(ended)
    client(store).set_terminated(run_id, "KILLED" if killed else "FAILED" if failed else "FINISHED", moment)


def end_killed(store: Store, run: Any) -> float:
    """End as KILLED a run that its process left, and what runs below it, when the last of them is known to have ended.

    Returns that moment, in seconds since 1970. Runs below a child are those of its run key.
    """
    experiment, api = ensure_store(store), client(store)

    def below(key: str, value: str) -> list[Any]:
        query = f"tags.`{key}` = {literal(value)}"
        return list(all_pages(lambda token: api.search_runs([experiment], query, max_results=_BATCH, page_token=token)))

    left = [run]
    for key in {child.data.tags.get(RUN_KEY, "") for child in below(_PARENT, str(run.info.run_id))} - {""}:
        left += below(RUN_KEY, key)
    last = max(one.info.end_time or one.info.start_time for one in left)
    for one in left:
        if one.info.status == "RUNNING":
            api.set_terminated(one.info.run_id, "KILLED", last)
    return float(last) / 1000


def milliseconds(seconds: float) -> int:
    """A time as MLflow keeps it."""
    return round(1000 * seconds)


def _is_read_only(folder: Path) -> bool:
    """Whether a folder is there, on a disk that nobody can write to."""
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False


@contextlib.contextmanager
def store_lock(store: Store, timeout_seconds: float = 120.0) -> Iterator[None]:
    """Hold the lock on the store; a thread that has it already goes on.

    With PostgreSQL it lies on the server and excludes other machines, which share no file; else it is this
    machine's. Raises BusyError when it is not free within `timeout_seconds`, StorageError when the server does
    not answer.
    """
    database = next((uri for uri in (store.tracking_uri, store.registry_uri) if is_postgres(uri)), None)
    path = Path(store.home) / STORE_LOCK
    key = database or str(path)
    held: set[str] = _THREAD.__dict__.setdefault("held", set())  # lock files and databases this thread has locked
    if key in held:
        yield
        return
    what = f"an update of {store}"
    if database is None and _is_read_only(path.parent):  # nobody updates anything there, and no lock can be written
        yield
        return
    if database is None:
        lock = exclusive(path, what, timeout_seconds)
    else:
        lock = advisory_lock(database, "bertft.mlflow", what, timeout_seconds)
    with lock:
        held.add(key)
        try:
            yield
        finally:
            held.discard(key)


def _find_or_create_experiment(store: Store) -> Any:
    from mlflow.exceptions import MlflowException

    api = client(store)
    experiment = api.get_experiment_by_name(store.experiment)
    if experiment is not None:
        return experiment
    try:
        return api.get_experiment(api.create_experiment(store.experiment, store.artifact_root, EXPERIMENT_TAGS))
    except MlflowException as fault:  # another machine was first
        if fault.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return api.get_experiment_by_name(store.experiment)


def let_read(store: Store, location: str | Path) -> None:
    """Artefacts on this machine but outside the home follow the user's umask, as whoever serves them reads them there.

    location: the folder of a run's or a logged model's artefacts; the folders that MLflow made above it count.
    """
    folder = local_path(str(location))
    if folder is None or folder.resolve().is_relative_to(store.home) or not folder.exists():
        return
    follow_umask(folder, users_umask())
    for parent in (
        folder.parents[: 2 if folder.parent.parent.name == "models" else 1] if folder.name == "artifacts" else ()
    ):
        with contextlib.suppress(PermissionError):  # another user's, who made it first
            parent.chmod(0o777 & ~users_umask())
