"""A command's processes end with it: Prefect's embedded server outlives a killed parent, and Ctrl-C hangs on it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import uuid
from types import FrameType

from flows.signals import begin_command

TOKEN = "BERTFT_SESSION"
_GRACE_SECONDS = 15  # for an own Prefect server to be told that the run was interrupted
# Runs apart, in a session of its own: waits for the command's end of the pipe to close, however it ends, then ends
# every process that carries the command's token.
_REAPER = """
import os, signal, sys, time
sys.stdin.buffer.read()
mark = ("BERTFT_SESSION=" + sys.argv[1]).encode()
def left():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(pid) != os.getpid() and mark in open(f"/proc/{pid}/environ", "rb").read().split(b"\\0"):
                yield int(pid)
        except OSError:
            pass
for number in (signal.SIGTERM, signal.SIGKILL):
    found = list(left())
    for pid in found:
        try:
            os.kill(pid, number)
        except OSError:
            pass
    time.sleep(2 if found else 0.2)  # a program that is just being loaded shows no environment yet
"""


def watch_over(verb: str, *, is_served: bool) -> None:
    """Mark this command and its children; end them when it ends. Ctrl-C ends it at once, with one line.

    is_served: a Prefect server of the user's own is told first, for at most 15 s.
    """
    begin_command()
    token = uuid.uuid4().hex
    if os.path.isdir("/proc/self"):
        subprocess.Popen(  # its stdin closes when this process ends, by whatever death
            [sys.executable, "-I", "-S", "-c", _REAPER, token],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    os.environ[TOKEN] = token

    def interrupted(number: int, frame: FrameType | None) -> None:
        if not is_served:
            with contextlib.suppress(OSError):
                os.write(2, f"bertft {verb}: interrupted; the same command continues\n".encode())
            os._exit(1)
        ends = threading.Timer(_GRACE_SECONDS, os._exit, (1,))
        ends.daemon = True
        ends.start()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupted)
