"""Do intervals hold the truth as often as they say, and do tests err as rarely? Simulated through production's code.

python benchmarks/interval_coverage.py [--repeats 2000] [--json FILE]
                                       [--part shapes|groups|anchor|vetoes|auroc|labels|importances]

shapes: 95 % intervals of one model's macro F1, and of the difference of two equally good ones, for class shapes that
    are balanced, uneven, rare (classes of 7 and 3 rows), twenty (of 120 to 5 rows) and nearly without an error. Labels
    are fixed, answers drawn; beside it the percentile bootstrap, stratified by class. "zero": intervals without width.
groups: rows of a group strongly alike (an intraclass correlation of 0.3, or seven tenths of a group's rows copied from
    one). Coverage of macro F1 and accuracy, and how often one of two equally good models is called superior at 5 %
    (bound and permutation test), by groups and as if each row stood for itself (of a quarter of the repeats).
anchor: non-inferiority by 2 points: a challenger that much worse than its champion, or than the anchor.
vetoes: how often one of two equally good models is blocked by any class or slice (5 classes, 12 slices).
auroc: how often the drift AUROC's 95 % interval holds the mean of such AUROCs. labels: how often the label-shift test
    calls equal distributions different.
importances: random searches of lr, batch size, epochs and alpha in which lr alone moves the score, by so many standard
    deviations of the noise (0: nothing does). How often lr is named first, and the mean share of the knob named first.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from bertft_core.config.promotion import PromotionRule
from bertft_core.evaluation.drift.domain_shift import domain_shift
from bertft_core.evaluation.drift.label_shift import label_shift
from bertft_core.evaluation.gate.checks import part_checks, parts_of
from bertft_core.evaluation.gate.comparison import GateRows, Model
from bertft_core.evaluation.gate.decision import decide
from bertft_core.evaluation.scores import intervals
from bertft_core.evaluation.scores.counts import confusion
from bertft_core.evaluation.scores.intervals import Bootstrap, paired_difference, paired_permutation, wilson
from bertft_core.evaluation.scores.labels import Labels, Predictions, labels_of
from bertft_core.search.knobs import knob_importances
from bertft_core.search.results import TrialResult
from bertft_core.training.results import TrainingResult

RESAMPLES = 500  # of an interval at 95 % (production: 10,000)
SHARES = np.array([0.30, 0.25, 0.20, 0.15, 0.10])
SHAPES = {  # rows of each class, and the share of them that is answered rightly
    "balanced": (np.full(5, 100), np.full(5, 0.85)),
    "uneven": (np.array([300, 120, 50, 20, 10]), np.array([0.95, 0.9, 0.85, 0.8, 0.75])),
    "rare": (np.array([400, 60, 30, 7, 3]), np.array([0.95, 0.9, 0.85, 0.7, 0.6])),
    "twenty": (np.round(np.geomspace(120, 5, 20)).astype(int), np.linspace(0.95, 0.65, 20)),
    "near-perfect": (np.full(5, 100), np.full(5, 0.995)),
    "near-perfect, rare": (np.array([400, 60, 30, 7, 3]), np.full(5, 0.99)),
}
GROUPS = ((10, 50), (25, 20), (50, 10), (500, 1))  # groups, rows of each
DIFFER = 0.3  # of rows (or groups): the second model answers anew instead of repeating the first

Array = np.ndarray[Any, Any]
Row = dict[str, Any]


def share(count: int, of: int) -> str:
    """A share with its 95 % Wilson interval."""
    low, high = wilson(count, of)
    return f"{count / of:6.1%} [{low:5.1%}, {high:6.1%}]"


def macro_f1(table: Array) -> float:
    """Macro F1 of a table of rows by class and answer."""
    return float((2 * np.diag(table) / (table.sum(0) + table.sum(1))).mean())


def said(answers: Array, n_classes: int) -> Predictions:
    """Answers as predictions of some confidence."""
    p = np.full((len(answers), n_classes), 0.1 / (n_classes - 1))
    p[np.arange(len(answers)), answers] = 0.9
    return Predictions(probabilities=p, decided=answers)


def confusion_of(shape: str) -> Array:
    """Probability of each answer by class [C, C]: half of the errors go where rows are, half at random."""
    rows, right = SHAPES[shape]
    rng, c = np.random.default_rng(5), len(rows)
    table = np.zeros((c, c))
    for i in range(c):
        others = np.delete(rows, i) / np.delete(rows, i).sum()
        table[i] = np.insert((1 - right[i]) * (rng.dirichlet(np.ones(c - 1)) + others) / 2, i, right[i])
    return table


def draw(rng: np.random.Generator, labels: Array, table: Array) -> Array:
    """An answer to each row."""
    return np.asarray((rng.random(len(labels))[:, None] > np.cumsum(table, axis=1)[labels][:, :-1]).sum(axis=1))


def percentile_bootstrap(
    rng: np.random.Generator, y: Array, models: list[Array], n_classes: int
) -> tuple[float, float]:
    """The stratified percentile interval of the first model's macro F1, less that of the second where there is one."""
    scores = [np.zeros(RESAMPLES) for _ in models]
    support = np.bincount(y, minlength=n_classes)
    kinds, rows = np.unique(np.stack([y, *models], axis=1), axis=0, return_counts=True)
    drawn = np.zeros((len(kinds), RESAMPLES))
    for c in np.unique(y):
        own = kinds[:, 0] == c
        drawn[own] = rng.multinomial(support[c], rows[own] / support[c], size=RESAMPLES).T
    for m in range(len(models)):
        hits, decided = np.zeros((2, n_classes, RESAMPLES))
        np.add.at(decided, kinds[:, m + 1], drawn)
        np.add.at(hits, kinds[:, 0], drawn * (kinds[:, [0]] == kinds[:, [m + 1]]))
        scores[m] = (2 * hits / (support[:, None] + decided)).mean(axis=0)
    low, high = np.quantile(scores[0] - (scores[1] if len(models) > 1 else 0), [0.025, 0.975])
    return float(low), float(high)


