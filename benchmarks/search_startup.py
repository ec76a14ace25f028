"""Start-up trials of TPE: Optuna's ten, or by the budget? Searches on drawn response surfaces; nothing is trained.

A surface gives an accuracy for lr (log), batch size, epochs and alpha: 0.9 at its best point, which is drawn, and less
by a drawn weight for each knob. A trial's score is that plus the noise of a seed. A search has the configured values
first, as ours has, and its worth is the true accuracy of the trial with the best score. Every method meets the same
surfaces and the same noise. Some minutes on one core.
"""

from __future__ import annotations

import argparse
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optuna

from bertft_core.config.search import SearchConfig
from bertft_core.search.space import suggest
from bertft_core.search.strategies import sampler_for

FIRST = {"lr": 5e-5, "batch_size": 16, "alpha": 0.95, "epochs": 3}
SPACE = {"lr": {"low": 2e-5, "high": 2e-4, "log": True}, "alpha": {"low": 0.8, "high": 1.0}}
SPACE |= {"batch_size": [16, 32], "epochs": [2, 3, 4]}
TEN = {"name": "tpe", "arguments": {"n_startup_trials": 10}}
METHODS: dict[str, Any] = {"ten": TEN, "by the budget": "tpe", "random": "random"}


def surface(rng: np.random.Generator) -> Callable[[dict[str, Any]], float]:
    """True accuracy of a trial's parameters."""
    lr, alpha, epochs = rng.uniform(math.log(2e-5), math.log(2e-4)), rng.uniform(0.8, 1.0), rng.choice([2, 3, 4])
    weights = rng.uniform(0.3, 1.0, 4) * (0.32, 0.01, 0.01, 0.01)

    def accuracy(params: dict[str, Any]) -> float:
        away = ((math.log(params["lr"]) - lr) / math.log(10)) ** 2, ((params["alpha"] - alpha) / 0.1) ** 2
        loss = weights @ (*away, abs(params["epochs"] - epochs), params["batch_size"] == 32)
        return 0.9 - min(float(loss), 0.5)

    return accuracy


def worth(sampler: Any, trials: int, seed: int, noise: float) -> float:
    """True accuracy of the trial that a search takes for its best."""
    search = SearchConfig(trials=trials, space=SPACE, sampler=sampler)
    accuracy, noises = surface(np.random.default_rng(seed)), np.random.default_rng([seed, 1]).normal(0, noise, trials)
    study, found = optuna.create_study(direction="maximize"), list[tuple[float, float]]()
    study.enqueue_trial(FIRST)
    for slot in range(trials):
        study.sampler = sampler_for(search, 10_000 * seed + slot)
        trial = study.ask()
        true = accuracy(suggest(trial, search))
        found.append((true + noises[slot], true))
        study.tell(trial, found[-1][0])
    return max(found)[1]


def rows(budgets: list[int], searches: int, noise: float) -> Iterator[str]:
    """A line of the table for each budget: of the first method the mean, of the others the paired difference."""
    for trials in budgets:
        found = {m: np.array([worth(s, trials, i, noise) for i in range(searches)]) for m, s in METHODS.items()}
        ten = found.pop("ten")
        gaps = [100 * (other - ten) for other in found.values()]
        said = [f"{g.mean():+.2f} [{g.mean() - w:+.2f}, {g.mean() + w:+.2f}]" for g in gaps for w in [_half_width(g)]]
        yield f"| {trials} | {100 * ten.mean():.2f} | " + " | ".join(said) + " |"


def _half_width(values: Any) -> float:
    return float(1.96 * values.std(ddof=1) / math.sqrt(len(values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", type=int, nargs="+", default=[5, 8, 16])
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--noise", type=float, default=0.01, help="standard deviation of a score")
    options = parser.parse_args()
    optuna.logging.set_verbosity(logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    print(
        "| trials | ten at random, accuracy | a quarter at random (2 to 10), difference | all at random, difference |"
    )
    print("|---|---|---|---|")
    for line in rows(options.budgets, options.searches, options.noise):
        print(line, flush=True)


if __name__ == "__main__":
    main()
