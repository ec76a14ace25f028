"""Run identity: which run a configuration on these rows is, whether it finished, and where its files lie."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertft_core.base.errors import DamagedFile, InputError
from bertft_core.base.files import write_json
from bertft_core.base.hashes import code_fingerprint, hash_json
from bertft_core.base.locks import FOREVER, exclusive
from bertft_core.base.records import parse_record, set_aside
from bertft_core.config.run import RunConfig
from bertft_core.evaluation.policy.decisions import DecisionPolicy
from bertft_core.recipe.prepare import Prepared
from bertft_core.registry.evaluation_folder import EvaluationFolder
from bertft_core.training.results import TrainingResult
from bertft_core.training.spec import MachineSettings


class RunFolder:
    """The files of a run, BERTFT_HOME/runs/<run id>: who writes each, who reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "run.json"  # what the run remembers: `Run.update` writes it, `Run.state` reads it
        self.lock = path / ".lock"  # held by `Run.update` while it writes
        self.config = path / "config.json"  # resolved: mlflow_tree writes it and logs it to MLflow
        self.environment = path / "environment.txt"  # packages and machine: as config.json
        self.result = path / "result.json"  # the result document: as config.json, once the run is finished
        self.fit = path / "fit"  # the final fit: training/loop writes model, history and, until the end, a checkpoint
        self.checkpoint = self.fit / "checkpoint.safetensors"  # of an unfinished fit; `bertft gc` removes it afterwards
        self.served = path / "served"  # the artefact that is registered: review builds and explains it
        self.search = path / "search"  # search.html and its pictures: search_report writes them
        self.evaluation = EvaluationFolder(path / "evaluation")  # who writes and who reads: there
        self.rows = path / "rows.npz"  # which rows were trained on: a night writes it, the next one reads it


@dataclass(frozen=True, kw_only=True)
class _RunState:
    """The keys of run.json that are read back, each once its stage is done; a later bertft may keep others beside."""

    settings: MachineSettings | None = None
    study: str | None = None
    chosen: dict[str, Any] | None = None
    fit: TrainingResult | None = None
    fitted: dict[str, dict[str, Any]] | None = None
    gain: dict[str, Any] | None = None
    policy: dict[str, Any] | None = None
    result: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One attempt at a run_key. `run_id` is the key, with -2, -3 … for each `--again`."""

    run_key: str
    run_id: str
    directory: str
    attempt: int

    @property
    def path(self) -> Path:
        """The run's folder."""
        return Path(self.directory)

    @property
    def folder(self) -> RunFolder:
        """The run's files by name."""
        return RunFolder(self.path)

    def state(self) -> dict[str, Any]:
        """What is stored of this run: settings, result once finished. Raises DamagedFile."""
        try:
            text = self.folder.state.read_bytes()
        except FileNotFoundError:
            return {}
        remedy = (
            "the same command, or `bertft doctor --repair`, moves it aside and goes on from the fit and the registry"
        )
        parse_record(text, _RunState, str(self.folder.state), remedy)
        stored = dict(json.loads(text))
        model = (stored.get("fit") or {}).get("model_dir")
        if model and (former := Path(model).parents[1]) != self.path:  # the home was moved: its paths go with it
            old, new = (json.dumps(f"{run.parents[1]}/")[1:-1].encode() for run in (former, self.path))
            stored = dict(json.loads(text.replace(old, new)))
        return stored

    def update(self, **values: Any) -> None:
        """Store further values, atomically; a joined coordinator in the same home may write others at that moment."""
        with exclusive(self.folder.lock, f"an update of run {self.run_id}", FOREVER):
            write_json(self.folder.state, {**self.state(), **values})

    @property
    def settings(self) -> MachineSettings | None:
        """Threads, precision and device as this run's fits have them; None until they are settled."""
        stored = self.state().get("settings")
        return parse_record(json.dumps(stored), MachineSettings, str(self.folder.state), "") if stored else None

    @property
    def policy(self) -> DecisionPolicy:
        """How probabilities become an answer; the default until the run is evaluated."""
        stored = self.state().get("policy")
        return DecisionPolicy.from_json(stored) if stored else DecisionPolicy()

    @property
    def result(self) -> dict[str, Any] | None:
        """The stored result of a finished run, else None."""
        return self.state().get("result")


RUN_CODE = (
    *("config", "data", "model", "training", "search"),
    *("recipe/prepare.py", "recipe/fit.py", "recipe/trials.py", "recipe/process/trainer.py"),
    "evaluation/scores/counts.py",
    "base/text.py",
)