def interval_of(labels: Labels, model: Predictions, seed: int) -> tuple[float, float] | None:
    """What `headline_intervals` gives for macro F1, without the other scores."""
    (drawn,) = labels.resampled_scores([model], RESAMPLES, seed)
    table = confusion(labels.values, model.decided, len(labels.classes))
    return intervals._spread(drawn["macro_f1"], macro_f1(table), 0.95, labels.n_groups or len(labels), (0.0, 1.0))


def shapes(repeats: int) -> Iterator[Row]:
    """Coverage of macro F1, of one model and of the difference of two."""
    for name, (rows, _) in SHAPES.items():
        y, table, c = np.repeat(np.arange(len(rows)), rows), confusion_of(name), len(rows)
        truth = {"macro F1": macro_f1(table * rows[:, None]), "difference": 0.0}
        counts = {what: np.zeros((2, 4)) for what in truth}
        for i in range(repeats):
            rng = np.random.default_rng((len(rows), *rows[:2].tolist(), i))
            a, anew = draw(rng, y, table), draw(rng, y, table)
            b = np.where(rng.random(len(y)) < DIFFER, anew, a)
            labels, one, two = labels_of(y, range(c)), said(a, c), said(b, c)
            pair = paired_difference(labels, one, two, "macro_f1", Bootstrap(resamples=RESAMPLES, seed=i))
            found = {
                "macro F1": (interval_of(labels, one, i), percentile_bootstrap(rng, y, [a], c)),
                "difference": (pair.interval, percentile_bootstrap(rng, y, [a, b], c)),
            }
            for what, both in found.items():
                for k, pair_of in enumerate(both):
                    low, high = pair_of or (0.0, 0.0)
                    counts[what][k] += (low <= truth[what] <= high, truth[what] < low, truth[what] > high, high <= low)
        for what, (ours, plain) in counts.items():
            yield {"shape": name, "interval of": what, "holds it": share(int(ours[0]), repeats)} | {
                "below": f"{ours[1] / repeats:.1%}",
                "above": f"{ours[2] / repeats:.1%}",
                "zero": f"{ours[3] / repeats:.1%}",
                "percentile": f"{plain[0] / repeats:.1%}",
                "its zero": f"{plain[3] / repeats:.1%}",
            }


