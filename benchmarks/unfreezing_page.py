"""docs/techniques/unfreezing.md and its picture, from the records of unfreezing.py alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from paired import accuracy_difference
from paper_arms import Arm
from paper_fits import MACHINE, ROWS, digits
from paper_pictures import arms_picture
from records import Records

DOCS = Path(__file__).parent.parent / "docs" / "techniques"
WANTED_SEEDS, LOSS, COST = 5, 0.01, 0.65  # what is asked of a schedule: seeds, points that it may lose, cost
CHOSEN = "top two thirds"  # the arm that is the product's `gradual`
TITLES = {"imdb": "IMDb, 600 reviews", "bbc": "BBC News, 400 articles", "rt": "Rotten Tomatoes, 2,000 sentences"}
HEAD = (
    "| schedule | seeds | accuracy, % (lowest to highest) | minus `none`, points | 95 % over seeds | "
    "over rows and seeds | cost |\n|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is known of one arm on one set. difference: of paired.py, None without a pair.

    cost: over that of `none`, None without a fit of it; is_cold: each fit filled the prefix cache first.
    """

    arm: Arm
    accuracies: list[float]
    difference: dict[str, Any] | None
    cost: float | None
    is_cold: bool

    @property
    def name(self) -> str:
        """The schedule, without its rate."""
        return self.arm.name.partition(", ")[2]

    @property
    def lowest(self) -> float:
        """The lower of the two intervals' lower ends; NaN where one is unknown."""
        found = self.difference
        return float("nan") if found is None else min(found[f"interval_{n}"][0] for n in ("seeds", "rows_and_seeds"))

    def text(self) -> str:
        """One line of a table."""
        seeds = len(self.accuracies)
        span = f"{np.mean(self.accuracies):.2f} ({min(self.accuracies):.2f} to {max(self.accuracies):.2f})"
        found, shown = self.difference, [""] * 3
        if found is not None:
            both = (found[f"interval_{name}"] for name in ("seeds", "rows_and_seeds"))
            ends = ["" if np.isnan(low) else f"[{100 * low:+.2f}, {100 * high:+.2f}]" for low, high in both]
            shown = [f"{100 * found['difference']:+.2f}", *ends]
        cost = "" if self.cost is None else f"{self.cost:.2f}{' (cold)' * self.is_cold}"
        return "| " + " | ".join([self.name, str(seeds), span, *shown, cost]) + " |"


def fits_of(records: Records, arm: Arm) -> dict[int, dict[str, Any]]:
    """The finished fits of an arm, by seed."""
    found = records.matching(arm.key(0).removesuffix("0"))
    return {int(seed): fit for seed, fit in sorted(found.items()) if "answers" in fit}


def row_of(records: Records, arm: Arm, plain: Arm) -> Row | None:
    """An arm beside `plain`, paired over the seeds that both have by one code; None where nothing was measured."""
    ours, theirs = fits_of(records, arm), fits_of(records, plain)
    if not ours:
        return None
    labels = digits((records.get(ROWS) or {})["labels"])
    seeds = [s for s in ours if s in theirs and ours[s]["code"] == theirs[s]["code"]] if arm.against else []
    sides = [[digits(side[seed]["answers"]) for seed in seeds] for side in (ours, theirs)]
    warm = [fit["fit_cpu"] for fit in ours.values() if not (fit.get("prefix") or {}).get("built")]
    own, base = warm or [fit["fit_cpu"] for fit in ours.values()], [fit["fit_cpu"] for fit in theirs.values()]
    return Row(
        arm=arm,
        accuracies=[100 * float(np.mean(digits(fit["answers"]) == labels)) for fit in ours.values()],
        difference=accuracy_difference(*sides, labels) if seeds else None,
        cost=min(own) / min(base) if base else None,
        is_cold=not warm,
    )


def verdict(rows: Sequence[tuple[str, Row]]) -> list[str]:
    """What the chosen schedule reaches of what is asked of it, set by set."""
    lines = []
    for where, row in rows:
        assert row.difference is not None, "the caller left the others out"
        low, high = row.lowest, min(row.difference[f"interval_{n}"][1] for n in ("seeds", "rows_and_seeds"))
        points = f"{100 * row.difference['difference']:+.2f} points over {row.difference['seeds']} seed(s)"
        if np.isnan(low):
            said = "one seed has no interval over seeds: nothing is shown"
        elif high < 0:
            said = "**it loses**: both intervals lie below 0"
        elif low > -LOSS:
            said = f"no loss, and none of {100 * LOSS:g} point or more is left open"
        else:
            said = f"no measurable loss; one of up to {-100 * low:.1f} points is left open"
        lines.append(f"- {where}: {points}; {said}.")
    return lines