def run_key(config: RunConfig, rows: str, encoder: str) -> str:
    """Hash of the configuration, row fingerprint, encoder fingerprint and the code that can change the weights.

    RUN_CODE: the rooms below the recipe that rows pass on their way to weights; of the recipe the files that say what
    a fit gets; the scores that choose its best epoch; of the base the text functions, which say what is the same text.
    How a run is judged, shown and released is not in it: such an edit trains nothing anew.
    """
    return hash_json([config.identity(), rows, encoder, code_fingerprint(*RUN_CODE)])


def open_run(runs: Path, key: str, *, again: bool, registered: Collection[str] = ()) -> Run:
    """The attempt to work on: the latest one; with `again`, a new one once the latest has finished.

    registered: ids of runs that have a version. One of which this home has no fit has finished elsewhere, or before the
    home was lost: `again` takes none of them.

    A damaged run.json is moved aside: what its fit and the registry know is found again, nothing is trained twice.
    """
    runs.mkdir(parents=True, exist_ok=True)
    with exclusive(runs / ".lock", f"the opening of run {key}", FOREVER):
        attempts = _attempts(runs, key)
        for attempt in attempts:
            mend_state(attempt)
        run = attempts[-1] if attempts else _attempt(runs, key, 1)
        run.path.mkdir(exist_ok=True)
        state = run.state()
        if again and (run.result is not None or (run.run_id in registered and not state.get("fit"))):
            while run.path.is_dir() or run.run_id in registered:  # none is left out: attempts are counted
                run.path.mkdir(exist_ok=True)
                run = _attempt(runs, key, run.attempt + 1)
            run.path.mkdir()
            run.update(**({"settings": state["settings"]} if state.get("settings") else {}))
        return run


def mend_state(run: Run) -> Path | None:
    """Move a run.json aside that nobody can read; where it lies now, None where it is sound or not there."""
    try:
        run.state()
    except DamagedFile as fault:
        with exclusive(run.folder.lock, f"an update of run {run.run_id}", FOREVER):
            return set_aside(run.folder.state, fault)
    return None


def identify(
    config: RunConfig, prepared: Prepared, home: Path, *, again: bool = False, registered: Collection[str] = ()
) -> Run:
    """The run that this configuration on these rows is; `again`, `registered`: as for `open_run`."""
    key = run_key(config, prepared.dataset.fingerprint, prepared.encoder)
    return open_run(home / "runs", key, again=again, registered=registered)


def fitted(config: RunConfig, run: Run, home: Path) -> Run:
    """The latest attempt at this run whose final fit finished. Raises InputError when there is none."""
    latest = latest_fitted(home / "runs", run.run_key)
    if latest is None:
        raise InputError(f"no finished fit of {config.name} with this configuration: run `bertft finetune` first")
    return latest


def latest_fitted(runs: Path, key: str) -> Run | None:
    """The latest attempt of `key` whose final fit finished, else None."""
    fitted = [r for r in _attempts(runs, key) if "fit" in r.state()]
    return fitted[-1] if fitted else None


def run_at(folder: Path) -> Run:
    """The run whose folder this is; its key is not known."""
    return Run(run_key="", run_id=folder.name, directory=str(folder), attempt=1)


def report_of(runs: Path, run_id: str | None = None) -> dict[str, Any]:
    """Where the HTML pages of a run lie, and its verdict; None: the run judged last.

    Raises InputError naming the evaluated runs there are.
    """
    pages = {path.name: RunFolder(path).evaluation.page for path in sorted(runs.glob("[!.]*/"))}
    judged = {name: page.stat().st_mtime for name, page in pages.items() if page.is_file()}
    chosen = max(judged, key=judged.__getitem__, default="") if run_id is None else run_id
    if chosen not in judged:
        what = "any run" if run_id is None else f"run {run_id!r}"
        raise InputError(f"no report of {what}; evaluated runs: {', '.join(judged) or 'none'}")
    run = run_at(runs / chosen)
    verdict = {key: (run.result or {}).get(key) for key in ("name", "registered_model", "version", "outcome", "reason")}
    search = run.folder.search / "search.html"
    found = {"report": str(pages[chosen]), "search": str(search) if search.is_file() else None}
    return {"run_id": chosen, **verdict, **found}


def _attempt(runs: Path, key: str, attempt: int) -> Run:
    run_id = key[:12] + ("" if attempt == 1 else f"-{attempt}")
    return Run(run_key=key, run_id=run_id, directory=str(runs / run_id), attempt=attempt)


def _attempts(runs: Path, key: str) -> list[Run]:
    """Those there are, the latest last."""
    attempts = (_attempt(runs, key, n) for n in itertools.count(1))
    return list(itertools.takewhile(lambda run: run.path.is_dir(), attempts))
