"""Error rates and power of the gate: simulated pairs of models through the production decide(), all checks on.

python benchmarks/gate_errors.py [--quick] [--json] [--metric macro_f1] [--test non_inferiority --margin 0.01]

Models: 5 classes, slightly unbalanced; an error goes to one of two neighbouring classes, 70 : 30. The challenger is
right on a share `base` of the rows. Two equal models disagree about right and wrong on 4 % of the rows (base 0.95) or
10 % (0.85); a challenger better by `delta` is right on that share of further rows. Labels are fixed, answers drawn.
A month is 30 challengers, no better than their one champion, on the same rows; it counts once if any is promoted.

A pair whose difference is less than one standard error above what the rule asks for is counted as kept without
calling decide(): the bound asks for 1.64 or more. --all judges every pair.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from statistics import NormalDist
from typing import Any

import numpy as np

from bertft_core.config.promotion import PERIODS, RESAMPLES, PromotionRule
from bertft_core.evaluation.gate.comparison import GateRows, Model
from bertft_core.evaluation.gate.decision import decide
from bertft_core.evaluation.scores.intervals import wilson

ROWS = (200, 500, 1_000, 2_500, 10_000, 25_000)
SHARES = np.array([0.26, 0.23, 0.20, 0.17, 0.14])
CLASSES = tuple("abcde")
NEAR = 0.7  # of errors: into the next class, else the one before
SAME_WRONG = 0.7  # of rows both get wrong: the challenger repeats the champion's answer
DISCORDANCE = {0.95: 0.04, 0.85: 0.10}  # of two equal models, by accuracy
FEW = {"night": 1_000, "month": 3_000}  # resamples; at 5 % / 30 the rule itself wants 3,000
PAIRS_A_PART, MONTHS_A_PART = 50, 5

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Design:
    """n rows; base: the challenger's true accuracy; delta: how much higher it is than the champion's."""

    n: int
    base: float
    delta: float

    @property
    def gained(self) -> float:
        """Share of rows only the challenger gets right."""
        return DISCORDANCE[self.base] / 2 + max(self.delta, 0.0)

    @property
    def lost(self) -> float:
        """Share of rows only the champion gets right."""
        return DISCORDANCE[self.base] / 2 + max(-self.delta, 0.0)

    @property
    def champion(self) -> float:
        """The champion's true accuracy."""
        return self.base - self.delta

    @property
    def labels(self) -> Array:
        """Fixed labels [n] in the proportions of SHARES."""
        edges = np.round(np.cumsum(SHARES) * self.n)
        return np.searchsorted(edges, np.arange(self.n), side="right")


