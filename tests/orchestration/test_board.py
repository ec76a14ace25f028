"""The table of running trials, drawn on real pseudo-terminals, and the lines that stand in for it elsewhere."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bertft_core.search.results import TrialResult
from bertft_core.training.results import TrainingResult
from flows.terminal.board import TrialBoard, short
from flows.terminal.console import WholeConsole
from flows.terminal.estimate import Running, seconds_left, shown_time
from flows.terminal.progress import Reporter

PARAMS = {
    "lr": 3.2e-5,
    "batch_size": 16,
    "tokenization.truncation": "head+tail",
    "model.pretrained": "models/tiny-bert",
}


def trial(
    slot: int, score: float | None = 0.9, state: str = "complete", log_loss: float = 0.5, **values: Any
) -> TrialResult:
    known = {"number": slot, "reason": "", "params": {"lr": 1e-4}, "seconds": 60.0, **values}
    fit = (
        None if score is None else TrainingResult(state=state, score=score, log_loss=log_loss, seconds=known["seconds"])
    )
    return TrialResult(slot=slot, state=state, fit=fit, **known)


def facts(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "total_steps": 480, "depth": 2, "seconds": 8.0, **more}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def console(file: io.StringIO, width: int = 100) -> WholeConsole:
    return WholeConsole(file=file, width=width, highlight=False, _environ={"TERM": "xterm"})


def drawn(board: TrialBoard, width: int) -> list[str]:
    """What the board shows at a width, without colours."""
    paper = Console(file=io.StringIO(), width=width, _environ={})
    paper.print(board)
    return paper.file.getvalue().splitlines()  # type: ignore[attr-defined]


# --- time left


@pytest.mark.parametrize(
    ("finished", "running", "waiting", "workers", "expected"),
    [
        ([], [(0.5, 10)], 3, 2, None),
        ([10], [], 0, 2, 0),
        ([10, 20], [], 4, 2, 30),  # two rounds of 15 s
        ([10, 20], [], 3, 2, 30),  # the third takes a round of its own
        ([10], [(0.5, 4)], 0, 1, 4),  # half of it took 4 s, whatever the others took
        ([10], [(0.5, 4)], 2, 2, 14),  # the idle worker 10; the other 4, then 10
        ([10], [(0.5, 4), (0.25, 10)], 1, 2, 30),  # the slow one decides
        ([10], [(0.0, 3)], 0, 1, 7),
        ([10], [(0.0, 30)], 0, 1, 0),
        ([10], [(1.0, 30)], 1, 1, 10),
        ([10], [(0.5, 5)] * 3, 0, 1, 5),  # more at work than were announced
    ],
)
def test_seconds_left_is_when_the_last_worker_ends(finished, running, waiting, workers, expected) -> None:
    told = [Running(fraction=f, seconds=s) for f, s in running]
    assert seconds_left(finished, told, waiting, workers) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "…"), (0, "0 s"), (59.4, "59 s"), (59.7, "1 min"), (3569, "59 min"), (3571, "1 h 0 min")],
)
def test_shown_time_is_short_and_rounds_over_the_hour(seconds: float | None, expected: str) -> None:
    assert shown_time(seconds) == expected


# --- lines where there is no terminal


def test_lines_are_one_per_finished_trial_and_nothing_else() -> None:
    file = io.StringIO()
    with TrialBoard(4, "macro_f1", [trial(0, 0.8)], workers=1, console=console(file, 60)) as board:
        board.start(1, PARAMS, "w")
        board.update(1, 0.5, facts(240))
        board.done(trial(1, 0.9))
        board.done(trial(2, None, "fail", reason="oom"))
    assert file.getvalue().splitlines() == [
        "trial 1: complete, score 0.9000 (lr 0.0001); 2 of 4, best 0.9000 (trial 1), about 2 min left",
        "trial 2: fail, no score (lr 0.0001): oom; 3 of 4, best 0.9000 (trial 1), about 1 min left",
    ]


def test_lines_are_kept_in_a_log_file_though_colours_are_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    with TrialBoard(1, "macro_f1", console=WholeConsole(file=file, highlight=False, width=200)) as board:
        board.start(0, PARAMS, "w")
        board.done(trial(0))
    assert len(file.getvalue().splitlines()) == 1 and "\x1b[?25l" not in file.getvalue()


def test_lines_of_many_threads_count_every_trial_once() -> None:
    file = io.StringIO()
    with TrialBoard(160, "macro_f1", workers=8, console=console(file)) as board:

        def work(worker: int) -> None:
            for slot in range(worker, 160, 8):
                board.start(slot, PARAMS, str(worker))
                board.update(slot, 0.5, facts(240))
                board.done(trial(slot))

        threads = [threading.Thread(target=work, args=(w,)) for w in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    counted = [int(n) for n in re.findall(r"; (\d+) of 160", file.getvalue())]
    assert sorted(counted) == list(range(1, 161))


def test_line_says_how_far_the_running_trials_are() -> None:
    file = io.StringIO()
    with TrialBoard(4, "macro_f1", [trial(0, 0.8)], console=console(file)) as board:
        board._say_running()
        board.start(1, PARAMS, "w")
        board.update(1, 0.5, facts(240))
        board._say_running()
    assert file.getvalue() == ("search: trial 1 at 50 %, step 240/480, 8 s so far; 1 of 4 finished, about 2 min left\n")


def test_stage_says_a_line_every_so_often_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.terminal.progress.SAID_EVERY", 0.05)
    file, report = io.StringIO(), Reporter()
    monkeypatch.setattr("flows.terminal.progress.sys.stderr", file)
    report._console = console(file)
    with report.stage("tokenize"):
        report.rows("train rows tokenised", 250, 1_000)
        wait_for(lambda: "tokenize: train rows tokenised: 250 of 1,000, 25 %, 0 s so far\n" in file.getvalue())
        report.rows("train rows tokenised", 500, 1_000)
        wait_for(lambda: re.search(r"500 of 1,000, 50 %, \d+ s so far, about \d+ s left", file.getvalue()) is not None)
        report.fraction(0.5, "step 40 of 80")
        wait_for(lambda: "tokenize: step 40 of 80, 50 %," in file.getvalue())
        with report.board(2, "macro_f1"):  # which has lines of its own
            said = file.getvalue()
            time.sleep(0.2)
            assert file.getvalue() == said
    said = file.getvalue()
    time.sleep(0.2)
    assert file.getvalue() == said


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- what is counted


@pytest.mark.parametrize(
    ("results", "best"),
    [
        ([], None),
        ([trial(0, 0.99, "pruned"), trial(1, None, "fail")], None),
        ([trial(0, 0.8), trial(1, 0.9), trial(2, 0.99, "pruned")], 1),
        ([trial(3, 0.9, log_loss=0.6), trial(4, 0.9, log_loss=0.4)], 4),
        ([trial(6, 0.9), trial(5, 0.9)], 5),
    ],
)
def test_best_is_the_highest_complete_score_then_loss_then_slot(results: list[TrialResult], best: int | None) -> None:
    found = TrialBoard(9, "macro_f1", results).best()
    assert (found.slot if found else None) == best


def test_dropped_trial_leaves_the_table_uncounted() -> None:
    board = TrialBoard(3, "macro_f1")
    board.start(7, PARAMS, "w")
    assert any("lr 3.2e-05, batch_size 16 …" in line for line in drawn(board, 100))
    board.drop(7)
    board.update(7, 0.5, facts(1))
    assert drawn(board, 100) == [
        "no trial has completed yet",
        "time left …; 0 of 3 finished (0 complete, 0 pruned, 0 failed)",
    ]


def test_results_of_others_count_once_and_print_no_line() -> None:
    file = io.StringIO()
    with TrialBoard(4, "macro_f1", [trial(0)], console=console(file)) as board:
        board.seen([trial(0), trial(1, 0.95), trial(2, None, "pruned")])
        assert file.getvalue() == ""
    assert drawn(board, 100)[0].startswith("best: trial 1, macro_f1 0.9500")
    assert "3 of 4 finished (2 complete, 1 pruned, 0 failed)" in drawn(board, 100)[1]


def test_repeated_progress_does_not_turn_back_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("flows.terminal.board.time.monotonic", lambda: now[0])
    board = TrialBoard(3, "macro_f1")
    board.start(0, PARAMS, "w")
    board.update(0, 0.1, facts(48))
    now[0] += 12
    board.update(0, 0.1, facts(48))
    assert board.rows()[0].elapsed() == 20


def test_score_stays_after_the_epoch_that_told_it() -> None:
    board = TrialBoard(3, "macro_f1")
    board.start(0, PARAMS, "w")
    board.update(0, 0.5, facts(240, score=0.8765))
    board.update(0, 0.6, facts(288, loss=0.3))
    assert "0.8765" in drawn(board, 100)[1] and "288/480" in drawn(board, 100)[1]


def test_validation_shows_how_far_it_is() -> None:
    board = TrialBoard(3, "macro_f1")
    board.start(0, PARAMS, "w")
    board.update(0, 0.5, facts(240, validating=0.4))
    assert "val 40%" in drawn(board, 100)[1]


def test_short_parameters_have_last_names_and_three_digits() -> None:
    assert short(PARAMS) == "lr 3.2e-05, batch_size 16, truncation head+tail, pretrained tiny-bert"


def test_parameters_that_do_not_fit_are_left_out_whole_the_rate_is_not() -> None:
    board = TrialBoard(4, "macro_f1")
    board.start(1, {"batch_size": 16, "alpha": 0.87654, "lr": 3.21e-5}, "w")
    board.update(1, 0.5, facts(240, score=0.9))
    for width, shown in ((40, "lr 3.21e-05 …"), (60, "lr 3.21e-05, batch_size 16 …"), (80, "alpha 0.877 ")):
        assert shown in drawn(board, width)[1], (width, drawn(board, width))


# --- the table


@pytest.mark.parametrize("width", [60, 69, 70, 89, 90, 99, 100, 140, 200])
def test_table_keeps_its_numbers_at_any_width(width: int) -> None:
    board = TrialBoard(400, "log_loss", [trial(s, -0.123456) for s in range(100)], workers=3)
    for slot in (100, 101, 102):
        board.start(slot, PARAMS, "trainer 1x on host")
        board.update(slot, 0.25, {**facts(12345, score=-0.4321), "total_steps": 49380, "seconds": 7260.0})
    lines = drawn(board, width)
    rows = [line for line in lines if "12345/49380" in line]
    assert max(map(len, lines)) <= width and len(lines) - len(rows) - 1 <= 3
    assert [row.split()[0] for row in rows] == ["100", "101", "102"]
    assert all("lr 3" in row and "-0.4321" in row and "2 h 1 min" in row for row in rows)
    assert ("━" in rows[0], "trainer 1x" in rows[0]) == (width >= 70, width >= 100)


class Screen:
    """What a terminal shows of rich's output: text, line breaks, lines erased, the cursor moved up."""

    def __init__(self, width: int) -> None:
        self.lines, self.row, self.column, self.width = [""], 0, 0, width

    def feed(self, text: str) -> Screen:
        for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]", text):
            if part == "\r":
                self.column = 0
            elif part == "\n":
                self._down()
            elif part.startswith("\x1b"):
                self._obey(part[2:-1], part[-1])
            else:
                self._put(part)
        return self

    def _down(self) -> None:
        self.row += 1
        self.lines += [""] * (self.row + 1 - len(self.lines))

    def _put(self, letter: str) -> None:
        if self.column == self.width:
            self.column = 0
            self._down()
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + letter + line[self.column + 1 :]
        self.column += 1

    def _obey(self, number: str, command: str) -> None:
        if command == "A":
            self.row = max(0, self.row - int(number or 1))
        elif command == "K":
            self.lines[self.row] = ""
        else:
            assert command in "mhl", (number, command)

    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.lines if line.strip()]


