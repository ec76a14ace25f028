"""Trials whose owner has ended, in a study database that nobody searches in: who holds them, and how they get free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from bertft_core.base.addresses import sqlite_url
from bertft_core.base.sqlite_files import open_to_read
from bertft_core.search.lease import Owner, Watch
from bertft_core.search.storage import StudyStorage


@dataclass(frozen=True, kw_only=True)
class AbandonedTrials:
    """Trials of one study that are running by the storage, and whose owner on this machine has ended.

    slots: their numbers in the search; owners: "process PID on HOST" of each.
    """

    study: str
    slots: tuple[int, ...]
    owners: tuple[str, ...]


def find_abandoned(file: Path) -> list[AbandonedTrials]:
    """What a study database (sqlite) holds of them; the file is opened for reading alone.

    An owner on another machine, or before this one was started anew, cannot be asked for: the next search watches its
    lease. Raises what sqlite and Optuna raise for a file that is no study database.
    """
    found = []
    with _reading(file) as storage:
        for study in storage.get_all_studies():
            trials = _abandoned(storage, study._study_id)
            if trials:
                leases = [trial.user_attrs["lease"] for trial in trials]
                owners = dict.fromkeys(f"process {lease['pid']} on {lease['host']}" for lease in leases)
                slots = tuple(int(trial.user_attrs["slot"]) for trial in trials)
                found.append(AbandonedTrials(study=study.study_name, slots=slots, owners=tuple(owners)))
    return found


def free(storage: StudyStorage, study: str) -> int:
    """Give the abandoned trials of a study free, so that the next search goes on with them; how many they were."""

    def release() -> int:
        with storage.lock(study):
            trials = _abandoned(storage.optuna, storage.optuna.get_study_id_from_name(study))
            for trial in trials:
                lease = {**trial.user_attrs["lease"], "released": True}
                storage.optuna.set_trial_user_attr(trial._trial_id, "lease", lease)
            return len(trials)

    return storage.call(release)


def _abandoned(storage: BaseStorage, study: int) -> list[FrozenTrial]:
    watch = Watch(Owner())
    running = storage.get_all_trials(study, deepcopy=False, states=(TrialState.RUNNING,))
    leased = [(trial, lease) for trial in running if (lease := trial.user_attrs.get("lease"))]
    return [t for t, lease in leased if not lease.get("released") and not watch.is_held(t.number, lease)]


@contextmanager
def _reading(file: Path) -> Iterator[RDBStorage]:
    url = sqlite_url(file).replace("{", "{{").replace("}", "}}")  # RDBStorage takes its URL for a template
    storage = RDBStorage(url, engine_kwargs={"creator": lambda: open_to_read(file, 30.0)})
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()