@dataclass(frozen=True, kw_only=True)
class Job:
    """`count` pairs of one design, or months of 30, under rules from the strictest on; one seed."""

    design: Design
    rules: tuple[PromotionRule, ...]
    count: int
    seed: tuple[int, ...]
    is_month: bool
    judges_all: bool = False


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A measured share with its 95 % Wilson interval; `expected`: the most allowed, or the power by theory."""

    kind: str
    per: str
    n: int
    base: float
    delta: float
    true_difference: float
    count: int
    of: int
    low: float
    high: float
    expected: float

    def __str__(self) -> str:
        return f"{self.count / self.of:6.1%} [{self.low:5.1%}, {self.high:6.1%}]"


def wrong_answers(rng: np.random.Generator, labels: Array) -> Array:
    """An answer beside the true class for each row."""
    return (labels + np.where(rng.random(len(labels)) < NEAR, 1, -1)) % len(SHARES)


def draw_champion(rng: np.random.Generator, design: Design) -> Array:
    """Answers [n]."""
    y = design.labels
    return np.where(rng.random(design.n) < design.champion, y, wrong_answers(rng, y))


def draw_challenger(rng: np.random.Generator, design: Design, champion: Array) -> Array:
    """Answers [n], given the champion's, with the design's shares of gained and lost rows."""
    y, u, was_right = design.labels, rng.random(design.n), champion == design.labels
    is_right = np.where(was_right, u >= design.lost / design.champion, u < design.gained / (1 - design.champion))
    repeats = ~was_right & (rng.random(design.n) < SAME_WRONG)
    return np.where(is_right, y, np.where(repeats, champion, wrong_answers(rng, y)))


def probabilities(rng: np.random.Generator, answers: Array) -> Array:
    """Distributions [n, C] whose argmax is the answer, with confidences from 0.55 to 0.99."""
    confidence = 0.55 + 0.44 * rng.random(len(answers)) ** 0.5
    p = np.repeat(((1 - confidence) / (len(SHARES) - 1))[:, None], len(SHARES), axis=1)
    p[np.arange(len(answers)), answers] = confidence
    return p


def threshold(rule: PromotionRule) -> float:
    """What the true difference must exceed to deserve promotion."""
    return rule.min_gain if rule.margin is None else -rule.margin


def influence(metric: str, labels: Array, answers: Array, weight: Array) -> tuple[float, Array]:
    """The score of weighted rows, and to first order each row's share in it."""
    hit = (answers == labels).astype(float)
    if metric == "accuracy":
        return float((weight * hit).sum() / weight.sum()), hit
    counted = ((labels, weight), (answers, weight), (labels, weight * hit))
    support, predicted, hits = (np.bincount(of, weights=w, minlength=len(SHARES)) for of, w in counted)
    f1, scale = 2 * hits / (support + predicted), weight.sum() / (support + predicted) / len(SHARES)
    return float(f1.mean()), 2 * hit * scale[labels] - (f1 * scale)[answers]


def difference(metric: str, labels: Array, a: Array, b: Array, weight: Array, n: int) -> tuple[float, float]:
    """score(a) - score(b) and its standard error over n rows, stratified by label as the bootstrap is."""
    (score_a, of_a), (score_b, of_b) = (influence(metric, labels, m, weight) for m in (a, b))
    gains = of_a - of_b
    total, support = (np.bincount(labels, weights=w, minlength=len(SHARES)) for w in (weight * gains, weight))
    variance = (weight * (gains - (total / support)[labels]) ** 2).sum() / weight.sum()
    return score_a - score_b, float(np.sqrt(variance / n))


def population(design: Design) -> tuple[Array, Array, Array, Array]:
    """Every (label, challenger's answer, champion's answer) and its probability."""
    cells, wrong, c = [], ((1, NEAR), (-1, 1 - NEAR)), len(SHARES)
    for y, share in enumerate(SHARES):
        cells.append((y, y, y, share * (design.champion - design.lost)))
        for step, chance in wrong:
            w = (y + step) % c
            cells += [(y, y, w, share * design.gained * chance), (y, w, y, share * design.lost * chance)]
            for other, chance_b in wrong:
                agreed = (1 - SAME_WRONG) * chance + SAME_WRONG * (step == other)
                neither = 1 - design.champion - design.gained
                cells.append((y, w, (y + other) % c, share * neither * chance_b * agreed))
    labels, a, b = (np.array([cell[i] for cell in cells]) for i in range(3))
    return labels, a, b, np.array([cell[3] for cell in cells])


def theory(design: Design, rule: PromotionRule) -> tuple[float, float]:
    """The metric's true difference, and the power at the rule's alpha by the normal approximation."""
    y, a, b, weight = population(design)
    true, error = difference(rule.metric, y, a, b, weight, design.n)
    return true, NormalDist().cdf((true - threshold(rule)) / error - NormalDist().inv_cdf(1 - rule.alpha))


def run_job(job: Job) -> tuple[Job, list[int]]:
    """How many of the job's pairs, or months, each rule promotes."""
    rng, design = np.random.default_rng(job.seed), job.design
    promoted = np.zeros(len(job.rules), dtype=int)
    for _ in range(job.count):
        champion = draw_champion(rng, design)
        q = probabilities(rng, champion)
        for night in range(PERIODS["month"] if job.is_month else 1):
            challenger = draw_challenger(rng, design, champion)
            verdicts = judge(job, champion, challenger, probabilities(rng, challenger), q, night)
            if any(verdicts):
                promoted += verdicts
                break
    return job, promoted.tolist()