def grouped(rng: np.random.Generator, groups: int, rows: int, *, copied: bool) -> tuple[Array, Array, Array, Array]:
    """Labels, two models' answers and groups [n]. The models are equally good: right on 85 % of the rows."""
    n, c, base = groups * rows, len(SHARES), 0.85
    group = np.repeat(np.arange(groups), rows)
    shift, own = rng.integers(1, c, groups), rng.random((2, groups)) < DIFFER  # groups where a model is on its own
    if copied:
        copy, first = rng.random(n) < 0.7, rng.choice(c, groups, p=SHARES)
        y = np.where(copy, first[group], rng.choice(c, n, p=SHARES))
        alike = rng.random(groups) < base
    else:
        y = draw(rng, group, rng.dirichlet(SHARES * 3, groups))
        alike = rng.beta(base * 7 / 3, (1 - base) * 7 / 3, groups)
    models = []
    for anew in own:
        if copied:
            level = np.where(anew, rng.random(groups) < base, alike)[group]
            right = np.where(rng.random(n) < 0.7, level, rng.random(n) < base)
        else:
            level = np.where(anew, rng.beta(base * 7 / 3, (1 - base) * 7 / 3, groups), alike)[group]
            right = rng.random(n) < level
        wrong = np.where(rng.random(n) < 0.7, shift[group], rng.integers(1, c, n))
        models.append(np.where(right, y, (y + wrong) % c))
    return y, models[0], models[1], group


def judged(labels: Labels, one: Predictions, two: Predictions, seed: int) -> tuple[bool, bool]:
    """Whether the 95 % interval of the difference holds 0, and whether the gate calls the first superior at 5 %."""
    seen, units = labels.difference("macro_f1", one, two), labels.n_groups or len(labels)
    drawn = labels.resampled_differences("macro_f1", one, two, RESAMPLES, seed)
    low, high = intervals._percentiles(drawn, seen, 0.95, units, (-1.0, 1.0))
    bound, _ = intervals._percentiles(drawn, seen, 0.90, units, (-1.0, 1.0))
    is_superior = bound > 0 and paired_permutation(labels, one, two, "macro_f1", RESAMPLES, seed) <= 0.05
    return low <= 0 <= high, is_superior


def groups(repeats: int) -> Iterator[Row]:
    """Coverage with groups, and how often one of two equally good models is superior: bound and permutation test."""
    c = len(SHARES)
    for copied in (False, True):
        y, a, _, _ = grouped(np.random.default_rng(1), 40_000, 20, copied=copied)
        truth = macro_f1(np.histogram2d(y, a, bins=c)[0]), float((a == y).mean())
        for n_groups, rows in GROUPS:
            counts = np.zeros(5)
            for i in range(repeats):
                rng = np.random.default_rng((n_groups, rows, int(copied), i))
                y, a, b, group = grouped(rng, n_groups, rows, copied=copied)
                labels, one, two = labels_of(y, range(c), groups=group), said(a, c), said(b, c)
                found = (interval_of(labels, one, i), intervals.share_interval(a == y, group))
                for k, (pair_of, value) in enumerate(zip(found, truth, strict=True)):
                    low, high = pair_of or (0.0, 0.0)
                    counts[k] += low <= value <= high
                held, superior = judged(labels, one, two, i)
                counts[2:4] += held, superior
                if i % 4 == 0:
                    counts[4] += judged(labels_of(y, range(c)), one, two, i)[1]
            yield {
                "groups x rows": f"{n_groups} x {rows}",
                "alike": "copied" if copied else "0.3",
                "macro F1 held": share(int(counts[0]), repeats),
                "accuracy held": f"{counts[1] / repeats:.1%}",
                "difference held": f"{counts[2] / repeats:.1%}",
                "superior": share(int(counts[3]), repeats),
                "as rows": f"{counts[4] / len(range(0, repeats, 4)):.1%}",
            }


def worse(rng: np.random.Generator, y: Array, answers: Array, loss: float, differ: float = 0.04) -> Array:
    """Answers right on `loss` fewer of the rows than `answers`; a share `differ` of rows gained and lost besides."""
    right = answers == y
    lost = right & (rng.random(len(y)) < (differ / 2 + loss) / right.mean())
    gained = ~right & (rng.random(len(y)) < differ / 2 / max(1e-9, 1 - right.mean()))
    wrong = (y + rng.integers(1, len(SHARES), len(y))) % len(SHARES)
    return np.where(gained, y, np.where(lost, wrong, answers))


