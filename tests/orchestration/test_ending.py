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
from flows.signals import end_after_sigterm, sigterm_came
def raised(number, frame):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, raised)
end_after_sigterm(float(sys.argv[1]))
end_after_sigterm()
try:
    print("ready", flush=True)
    time.sleep(60)
except BaseException:
    print("swallowed", flush=True)
    time.sleep(0.2)
    print(sigterm_came(), flush=True)
time.sleep(60 if len(sys.argv) == 2 else 0)
"""
# a forked process that was told to end is no reason for its parent to
FORKED = """
import multiprocessing, signal, time
from flows.signals import end_after_sigterm, sigterm_came
signal.signal(signal.SIGTERM, lambda number, frame: None)
end_after_sigterm(0.0)
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.5,))
child.start()
child.terminate()
child.join()
print(sigterm_came())
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


LIMITED = """
import signal, time
from bertft_core.base.errors import BertftError
from flows import signals
signals._REPEAT_SECONDS = 0.5
def limited(swallows):
    with signals.time_limit("nightly.timeout", 0.2):
        try:
            time.sleep(30)
        except BertftError:
            if not swallows:
                raise
        time.sleep(30)
alarms = []
signal.signal(signal.SIGALRM, lambda number, frame: alarms.append(number))
signal.setitimer(signal.ITIMER_REAL, 1.5)
for swallows in (False, True):
    try:
        limited(swallows)
    except BertftError as fault:
        print(fault)
due = time.monotonic() + 20
while not alarms and time.monotonic() < due:
    time.sleep(0.1)
print(len(alarms))
"""


def test_time_limit_comes_again_where_it_is_swallowed_and_leaves_an_earlier_alarm(
    launch: Launch, finished: Callable[..., list[str]]
) -> None:
    passed = "nightly.timeout of 0.2 s passed: the next night goes on from the checkpoints\n"
    assert finished(launch(LIMITED)) == [f"{passed}{passed}1\n"]