_PROGRAM = """
import logging, sys, threading, time, warnings
handler = logging.StreamHandler()  # holds the stderr of this moment, as libraries' handlers do
logging.getLogger("library").addHandler(handler)
from bertft_core.search.results import TrialResult
from bertft_core.training.results import TrainingResult
from flows.terminal.progress import Reporter

def trial(slot, score, state="complete"):
    fit = TrainingResult(state=state, score=score, log_loss=0.5, seconds=4.0)
    return TrialResult(slot=slot, number=slot, state=state, reason="", params={"lr": 1e-4}, fit=fit, seconds=4.0)

def work(slot):
    board.start(slot, {"lr": 1e-4, "batch_size": 16}, "trainer")
    for i in range(1, 9):
        board.update(slot, i / 8, {"step": i, "total_steps": 8, "depth": 1, "seconds": i / 10})
        time.sleep(0.01)
    at_work[slot].set()
    is_said.wait(20)
    board.done(trial(slot, 0.9))

is_said, at_work = threading.Event(), {1: threading.Event(), 2: threading.Event()}
report = Reporter()
with report.stage("search"):
    time.sleep(0.3)
    with report.board(3, "macro_f1", [trial(0, 0.8)], workers=2) as board:
        threads = [threading.Thread(target=work, args=(slot,)) for slot in (1, 2)]
        for thread in threads:
            thread.start()
        for event in at_work.values():
            assert event.wait(20)
        for say in (lambda t: print(t, file=sys.stderr), logging.getLogger("library").warning, report.say, board.say):
            say("heard [b]above[/b]")
            time.sleep(0.1)
        is_said.set()
        for thread in threads:
            thread.join()
assert handler.stream is sys.stderr is sys.__stderr__
logging.getLogger("library").warning("after")
"""


