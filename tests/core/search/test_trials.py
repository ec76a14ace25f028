"""Trials on a real trainer process: what ends one, what is continued, what stops the search."""

import os
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from safetensors.torch import load_file, save_file

from bertft_core.base.errors import BertftError, SearchStopped
from bertft_core.base.home import open_home
from bertft_core.config.run import load_config
from bertft_core.recipe import fit as fitting
from bertft_core.recipe import trials
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.prepare import prepare
from bertft_core.recipe.process.client import Trainer
from bertft_core.recipe.runs import identify
from bertft_core.recipe.trials import TrialRunner
from bertft_core.search.results import TrialResult
from bertft_core.search.study import SearchStudy
from bertft_core.testing.encoders import tiny_encoder

pytestmark = pytest.mark.slow
_SEARCH = {"trials": 2, "space": {"lr": {"low": 1e-3, "high": 4e-3, "log": True}}}


@pytest.fixture(scope="module")
def trainer() -> Iterator[Trainer]:
    with Trainer() as process:
        yield process


Open = Callable[..., tuple[SearchStudy, TrialRunner]]


@pytest.fixture
def opened(project: Callable[..., Path], tmp_path: Path, trainer: Trainer) -> Open:
    """A study over the tiny project and the runner to run it on."""

    def make(training: dict[str, Any] | None = None, **search: Any) -> tuple[SearchStudy, TrialRunner]:
        base = {"lr": 2e-3, "batch_size": 8, "epochs": 6, "threads": 1, "precision": "float32", "unfreezing": "late"}
        config = load_config(project(training={**base, **(training or {})}, search={**_SEARCH, **search}))
        home = open_home(tmp_path / "home")
        prepared = prepare(config, home)
        run = identify(config, prepared, home)
        settings = fitting.machine_settings(
            RunContext(config=config, prepared=prepared, run=run, home=home, trainer=trainer)
        )
        study = trials.open_study(config, prepared, home)
        return study, TrialRunner(config=config, prepared=prepared, settings=settings, home=home)

    return make


def _run(study: SearchStudy, runner: TrialRunner, trainer: Trainer, on_progress: Any = None) -> TrialResult:
    slot = study.claim()
    assert slot is not None
    result = runner.run(study, slot, trainer, on_progress)
    assert result is not None
    return result


def _killer(trainer: Trainer, at_steps: list[int]) -> Callable[[float, dict[str, Any]], None]:
    """Kills the trainer with signal 9 as it reports at least the next of these steps."""

    def follow(_: float, facts: dict[str, Any]) -> None:
        if at_steps and facts.get("step", -1) >= at_steps[0]:
            at_steps.pop(0)
            pid = trainer.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)

    return follow


def test_trial_completes_with_what_the_pictures_need(opened: Open, trainer: Trainer) -> None:
    study, runner = opened()
    result = _run(study, runner, trainer)
    assert (result.slot, result.state, result.depth) == (0, "complete", 4)
    assert [fraction for fraction, _ in result.fit.rungs] == [0.25, 0.5, 0.75]
    assert result.seconds > 0 and result.finished > result.started > 0 and result.seed
    assert not (runner.home / "search" / study.name / "trial-0").exists()


def test_trial_of_a_study_that_prunes_nothing_is_not_scored_at_the_rungs(opened: Open, trainer: Trainer) -> None:
    study, runner = opened(second={"measure": "latency"}, space={"tokenization.max_length": [16, 24]})
    result = _run(study, runner, trainer)
    assert result.fit is not None and (result.state, result.fit.rungs) == ("complete", ())


def test_diverged_trial_is_pruned_as_nonfinite_and_the_next_one_runs(
    opened: Open, trainer: Trainer, encoder: Path, tmp_path: Path
) -> None:
    wild = shutil.copytree(encoder, tmp_path / "wild")
    weights = load_file(wild / "model.safetensors")
    save_file({name: value * 1e30 for name, value in weights.items()}, wild / "model.safetensors", {"format": "pt"})
    study, runner = opened(space={"model.pretrained": [str(encoder), str(wild)]}, trials=4)
    result = [_run(study, runner, trainer) for _ in range(4)]
    wild_ones = [t for t in result if t.params["model.pretrained"] == str(wild)]
    assert wild_ones and all(t.state == "pruned" and t.reason.startswith("nonfinite") for t in wild_ones)
    assert all(t.state == "complete" for t in result if t not in wild_ones)


