"""A flow's process ends soon after SIGTERM, also where the exception that Prefect makes of it is swallowed."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.orchestration
# SIGTERM becomes an exception, as in Prefect; it comes to nothing, and the code goes on
CODE = """
import signal, sys, time
from flows.signals import ends_when_told, is_told
def raised(number, frame):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, raised)
ends_when_told(float(sys.argv[1]))
ends_when_told()
try:
    print("ready", flush=True)
    time.sleep(60)
except BaseException:
    print("swallowed", flush=True)
    time.sleep(0.2)
    print(is_told(), flush=True)
time.sleep(60 if len(sys.argv) == 2 else 0)
"""
# a forked process that was told to end is no reason for its parent to
FORKED = """
import multiprocessing, signal, time
from flows.signals import ends_when_told, is_told
signal.signal(signal.SIGTERM, lambda number, frame: None)
ends_when_told(0.0)
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.5,))
child.start()
child.terminate()
child.join()
print(is_told())
"""
Launch = Callable[..., subprocess.Popen[str]]


def test_process_that_swallows_the_signal_ends_within_its_grace(launch: Launch) -> None:
    process = launch(CODE, "1")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM and time.monotonic() - begun >= 1
    assert said == "swallowed\nTrue\n"


def test_process_that_ends_by_itself_in_time_keeps_its_exit_code(launch: Launch) -> None:
    process = launch(CODE, "20", "ends")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_signal_of_a_forked_child_is_not_ours(launch: Launch, finished: Callable[..., list[str]]) -> None:
    assert finished(launch(FORKED)) == ["False\n"]