def judge(job: Job, champion: Array, challenger: Array, p: Array, q: Array, spent: int) -> list[bool]:
    """The production gate's verdict under each rule; what a stricter rule promotes, a laxer one does too."""
    y, lax = job.design.labels, job.rules[-1]
    found, error = difference(lax.metric, y, challenger, champion, np.ones(len(y)), len(y))
    if found - threshold(lax) < error and not job.judges_all:
        return [False] * len(job.rules)
    verdicts: list[bool] = []
    rows, models = GateRows(labels=y, classes=CLASSES), (Model(name="challenger", p=p), Model(name="champion", p=q))
    for rule in job.rules:
        verdicts.append(any(verdicts) or decide(rule, rows, *models, spent=spent).promote)
    return verdicts


def measure(jobs: list[Job], processes: int) -> list[Rate]:
    """Run the jobs, add up those of one design; progress on stderr."""
    counts: dict[tuple[Design, bool], Array] = {}
    rules = {(job.design, job.is_month): job.rules for job in jobs}
    began, shown = time.perf_counter(), 0.0
    for done, (job, promoted) in enumerate(results(jobs, processes), start=1):
        key = (job.design, job.is_month)
        counts[key] = counts.get(key, 0) + np.array([*promoted, job.count])
        if time.perf_counter() - shown > 10:
            shown = time.perf_counter()
            print(f"{done} of {len(jobs)} parts, {shown - began:.0f} s", file=sys.stderr, flush=True)
    return [
        rate(*key, rule, int(counts[key][i]), int(counts[key][-1]))
        for key in sorted(counts, key=lambda k: (k[0].base, k[0].n, k[0].delta, k[1]))
        for i, rule in enumerate(rules[key])
    ]


def results(jobs: list[Job], processes: int) -> Iterator[tuple[Job, list[int]]]:
    """`run_job` over all jobs, in this process where `processes` is 1."""
    if processes == 1:
        yield from map(run_job, jobs)
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # one process a core; spawned ones read it when they import numpy
    with get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(run_job, jobs)


def rate(design: Design, is_month: bool, rule: PromotionRule, count: int, of: int) -> Rate:
    """The counts with their interval and what was to be expected."""
    true, power = theory(design, rule)
    is_false = design.delta <= threshold(rule)
    low, high = wilson(count, of)
    return Rate(
        kind=("false in 30 nights" if is_month else "false") if is_false else "power",
        per=rule.per,
        n=design.n,
        base=design.base,
        delta=design.delta,
        true_difference=true,
        count=count,
        of=of,
        low=low,
        high=high,
        expected=power if not is_false else 1 - rule.level if is_month else rule.alpha,
    )


def plan(options: argparse.Namespace) -> list[Job]:
    """All jobs, those of most rows first, so that the pool ends evenly."""
    month, night = (
        PromotionRule(metric=options.metric, test=options.test, margin=options.margin, per=per, resamples=FEW[per])
        for per in ("month", "night")
    )
    equal = threshold(night)
    jobs: list[Job] = []
    for base in options.base:
        for n in [n for n in options.rows if n <= options.most_rows or base == options.base[0]]:
            for delta in (equal, *((0.01, 0.02, 0.05) if equal == 0 else (0.0, 0.01))):
                rules = (night,) if delta == equal else (month, night)
                jobs += parts(Design(n=n, base=base, delta=delta), rules, options.pairs, False, options.all)
            jobs += parts(Design(n=n, base=base, delta=equal), (month,), options.months, True, options.all)
    return sorted(jobs, key=lambda job: -job.design.n)


def parts(
    design: Design, rules: tuple[PromotionRule, ...], total: int, is_month: bool, judges_all: bool = False
) -> list[Job]:
    """`total` pairs or months in jobs of some seconds, each with a seed of its own."""
    size, key = MONTHS_A_PART if is_month else PAIRS_A_PART, (design.n, round(design.base * 100))
    seed = (*key, round(abs(design.delta) * 1e4), int(design.delta < 0), int(is_month))
    return [
        Job(
            design=design,
            rules=rules,
            count=min(size, total - start),
            seed=(*seed, start),
            is_month=is_month,
            judges_all=judges_all,
        )
        for start in range(0, total, size)
    ]