def test_trial_without_memory_is_pruned_as_oom_and_the_next_one_runs(
    opened: Open, trainer: Trainer, encoder: Path, tmp_path: Path
) -> None:
    large = tiny_encoder(tmp_path / "large", layers=4, hidden=1024)
    study, runner = opened(space={"model.pretrained": [str(encoder), str(large)]}, trials=5)
    first = _run(study, runner, trainer)  # the configured encoder; now the process has loaded everything
    assert first.params["model.pretrained"] == str(encoder) and trainer.pid is not None
    used = int(Path(f"/proc/{trainer.pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    result = []
    while study.open_slots():
        if trainer.pid is not None:
            resource.prlimit(trainer.pid, resource.RLIMIT_AS, (used + 30_000_000, used + 30_000_000))
        result.append(_run(study, runner, trainer))
    starved = [t for t in result if t.params["model.pretrained"] == str(large)]
    assert starved and all(t.state == "pruned" and t.reason.startswith("oom") for t in starved[:1])
    assert all(t.state == "complete" for t in result if t not in starved)


def test_killed_trainer_goes_on_from_the_checkpoint(
    opened: Open, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "_CHECKPOINT_SECONDS", 0.0)  # after every step
    study, runner = opened({"batch_size": 1, "epochs": 4}, rows=100)
    calm = _run(study, runner, trainer)
    seen: list[int] = []
    kill = _killer(trainer, [40, 90])

    def follow(fraction: float, facts: dict[str, Any]) -> None:
        if "step" in facts:
            seen.append(facts["step"])
        kill(fraction, facts)

    result = _run(study, runner, trainer, follow)
    restarts = [after for before, after in pairwise(seen) if after < before]
    assert result.state == "complete" and calm.state == "complete"
    assert all(step > 0 for step in restarts)


def test_lease_names_the_process_and_the_step_it_goes_on_from(
    opened: Open, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "_CHECKPOINT_SECONDS", 0.0)
    study, runner = opened({"batch_size": 1, "epochs": 4}, rows=100)
    kill, leases, stored = _killer(trainer, [40]), {}, study.storage.optuna

    def follow(fraction: float, facts: dict[str, Any]) -> None:
        if "step" in facts:
            (trial,) = stored.get_all_trials(stored.get_study_id_from_name(study.name))
            lease = trial.user_attrs["lease"]
            leases[lease["worker"]] = lease["first_step"]
        kill(fraction, facts)

    _run(study, runner, trainer, follow)
    first, second = leases.values()
    assert first == 0 and second >= 40


def test_trainer_killed_twice_without_getting_further_ends_the_trial(opened: Open, trainer: Trainer) -> None:
    study, runner = opened()
    result = _run(study, runner, trainer, _killer(trainer, [0, 0]))
    assert result.state == "pruned" and result.reason.startswith("oom: killed by signal 9 twice")


def test_defect_stops_the_search_and_gives_the_slot_back(opened: Open, trainer: Trainer) -> None:
    study, runner = opened()
    slot = study.claim()
    assert slot is not None
    file = Path(runner.prepared.tokens.directory) / "train.arrow"
    with pa.OSFile(str(file)) as source:  # a mapped table would be lost with the file it is written over
        table = pa.ipc.open_file(source).read_all()
    broken = table.set_column(table.column_names.index("label"), "label", pa.array([99] * len(table), pa.int32()))
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, broken.schema) as writer:
        writer.write_table(broken)
    with pytest.raises(BertftError, match="Traceback"):
        runner.run(study, slot, trainer)
    assert not study.results() and study.open_slots() == [0, 1]
    again = study.claim()
    assert again is not None and again.params == slot.params


def test_trial_over_its_time_is_pruned_as_timeout(opened: Open, trainer: Trainer) -> None:
    study, runner = opened({"batch_size": 1, "epochs": 200}, trial_timeout=3)
    result = _run(study, runner, trainer)
    assert result.state == "pruned" and result.reason.startswith("timeout: search.trial_timeout")


def test_time_limit_that_passes_while_texts_are_cut_ends_the_trial_alone(opened: Open, trainer: Trainer) -> None:
    study, runner = opened(space={"tokenization.max_length": [8, 12]}, trial_timeout=0.001)
    assert _run(study, runner, trainer).reason.startswith("timeout: search.trial_timeout")


def test_trial_running_when_the_time_of_the_search_ends_goes_on_with_more_of_it(
    opened: Open, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, pass_seconds: Callable[[float], None]
) -> None:
    monkeypatch.setattr(trials, "_CHECKPOINT_SECONDS", 0.0)  # after every step
    training = {"batch_size": 1, "epochs": 4}
    study, runner = opened(training, rows=100, timeout=7)
    slot = study.claim()
    assert slot is not None
    at_step_forty = iter([7.0])

    def follow(_: float, facts: dict[str, Any]) -> None:
        if facts.get("step", -1) >= 40:
            pass_seconds(next(at_step_forty, 0.0))

    assert runner.run(study, slot, trainer, follow) is None
    assert study.results() == [] and study.held() == {} and study.claim() is None
    study, runner = opened(training, rows=100, timeout=200)
    steps: list[int] = []
    result = _run(study, runner, trainer, lambda _, facts: steps.append(facts.get("step", -1)))
    assert (result.slot, result.state, result.params) == (0, "complete", slot.params)
    assert min(step for step in steps if step >= 0) > 0


def test_stopped_search_gives_the_running_slot_back(opened: Open, trainer: Trainer) -> None:
    study, runner = opened({"batch_size": 1, "epochs": 200})
    stop = threading.Event()
    with pytest.raises(SearchStopped):
        _run(study, replace(runner, is_stopped=stop.is_set), trainer, lambda *_: stop.set())
    assert study.open_slots() == [0, 1] and study.held() == {}


def test_workers_share_the_threads(opened: Open) -> None:
    _, runner = opened()
    whole = replace(runner.settings, threads=8)
    assert [trials.share(whole, workers).threads for workers in (1, 3, 16)] == [8, 2, 1]


def test_searched_encoder_and_cut_reach_the_fit(opened: Open, trainer: Trainer, encoder: Path, tmp_path: Path) -> None:
    small = tiny_encoder(tmp_path / "small", layers=1, hidden=16)
    space = {"model.pretrained": [str(encoder), str(small)], "tokenization.max_length": [8, 24]}
    study, runner = opened(space=space, trials=4)
    result = [_run(study, runner, trainer) for _ in range(4)]
    depth = {str(encoder): 4, str(small): 2}  # head only is 0, the embeddings are the last
    assert [t.depth for t in result] == [depth[t.params["model.pretrained"]] for t in result]
    assert len(list((runner.home / "tokens").iterdir())) >= len({tuple(t.params.values()) for t in result})
