"""Trials that a killed process holds, as whoever examines a home sees and frees them."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from bertft_core.search.abandoned import AbandonedTrials, find_abandoned, free
from bertft_core.search.lease import Owner
from bertft_core.search.storage import open_storage

from .test_study import _claim, _study


def _claim_and_die(folder: Path) -> None:
    _claim(_study(folder))


@pytest.fixture
def searched(tmp_path: Path) -> tuple[Path, int]:
    """A home whose trial 0 is held by a process that has ended, trial 1 by this one; the id of the former."""
    process = multiprocessing.get_context("fork").Process(target=_claim_and_die, args=(tmp_path,))
    process.start()
    process.join()
    ours = _study(tmp_path, name="other")
    assert _claim(ours).slot == 0
    assert process.pid is not None
    return tmp_path, process.pid


def test_a_dead_owners_trial_is_found_and_a_living_ones_is_not(searched: tuple[Path, int]) -> None:
    home, pid = searched
    file = home / "search" / "studies.db"
    file.chmod(0o400)
    before = file.read_bytes()
    (found,) = find_abandoned(file)
    assert found == AbandonedTrials(study="n-study", slots=(0,), owners=(f"process {pid} on {Owner().host}",))
    assert file.read_bytes() == before and list(file.parent.glob("studies.db-*")) == []


def test_a_freed_trial_is_claimed_with_its_parameters_and_frees_nothing_of_the_living(
    searched: tuple[Path, int],
) -> None:
    home, _ = searched
    storage = open_storage(None, home)
    held = {t.study: t for t in find_abandoned(home / "search" / "studies.db")}
    assert list(held) == ["n-study"]
    assert (free(storage, "n-study"), free(storage, "n-study"), free(storage, "other")) == (1, 0, 0)
    assert find_abandoned(home / "search" / "studies.db") == []
    again = _claim(_study(home))
    assert (again.slot, again.is_adopted) == (0, True)


def test_an_owner_on_another_machine_is_left_to_whoever_searches_next(tmp_path: Path) -> None:
    _claim(_study(tmp_path, Owner(machine="another", host="elsewhere", pid=1, began=1)))
    assert find_abandoned(tmp_path / "search" / "studies.db") == []