def on_terminal(program: str, width: int, environment: dict[str, str]) -> tuple[str, str]:
    """What the program wrote on a pseudo-terminal of that width, and what on stdout."""
    import fcntl
    import struct
    import termios

    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-P", "-c", program],
        stderr=slave,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env={**environment, "TERM": "xterm-256color", "COLUMNS": str(width)},
        text=True,
    ) as process:
        os.close(slave)
        pieces = []
        while True:
            try:
                pieces.append(os.read(master, 65536))
            except OSError:  # the other end is closed
                break
        assert process.stdout is not None
        out = process.stdout.read()
    os.close(master)
    text = b"".join(pieces).decode()
    assert process.returncode == 0, text
    return text, out


@pytest.mark.parametrize("width", [60, 200])
def test_terminal_keeps_every_line_above_the_table_and_no_table_afterwards(
    tmp_path: Path, clean_environment: Any, width: int
) -> None:
    text, out = on_terminal(_PROGRAM + "print('document')", width, clean_environment(tmp_path / "home"))
    lines = Screen(width).feed(text).shown()
    assert lines[:4] == ["heard [b]above[/b]"] * 4
    assert sorted(lines[4:6]) == [f"trial {n}: complete, score 0.9000 (lr 0.0001)" for n in (1, 2)]
    assert lines[6:] == ["after"] and out == "document\n"
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0, "the cursor comes back"