def anchor(repeats: int) -> Iterator[Row]:
    """Promotions, by non-inferiority, of a challenger that is worse by the margin."""
    margin, c = 0.02, len(SHARES)
    for metric in ("accuracy", "macro_f1"):
        rule = PromotionRule(
            per="night", metric=metric, resamples=RESAMPLES, test="non_inferiority", margin=margin, max_class_loss=None
        )
        for n in (500, 2_500):
            y = np.searchsorted(np.round(np.cumsum(SHARES) * n), np.arange(n), side="right")
            for name, below in (("the champion", 0.0), ("the anchor", margin / 2)):
                promoted = 0
                for i in range(repeats):
                    rng = np.random.default_rng((n, round(below * 1e4), i))
                    first = np.where(rng.random(n) < 0.93, y, (y + rng.integers(1, c, n)) % c)
                    champion = worse(rng, y, first, below) if below else first
                    challenger = worse(rng, y, champion, margin - below)
                    own = [
                        labels_of(y, range(c)).scores(said(v, c), ranking=False).score(metric)
                        for v in (challenger, champion, first)
                    ]
                    if own[0] - max(own[1:]) <= -margin:
                        continue  # no bound lies above what was seen
                    models = [
                        Model(name=k, p=said(v, c).probabilities)
                        for k, v in (("challenger", challenger), ("champion", champion), ("anchor", first))
                    ]
                    promoted += decide(rule, GateRows(labels=y, classes=list("abcde")), *models).promote
                yield {"metric": metric, "rows": n, "2 points below": name, "promoted": share(promoted, repeats)}


def vetoes(repeats: int) -> Iterator[Row]:
    """Decisions in which any class or slice of an equally good model is called worse."""
    c = len(SHARES)
    for n_groups, rows in ((300, 1), (1_000, 1), (5_000, 1), (25, 20), (100, 10)):
        blocked = {"classes": 0, "slices": 0, "either": 0}
        for i in range(repeats):
            rng = np.random.default_rng((n_groups, rows, i))
            y, a, b, group = grouped(rng, n_groups, rows, copied=False)
            labels = labels_of(y, range(c), groups=group if rows > 1 else None)
            quarter, value = rng.integers(0, 4, len(y)), group % 8
            slices = {f"length {k}": quarter == k for k in range(4)} | {f"value {k}": value == k for k in range(8)}
            checks = part_checks(parts_of(labels, said(a, c), said(b, c), slices), {"class": 0.01, "slice": 0.01}, 0.95)
            for check in checks:
                blocked[check.name] += not check.passed
            blocked["either"] += not all(check.passed for check in checks)
        units = f"{n_groups} x {rows}" if rows > 1 else "none"
        shares = {name: share(count, repeats) for name, count in blocked.items()}
        yield {"rows": n_groups * rows, "groups x rows": units} | shares


def auroc(repeats: int) -> Iterator[Row]:
    """Coverage of the drift AUROC's interval without a change and with one along one feature, in deviations."""
    for n, m, width in ((50, 50, 2), (300, 300, 20)):
        for change in (0.0, 0.5, 1.5):
            found = []
            for i in range(repeats):
                rng = np.random.default_rng((n, m, width, round(change * 10), i))
                new = rng.normal(size=(m, width))
                new[:, 0] += change
                found.append(domain_shift(rng.normal(size=(n, width)), new, seed=i))
            truth = 0.5 if change == 0 else float(np.mean([f.auroc or 0.5 for f in found]))
            held = sum((f.low or 0.0) <= truth <= (f.high or 1.0) for f in found)
            yield {"old": n, "new": m, "features": width, "change": change, "mean AUROC": f"{truth:.3f}"} | {
                "holds it": share(held, repeats),
                "shifted": f"{sum(f.is_shifted() for f in found) / repeats:.1%}",
            }


