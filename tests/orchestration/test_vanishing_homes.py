"""Nights whose home is gone each time, over a real MLflow store: what they compare with, and how they end."""

from __future__ import annotations

import contextlib
import csv
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.errors import BusyError
from bertft_core.base.files import write_json
from bertft_core.config.run import load_config
from bertft_core.config.store import load_mlflow_config
from bertft_core.recipe.nights.log import PROMOTED, REJECTED, SKIPPED, Night, NightLog
from bertft_core.recipe.nights.memory import POINTER, Memory
from bertft_core.recipe.nights.night import NightRun, NightSteps
from bertft_core.recipe.nights.record import log_night
from bertft_core.recipe.prepare import ingest, prepare
from bertft_core.recipe.release import write_gate_rows
from bertft_core.recipe.runs import identify
from bertft_core.registry import aliases, ledger, versions
from bertft_core.registry.decision import require_comparable
from bertft_core.tracking import store as tracking

from ..night_lines import Lines

pytestmark = pytest.mark.orchestration


class Nights:
    """Nights of one configuration, whose training registers a ready-made artefact and makes it champion."""

    def __init__(self, config: Path, served: Path) -> None:
        self.config, self.served, self.home = config, served, config.parent / "home"
        self.settings = load_mlflow_config(
            environ={
                "MLFLOW_TRACKING_URI": f"sqlite:///{config.parent}/registry.db",
                "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(config.parent / "artifacts"),
            }
        )
        self.trained = 0

    @property
    def store(self) -> Any:
        return tracking.open_store(self.settings, self.home)

    def train(self, overrides: list[str], *, again: bool) -> dict[str, Any]:
        self.trained += 1
        config = load_config(self.config, overrides)
        prepared = prepare(config, self.home)
        run = identify(config, prepared, self.home)
        write_gate_rows(config, prepared.dataset, run.folder.evaluation, self.home)
        logged, tags = tracking.find_or_create_run(self.store, run.run_id, "final"), {"bertft.run_id": run.run_id}
        folder, dataset = run.folder.evaluation, prepared.dataset
        known = {"config": config.resolved(), "base_dir": str(config.base_dir), "classes": list(dataset.classes)}
        told = {"test_rows": dataset.test_fingerprint(), "weights": "w", "folder": str(folder.path)}
        write_json(folder.evidence, {**known, **told})
        files = [folder.train_fingerprints, folder.evidence]
        made = versions.register(self.store, logged, self.served, "tiny", tags, extra_files=files).version
        before = aliases.champion(self.store, "tiny")
        draft = ledger.Draft(action="promoted", version=made, champion=before, to_version=made, reason="a test")
        ledger.write(self.store, "tiny", draft)
        document = {"run_id": run.run_id, "version": made, "outcome": "promoted", "champion_after": made}
        return {**document, "reason": "a test", "seconds": {}, "test": {"accuracy": 0.5, "n": 30}}

    def run(self, day: int, **values: Any) -> Night:
        """A night that finds no home."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir()
        memory, self.report = Memory(lambda: self.store, "tiny", "tiny", self.home), Lines()
        steps = NightSteps(
            ingest=lambda config: ingest(config, self.home),
            tokenize=lambda config, dataset: prepare(config, self.home),
            drift=lambda *_: None,
            champion_on_new=lambda *_: None,
            train=self.train,
            require_comparable=lambda: require_comparable(self.store, "tiny"),
            recall=memory.recall,
            remember=memory.remember,
        )
        ended = NightRun(
            config=load_config(self.config),
            config_path=str(self.config),
            overrides=[],
            home=self.home,
            night=f"2026-03-{day:02}",
            steps=steps,
            report=self.report,
            **values,
        ).run()
        log_night(ended, "tiny", self.store, "", None)
        return ended


@pytest.fixture
def nights(project: Callable[..., Path], served: list[Path]) -> Nights:
    return Nights(project(search={"trials": 0}, nightly={"new_rows": 20}), served[0])


def write(nights: Nights, rows: list[tuple[str, str]]) -> None:
    with open(nights.config.parent / "rows.csv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("text", "label"), *rows])


def test_nights_without_a_home_end_as_those_of_one_that_lasts(nights: Nights, rows: Callable[..., Any]) -> None:
    assert nights.run(1).outcome == PROMOTED
    assert (ended := nights.run(2)).outcome == SKIPPED and ended.reason == "unchanged since version 1"
    assert any("was fetched from the registry" in line for line in nights.report.lines)
    table = rows(150)
    for changed, refusal in (
        (table[:60], "60 rows, the last training had 150 (nightly.halved: fail"),
        (table + [(f"third kind {i}", "third") for i in range(30)], "class 'third' is new"),
        ([row for row in table if row[1] != "food"], "class 'food' has no row any more"),
    ):
        write(nights, changed)
        time.sleep(1)  # a night is known by the second in which it began
        assert (ended := nights.run(3)).outcome == REJECTED and refusal in ended.reason
    assert nights.trained == 1
    write(nights, table + rows(180, seed=5)[150:])
    assert "(trained: 30 new rows (nightly.new_rows: 20))" in nights.run(4).reason
    assert [night.outcome for night in NightLog(nights.home, "tiny").nights()] == [
        *(PROMOTED, SKIPPED, REJECTED, REJECTED, REJECTED, PROMOTED)
    ]


def test_champion_without_a_record_is_compared_with_by_its_own_evidence(
    nights: Nights, rows: Callable[..., Any]
) -> None:
    nights.run(1)
    tracking.client(nights.store).delete_registered_model_tag("tiny", f"{POINTER}tiny")
    ended = nights.run(2)
    assert "(trained: there is no record of a last training; compared with that of champion version 1)" in ended.reason
    assert (nights.trained, ended.facts["new"], ended.facts["deleted"]) == (2, 0, 0)
    tracking.client(nights.store).delete_registered_model_tag("tiny", f"{POINTER}tiny")
    write(nights, rows(150)[:60])
    assert "nightly.halved: fail" in nights.run(3).reason


def test_night_that_another_machine_is_at_is_skipped_and_leaves_the_rest_as_it_is(nights: Nights) -> None:
    @contextlib.contextmanager
    def busy() -> Iterator[None]:
        raise BusyError("a night of tiny is already running on another machine")
        yield

    ended = nights.run(1, alone=busy())
    assert (ended.outcome, ended.reason) == (SKIPPED, "a night of tiny is already running on another machine")
    assert nights.trained == 0 and len(NightLog(nights.home, "tiny").nights()) == 1