def test_terminal_keeps_the_lines_of_many_threads_while_its_table_grows_and_shrinks() -> None:
    said, before = Terminal(), sys.getswitchinterval()
    report = Reporter()
    report._console = console(said)

    def work(worker: int) -> None:
        for slot in range(worker, 240, 8):
            board.start(slot, PARAMS, str(worker))
            report.say(f"said {slot}")
            board.done(trial(slot))

    sys.setswitchinterval(1e-6)
    try:
        with report.board(240, "macro_f1", workers=8) as board:
            threads = [threading.Thread(target=work, args=(w,)) for w in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(before)
    shown = Screen(100).feed(said.getvalue().replace("\n", "\r\n")).shown()  # as a terminal takes it
    assert len(shown) == 480
    assert sorted(line.split(":")[0] for line in shown) == sorted(
        f"{w} {n}" for w in ("said", "trial") for n in range(240)
    )


def test_terminal_shows_the_table_below_the_lines_while_trials_run(tmp_path: Path, clean_environment: Any) -> None:
    text, _ = on_terminal(_PROGRAM, 80, clean_environment(tmp_path / "home"))
    second = text.index("heard", text.index("heard") + 5)
    halfway = Screen(80).feed(text[: text.rindex("failed)", 0, second) + 7]).shown()
    at = halfway.index("heard [b]above[/b]")
    assert [line.split()[:5] for line in halfway[at + 1 : at + 4]] == [
        ["trial", "parameters", "step", "score", "time"],
        ["1", "lr", "0.0001,", "batch_size", "16"],
        ["2", "lr", "0.0001,", "batch_size", "16"],
    ]
    assert halfway[at + 4].startswith("best: trial 0, macro_f1 0.8000")
    assert re.match(r"time left \d s; 1 of 3 finished \(1 complete", halfway[at + 5])


def test_fault_inside_gives_streams_and_loggers_back() -> None:
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger("test_board").addHandler(handler)
    before = sys.stderr
    with pytest.raises(ZeroDivisionError), TrialBoard(2, "macro_f1", console=console(Terminal())):
        assert handler.stream is sys.stderr is not before
        raise ZeroDivisionError
    assert handler.stream is sys.stderr is before
    logging.getLogger("test_board").removeHandler(handler)


def test_reporter_hands_its_terminal_to_the_board_and_takes_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.terminal.progress.sys.stderr", Terminal())
    report = Reporter()
    report._console = console(Terminal())
    with report.stage("search"):
        with report.board(2, "macro_f1") as board:
            report.fraction(0.5, "a bar that must not come")
            board.done(trial(0))
        report.fraction(0.6, "a bar that must not come")
    with report.stage("finetune"):
        report.fraction(0.7, "the next bar")
    text = report._console.file.getvalue()  # type: ignore[attr-defined]
    assert "must not come" not in text and "the next bar" in text and set(report.seconds) == {"search", "finetune"}