def compare_resamples(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The same pairs judged with few resamples and with production's: the rates must not differ."""
    found = []
    for per, n, delta in (("night", 500, 0.0), ("night", 2_500, 0.01), ("month", 500, 0.05)):
        row: dict[str, Any] = {"per": per, "n": n, "delta": delta, "pairs": options.pairs // 2}
        for name, resamples in (("few", FEW[per]), ("production", RESAMPLES)):
            rule = PromotionRule(metric=options.metric, per=per, resamples=resamples)
            jobs = parts(Design(n=n, base=0.95, delta=delta), (rule,), row["pairs"], False)
            (measured,) = measure(jobs, options.processes)
            row |= {f"{name}_resamples": resamples, f"{name}_rate": measured.count / measured.of}
        found.append(row)
    return found


def table(rates: list[Rate], resamples: list[dict[str, Any]]) -> str:
    """False promotions, power beside theory, and the check of the number of resamples."""
    find = {(r.kind, r.per, r.n, r.base, r.delta): r for r in rates}
    lines = ["false promotions", f"{'rows':>6} {'base':>5}  {'one decision, 5 %':24}  {'30 nights, 5 % in all':24}"]
    for r in [r for r in rates if r.kind == "false"]:
        month = find["false in 30 nights", "month", r.n, r.base, r.delta]
        lines.append(f"{r.n:6} {r.base:5.2f}  {r!s:24}  {month!s:24}")
    names = f"{'rows':>6} {'base':>5} {'delta':>6} {'in metric':>9}"
    lines += ["", "power", f"{names}  {'per: night':24} {'theory':>7}  {'per: month':24} {'theory':>7}"]
    for r in [r for r in rates if r.kind == "power" and r.per == "night"]:
        month = find["power", "month", r.n, r.base, r.delta]
        start = f"{r.n:6} {r.base:5.2f} {r.delta:+6.2f} {r.true_difference:+9.4f}"
        lines.append(f"{start}  {r!s:24} {r.expected:7.1%}  {month!s:24} {month.expected:7.1%}")
    lines += ["", "the same pairs with fewer resamples and with production's"]
    for row in resamples:
        few, production = (f"{row[f'{k}_resamples']:,}: {row[f'{k}_rate']:.1%}" for k in ("few", "production"))
        lines.append(
            f"per: {row['per']}, {row['n']} rows, delta {row['delta']:+.2f}, {row['pairs']} pairs: {few}, {production}"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the plan and print its table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="200 pairs and 30 months a cell")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--all", action="store_true", help="judge hopeless pairs too")
    parser.add_argument("--metric", default="macro_f1", choices=["macro_f1", "accuracy"])
    parser.add_argument("--test", default="superiority", choices=["superiority", "non_inferiority"])
    parser.add_argument("--margin", type=float, help="for non_inferiority; a false challenger is worse by it")
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--base", type=float, nargs="+", default=list(DISCORDANCE), choices=list(DISCORDANCE))
    parser.add_argument("--most-rows", type=int, default=1_000, help="up to which every base is simulated")
    parser.add_argument("--pairs", type=int, default=2_000)
    parser.add_argument("--months", type=int, default=300)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.quick:
        options.pairs, options.months = 200, 30
    began = time.perf_counter()
    rates, resamples = measure(plan(options), options.processes), compare_resamples(options)
    seconds = time.perf_counter() - began
    if options.json:
        print(json.dumps({"seconds": seconds, "rates": [asdict(r) for r in rates], "resamples": resamples}, indent=1))
        return
    print(f"{options.test} in {options.metric}; {options.pairs:,} pairs, {options.months} months; resamples {FEW}")
    print(f"{table(rates, resamples)}\n\n{seconds:.0f} s with {options.processes} processes")


if __name__ == "__main__":
    main()
