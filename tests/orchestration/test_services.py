"""Programs that come up, are watched and end together: real processes of a few lines each."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bertft_core.base.errors import StackError
from flows.stack import services
from flows.stack.services import Service, Stack, rotate

from ..processes import is_gone

pytestmark = pytest.mark.orchestration
# a service works in the folder of the logs; what stands in `ready` it does before it is healthy
TOY = """
import os, pathlib, signal, subprocess, sys, time
here, name = pathlib.Path(), sys.argv[1]
def told(number, frame):
    with open("ends", "a") as handle:
        handle.write(name + " ")
    sys.exit(0)
signal.signal(signal.SIGTERM, told)
def wait_for(file):
    while not (here / file).exists():
        time.sleep(0.02)
(here / (name + ".started")).touch()
"""
IDLE = "\n(here / (name + '.healthy')).touch()\ntime.sleep(60)\n"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Makes a stack of (name, code before it is healthy, names it needs)."""
    made: list[Stack] = []

    def service(name: str, ready: str = "", needs: tuple[str, ...] = ()) -> Service:
        return Service(
            name=name,
            arguments=("-c", TOY + ready + IDLE, name),
            address=f"{name}.local",
            environment=os.environ,
            is_healthy=lambda since: (tmp_path / f"{name}.healthy").exists(),
            needs=needs,
        )

    def make(*wanted: tuple[object, ...], is_stopped: Callable[[], bool] = lambda: False) -> Stack:
        plan = [service(*one) for one in wanted]  # type: ignore[arg-type]
        made.append(Stack(plan, tmp_path, is_stopped=is_stopped, say=lambda line: None))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def pid_of(stack: Stack, name: str) -> int:
    return next(int(one["pid"]) for one in stack.shown() if one["name"] == name)


def test_independent_services_start_at_once(stack: Callable[..., Stack]) -> None:
    both = stack(("a", "wait_for('b.started')"), ("b", "wait_for('a.started')"))
    both.start(seconds=20)
    assert [one["address"] for one in both.shown()] == ["a.local", "b.local"]


def test_a_service_starts_after_what_it_needs_is_healthy(stack: Callable[..., Stack]) -> None:
    ordered = stack(("last", "assert (here / 'first.healthy').exists()", ("first",)), ("first", "time.sleep(0.5)"))
    ordered.start(seconds=20)
    first, last = ordered.shown()
    assert (first["name"], last["name"]) == ("first", "last") and first["seconds"] >= 0.5


def test_a_service_that_ends_is_named_with_the_end_of_its_log(stack: Callable[..., Stack]) -> None:
    with pytest.raises(StackError, match=r"(?s)^b ended \(exit code 3\).*b\.log ends with\n  no such table: runs$"):
        stack(("a",), ("b", "print('no such table: runs', flush=True); sys.exit(3)")).start(seconds=20)


def test_the_end_of_a_log_shows_no_password(stack: Callable[..., Stack]) -> None:
    with pytest.raises(StackError) as fault:
        stack(("a", "sys.exit('refused by postgresql://me:hunter2@db/x')")).start(seconds=20)
    assert "postgresql://***@db/x" in str(fault.value) and "hunter2" not in str(fault.value)


def test_a_service_that_is_killed_while_all_is_well_is_named(stack: Callable[..., Stack]) -> None:
    both = stack(("a",), ("b",))
    both.start(seconds=20)
    os.kill(pid_of(both, "b"), signal.SIGKILL)
    with pytest.raises(StackError, match=r"^b ended \(signal SIGKILL\)"):
        both.watch()


def test_a_service_that_is_never_healthy_is_named_with_its_log(stack: Callable[..., Stack]) -> None:
    with pytest.raises(StackError, match=r"^not healthy after 1 s: slow \(.*slow\.log\)"):
        stack(("a",), ("slow", "time.sleep(60)")).start(seconds=1)


def test_the_user_may_stop_it_before_all_is_healthy(stack: Callable[..., Stack], tmp_path: Path) -> None:
    waiting = stack(("a", "time.sleep(60)"), is_stopped=lambda: (tmp_path / "a.started").exists())
    with pytest.raises(KeyboardInterrupt):
        waiting.start(seconds=20)


def test_dependents_end_before_what_they_need(stack: Callable[..., Stack], tmp_path: Path) -> None:
    ordered = stack(("first",), ("last", "", ("first",)))
    ordered.start(seconds=20)
    ordered.stop()
    assert (tmp_path / "ends").read_text().split() == ["last", "first"]


def test_stop_kills_what_ignores_it_and_its_children(
    stack: Callable[..., Stack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_OTHER_SECONDS", 0.3)
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    child = "child = subprocess.Popen(['sleep', '60'], preexec_fn=lambda: signal.signal(15, signal.SIG_IGN))\n"
    stubborn = stack(("a", ignore + child + "(here / 'child').write_text(str(child.pid))"))
    stubborn.start(seconds=20)
    stubborn.stop()
    assert is_gone(pid_of(stubborn, "a")) and is_gone(int((tmp_path / "child").read_text()))


def test_a_long_log_is_moved_while_its_program_goes_on_writing(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with open(log, "ab", buffering=0) as handle:
        handle.write(b"before\n")
        rotate(log, 6)
        handle.write(b"after\n")
    assert (tmp_path / "a.log.1").read_bytes() == b"before\n" and log.read_bytes() == b"after\n"


def test_a_short_log_stays(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"short\n")
    rotate(tmp_path / "a.log", 6)
    assert (tmp_path / "a.log").read_bytes() == b"short\n" and not (tmp_path / "a.log.1").exists()


def test_a_new_start_keeps_the_log_of_the_one_before(stack: Callable[..., Stack], tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("yesterday\n")
    stack(("a", "print('today', flush=True)")).start(seconds=20)
    assert (tmp_path / "a.log.1").read_text() == "yesterday\n" and (tmp_path / "a.log").read_text() == "today\n"