def labels(repeats: int) -> Iterator[Row]:
    """Errors of the label-shift test where both sides have one distribution."""
    wide = np.geomspace(1, 0.02, 20) / np.geomspace(1, 0.02, 20).sum()
    for name, shares in (("5 uneven", SHARES), ("20 uneven", wide)):
        for n, m in ((2_000, 30), (2_000, 300)):
            small = twice = shifted = exact = 0
            for i in range(repeats):
                rng = np.random.default_rng((len(shares), n, m, i))
                sides = ({str(k): int(v) for k, v in enumerate(rng.multinomial(size, shares))} for size in (n, m))
                found = label_shift(*sides, seed=i)
                small, twice = small + (found.p_value < 0.01), twice + (found.p_value < 0.05)
                shifted, exact = shifted + found.is_shifted(), exact + (found.test == "Monte Carlo")
            yield {"classes": name, "old": n, "new": m, "p < 0.05": share(twice, repeats)} | {
                "p < 0.01": share(small, repeats),
                "shifted": f"{shifted / repeats:.1%}",
                "Monte Carlo": f"{exact / repeats:.0%}",
            }


def importances(repeats: int) -> Iterator[Row]:
    """How often the one knob that matters is named first in the search page's importances."""
    spaces: dict[str, BaseDistribution] = {
        "lr": FloatDistribution(1e-5, 2e-4, log=True),
        "batch_size": CategoricalDistribution((16, 32, 64)),
        "epochs": IntDistribution(2, 6),
        "alpha": FloatDistribution(0.8, 1.0),
    }
    for trials in (8, 24):
        for strength in (0.0, 1.0, 3.0):
            first, share_of_first, half = 0, 0.0, 0
            for i in range(repeats):
                rng = np.random.default_rng((trials, round(strength), i))
                places, noise = rng.random(trials), rng.normal(size=trials)
                effect = -((places - 0.6) ** 2)  # a best rate inside the range, as of a real search
                scores = 0.8 + 0.01 * (noise + strength * effect / effect.std())
                results = [
                    TrialResult(
                        slot=k,
                        number=k,
                        state="complete",
                        reason="",
                        params={
                            "lr": float(1e-5 * 20 ** places[k]),
                            "batch_size": int(rng.choice([16, 32, 64])),
                            "epochs": int(rng.integers(2, 7)),
                            "alpha": float(rng.uniform(0.8, 1.0)),
                        },
                        fit=TrainingResult(state="complete", score=float(scores[k]), log_loss=0.5, seconds=1.0),
                        seconds=1.0,
                    )
                    for k in range(trials)
                ]
                found = knob_importances(results, spaces) or {}
                name, part = next(iter(found.items()))
                first, share_of_first, half = first + (name == "lr"), share_of_first + part, half + (part >= 0.5)
            yield {"trials": trials, "lr moves it by": f"{strength:g} noise"} | {
                "lr named first": share(first, repeats),
                "mean share of the first": f"{share_of_first / repeats:.2f}",
                "half or more": f"{half / repeats:.1%}",
            }


PARTS: dict[str, Callable[[int], Iterator[Row]]] = {
    "shapes": shapes,
    "groups": groups,
    "anchor": anchor,
    "vetoes": vetoes,
    "auroc": auroc,
    "labels": labels,
    "importances": importances,
}


def main() -> None:
    """Print the parts asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2_000)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--json", type=Path, help="the tables as a file, too")
    wanted = parser.parse_args()
    tables: dict[str, list[Row]] = {}
    for name in wanted.part or PARTS:
        began, tables[name] = time.perf_counter(), []
        print(f"\n{name}, {wanted.repeats:,} repeats a line")
        for row in PARTS[name](wanted.repeats):
            widths = [max(len(key), len(str(value)), 7) for key, value in row.items()]
            if not tables[name]:
                widths = [max(w, len(key)) for w, key in zip(widths, row, strict=True)]
                print("  ".join(key.rjust(w) for key, w in zip(row, widths, strict=True)))
            print("  ".join(str(value).rjust(w) for value, w in zip(row.values(), widths, strict=True)), flush=True)
            tables[name].append(row)
        print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    if wanted.json:
        wanted.json.write_text(json.dumps({"repeats": wanted.repeats, **tables}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