def write_page(found: Mapping[str, Records], arms: Mapping[float, Sequence[Arm]]) -> Path:
    """The page and its picture in docs/techniques; returns the page. Raises SystemExit without measurements."""
    parts, pictured, judged, missing = [], [], [], []
    every = [arm for own in arms.values() for arm in own]
    fits = [fit for records in found.values() for arm in every for fit in fits_of(records, arm).values()]
    if not fits:
        raise SystemExit("no measurements: run without --write first")
    for name, title in TITLES.items():
        for own in arms.values():
            plain, rate = own[0], own[0].name.partition(", ")[0]
            rows = [row for arm in own if name in found and (row := row_of(found[name], arm, plain)) is not None]
            chosen = next((row for row in rows if row.name == CHOSEN), None)
            paired = 0 if chosen is None or chosen.difference is None else chosen.difference["seeds"]
            if paired < WANTED_SEEDS:
                missing.append(f"{title}, {rate}: {paired} of {WANTED_SEEDS} pairs")
            if rows:
                parts.append(f"## {title}, {rate}\n\n{HEAD}\n" + "\n".join(row.text() for row in rows))
                for row in rows:
                    label = row.name.replace("two thirds", "2/3").replace("head fitted", "fitted")
                    shown = replace(row.arm, name=f"{name} {rate.removeprefix('lr ')}: {label}")
                    pictured.append((shown, [100 - accuracy for accuracy in row.accuracies], row.difference, None))
            if paired:
                judged.append((f"{title}, {rate}", chosen))
    picture = arms_picture("Unfreezing against training everything", pictured, DOCS / "unfreezing.png")
    page = DOCS / "unfreezing.md"
    parts = [heading(found, fits), "## What is shown\n\n" + conclusion(judged, missing), *parts]
    page.write_text("\n\n".join([*parts, f"![differences with intervals]({picture.name})"]) + "\n", encoding="utf-8")
    return page


def heading(found: Mapping[str, Records], fits: Sequence[dict[str, Any]]) -> str:
    """What was measured, when, how, on what."""
    days, codes = (sorted({fit[name] for fit in fits}) for name in ("at", "code"))
    machine = next(iter(found.values())).get(MACHINE) or {}
    tests = ", ".join(f"{name} {(records.get('settings') or {})['test']:,}" for name, records in found.items())
    return (
        "# Unfreezing: what a schedule costs and what it saves\n\n"
        f"`python benchmarks/unfreezing.py --out docs/techniques/unfreezing --write`, {' to '.join(days)}, code "
        f"{', '.join(codes)}: {len(fits)} fits on a shared AMD EPYC with AVX2 alone, {machine['threads']} thread, "
        f"{machine['precision']}. all-MiniLM-L6-v2 (6 layers), 64 tokens, 3 epochs, batches of 16, alpha 1; 200 "
        f"validation rows choose the epoch; test rows: {tests}. Each schedule is paired with `none`, which trains "
        "everything from the first step, by seed and test row. `top two thirds` is depth ⌈2L/3⌉ from the first step, "
        "the product's **`gradual`**; `late` was its `gradual` until November 2026 and has a name of its own. Cost: "
        "processor seconds of a fit over those of `none`, validation included, the lowest of the seeds on both sides, "
        "since other work on the machine only ever adds; hidden states below the trained layers come from the prefix "
        "cache (cold: each fit had to fill it first). *head fitted*: the head begins where L2-regularised logistic "
        "regression on the frozen features ends (LP-FT, arXiv 2202.10054), its penalty chosen on validation; it was "
        "tried, learnt the training rows faster, was no better, and is no part of the product."
    )


def conclusion(judged: Sequence[tuple[str, Row]], missing: Sequence[str]) -> str:
    """What the measurements say of `gradual`, and what they do not say yet."""
    asked = (
        f"Asked of `gradual`: {WANTED_SEEDS} seeds on each set and rate, both intervals include 0 and end above "
        f"-{100 * LOSS:g} point, at no more than {COST} of the cost of `none`."
    )
    costs = [row.cost for _, row in judged if row.cost is not None]
    cost = f"- Cost: {min(costs):.2f} to {max(costs):.2f} of `none`, wanted {COST} or less." if costs else ""
    lines = [asked, "", *verdict(judged), cost]
    if missing:
        lines += ["", f"**Incomplete**: {'; '.join(missing)}. The same command without --write goes on."]
    return "\n".join(lines)
