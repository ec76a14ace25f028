"""Does successive halving change which configuration wins?

python benchmarks/halving.py [--configurations N] [--seeds N] [--out FILE] [--json] [--quick]

Configurations drawn from the search space of search_speed.py (lr, batch size, epochs, alpha) are each fitted to the end
with several seeds, unfreezing late, on BBC News at 256 tokens; the validation score at every rung is kept. Then
searches of 12 trials are replayed from these fits: 12 of the configurations in a random order, one seed; each trial's
scores go to the product's own pruner (bertft_core.search.stopping) on a real Optuna study, which drops some. The winner
among those that were left is compared with the winner of the same 12 without pruning.

What a configuration is worth is its accuracy on the test rows, mean over the seeds that the replayed search did not
see: no winner is judged by the fit that won. `regret` is the worth of the winner without pruning minus the winner's
with it, mean over replays; its 95 % interval is a bootstrap over configurations (the replays share them). `saved`:
optimizer steps that pruning spared, in rows, and in row-layers that take part in a backward pass (the cost of a row
depends on the phase it is trained in).

About 20 minutes on 2 quiet cores; a second start with the same --out goes on.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from records import Records, conclude
from workloads import Workload, prepare

from bertft_core.base.home import open_home
from bertft_core.config.search import SearchConfig
from bertft_core.data.tokens.tokenization import open_split
from bertft_core.recipe.fit import fit_spec
from bertft_core.recipe.process.client import Trainer
from bertft_core.search.strategies import pruner_for
from bertft_core.training.schedules import RUNGS, UnfreezeSchedule
from bertft_core.training.spec import MachineSettings

TRIALS = 12
SPACE = {"lr": (5e-5, 5e-4), "alpha": (0.8, 1.0), "batch_size": (16, 32), "epochs": (1, 2, 3)}
REPLAYS, RESAMPLES = 2_000, 1_000


def draw(count: int) -> list[dict[str, Any]]:
    """Random configurations, always the same."""
    rng = np.random.default_rng(12)
    low, high = np.log(SPACE["lr"])
    return [
        {
            "lr": float(np.exp(rng.uniform(low, high))),
            "alpha": float(rng.uniform(*SPACE["alpha"])),
            "batch_size": int(rng.choice(SPACE["batch_size"])),
            "epochs": int(rng.choice(SPACE["epochs"])),
        }
        for _ in range(count)
    ]


def measure(args: argparse.Namespace, records: Records, home: Path) -> Any:
    """Fit what the records do not hold yet; returns the labels of the test rows."""
    load = Workload(source="bbc", max_length=256, train=args.train, validation=args.validation, test=args.test)
    config, prepared = prepare(load, home, {"threads": args.threads})
    with Trainer() as trainer:
        settings = trainer.resolve(prepared.pretrained, "auto", "cpu", args.threads)
        for seed in range(args.seeds):
            for number, params in enumerate(draw(args.configurations)):
                key = f"configuration {number}, seed {seed}"
                if records.get(key) is None:
                    records.add(
                        key,
                        fit(
                            trainer,
                            config.with_values({**params, "unfreezing": "late"}),
                            prepared,
                            settings,
                            home,
                            seed,
                        ),
                    )
                    print(key, flush=True)
    return open_split(prepared.tokens.directory, "test").labels


def fit(
    trainer: Trainer, config: Any, prepared: Any, settings: MachineSettings, home: Path, seed: int
) -> dict[str, Any]:
    """One whole fit: its score, its score at every rung, its answers on the test rows."""
    with tempfile.TemporaryDirectory(dir=home) as folder:
        spec = fit_spec(config, prepared, settings, home, Path(folder), seed=1000 + seed, rows=None, keep_model=True)
        result = trainer.fit(replace(spec, metric="accuracy", checkpoint_seconds=3600.0), None, lambda *_: False)
        file = Path(folder) / "test.npy"
        trainer.score(result.model_dir, spec.tokens, "test", file, threads=settings.threads)
        answers = np.load(file).argmax(axis=1).tolist()
    return {"score": result.score, "rungs": list(result.rungs), "steps": result.steps, "answers": answers}


def replay(fits: list[dict[str, Any]]) -> tuple[int, list[int | None]]:
    """(place of the winner among `fits`, run in this order; of each the rung at which it was dropped, or None)."""
    study = optuna.create_study(direction="maximize", pruner=pruner_for(SearchConfig(trials=len(fits))))
    dropped: list[int | None] = []
    for found in fits:
        trial = study.ask()
        rung = None
        for place, (_, score) in enumerate(found["rungs"]):
            trial.report(score, place)
            if trial.should_prune():
                rung = place
                break
        dropped.append(rung)
        if rung is None:
            study.tell(trial, found["score"])
        else:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    left = [i for i, rung in enumerate(dropped) if rung is None]
    return max(left, key=lambda i: fits[i]["score"]), dropped


def work(fits: list[dict[str, Any]], rows: list[int], dropped: list[int | None]) -> dict[str, float]:
    """Share of all rows, and of all row-layers, that the trials did."""
    n_layers = 6
    phases = UnfreezeSchedule.late(n_layers).phases()
    cost = [min(depth, n_layers) * (end - start) for start, end, depth in phases]
    done = [1.0 if rung is None else RUNGS[rung] for rung in dropped]
    layers = [sum(cost) if rung is None else sum(cost[: rung + 1]) for rung in dropped]
    return {
        "rows": float(np.dot(done, rows) / sum(rows)),
        "row_layers": float(np.dot(layers, rows) / (sum(cost) * sum(rows))),
    }


def conclude_replays(args: argparse.Namespace, records: Records, labels: Any) -> dict[str, Any]:
    """Many replays; each keeps (winner with halving, winner without, seed)."""
    count = args.configurations
    fits = [[records.get(f"configuration {c}, seed {s}") or {} for s in range(args.seeds)] for c in range(count)]
    right = np.array([[np.mean(np.array(f["answers"]) == labels) for f in row] for row in fits])  # [C, S]
    rows = [draw(count)[c]["epochs"] for c in range(count)]
    rng = np.random.default_rng(5)
    regrets, same, shares, places = [], [], [], []
    for _ in range(args.replays):
        chosen = rng.permutation(count)[:TRIALS]
        seed = int(rng.integers(args.seeds))
        own = [fits[c][seed] for c in chosen]
        kept, dropped = replay(own)
        whole = max(range(len(own)), key=lambda i: own[i]["score"])
        others = [s for s in range(args.seeds) if s != seed]
        worth = right[:, others].mean(axis=1)
        regrets.append(float(worth[chosen[whole]] - worth[chosen[kept]]))
        same.append(kept == whole)
        places.append((int(chosen[whole]), int(chosen[kept])))
        shares.append(work(own, [rows[c] for c in chosen], dropped))
    return {
        "replays": args.replays,
        "configurations": count,
        "seeds": args.seeds,
        "trials": TRIALS,
        "same_winner": float(np.mean(same)),
        "regret": float(np.mean(regrets)),
        "regret_interval": interval(regrets, places, count),
        "worth": {"all": float(right.mean()), "winner": float(np.mean([right[w].mean() for w, _ in places]))},
        "noise_of_a_seed": float(right.std(axis=1, ddof=1).mean()),
        "work": {name: float(np.mean([s[name] for s in shares])) for name in ("rows", "row_layers")},
    }


def interval(regrets: list[float], places: list[tuple[int, int]], count: int) -> list[float]:
    """95 % of the mean regret, configurations drawn anew: a replay weighs as often as its two winners are drawn."""
    rng = np.random.default_rng(6)
    values, pairs = np.array(regrets), np.array(places)
    means = []
    for _ in range(RESAMPLES):
        weight = rng.multinomial(count, np.full(count, 1 / count))
        own = np.where(pairs[:, 0] == pairs[:, 1], weight[pairs[:, 0]], weight[pairs[:, 0]] * weight[pairs[:, 1]])
        if own.sum():
            means.append(float((own * values).sum() / own.sum()))
    return [float(v) for v in np.percentile(means, [2.5, 97.5])]


def show(found: dict[str, Any]) -> None:
    """For people."""
    low, high = (100 * v for v in found["regret_interval"])
    print(
        f"{found['replays']} searches of {found['trials']} trials, {found['configurations']} configurations x "
        f"{found['seeds']} seeds"
    )
    print(f"same winner with and without halving: {found['same_winner']:.1%}")
    print(
        f"test accuracy lost by halving: {100 * found['regret']:+.2f} points [{low:+.2f}, {high:+.2f}]; "
        f"another seed of the same configuration differs by {100 * found['noise_of_a_seed']:.2f}"
    )
    print(
        f"mean test accuracy: of all configurations {found['worth']['all']:.4f}, of winners "
        f"{found['worth']['winner']:.4f}"
    )
    print(
        f"work left by halving: {found['work']['rows']:.1%} of the rows, {found['work']['row_layers']:.1%} of the "
        "row-layers"
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=240)
    parser.add_argument("--validation", type=int, default=120)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--replays", type=int, default=REPLAYS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON lines file; a second start skips what it holds")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--quick", action="store_true", help="12 configurations, 2 seeds, few rows: does it work?")
    args = parser.parse_args()
    if args.quick:
        args.configurations, args.seeds, args.train, args.validation, args.test = 12, 2, 48, 20, 40
        args.replays = 20
    return args


def main() -> None:
    """Fit, replay, print."""
    args = parse()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    out = args.out or Path(tempfile.mkdtemp(prefix="halving-")) / "records.jsonl"
    names = ("configurations", "seeds", "train", "validation", "test", "threads")
    records = Records(out, {name: getattr(args, name) for name in names})
    with tempfile.TemporaryDirectory(prefix="halving-") as folder:
        labels = measure(args, records, open_home(Path(folder) / "home"))
    conclude(conclude_replays(args, records, labels), show, out, is_json=args.json)


if __name__ == "__main__":
    main()
