"""docs/techniques/evidence.md, from the records of paper_tables.py alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from paired import accuracy_difference
from paper_arms import CURVE_SEEDS, CURVES, MAX_LENGTH, TITLES, Arm, arms_of
from paper_pictures import arms_picture, curves_picture
from paper_plan import POINTS, baseline
from records import Records

from bertft_core.base.errors import InputError
from bertft_core.training.results import LEAST_LEARNT, UNTRAINED

WANTED_SEEDS = 5
HELPS, HURTS, NEITHER = "helps", "hurts", "makes no measurable difference at this size"
INTRODUCTIONS = {
    "table2": f"Every arm reads {MAX_LENGTH} tokens at a time{{cut}} (the paper: 512, which cuts 12.69 %). "
    "The hierarchical arms read up to 8 chunks of a text: they see more of it, at that much more work.",
    "table3": "**Not comparable with the paper layer by layer**: all-MiniLM-L6-v2 is a sentence encoder, trained so "
    "that the mean of its top layer's tokens is the sentence; its [CLS] was never trained to hold it, as BERT's was. "
    "Its six layers stand beside every second one of the paper's twelve. What is below the chosen layer trains, what "
    "is above is not computed.",
    "table4": "Our two rates stand beside the paper's two, the lower beside the lower. The same alpha reaches further "
    "with twelve layers than with six: 0.95 leaves the embeddings 0.54 of lr there and 0.735 here. The paper's own "
    "gain from 0.95 is 5 documents of 25,000 in one run (5.42 to 5.40): its table shows no effect, and nothing is "
    "claimed here beyond what is measured below.",
    "figure2": "The paper shows that 4e-4 does not converge with BERT-base and 25,000 rows, and prints no numbers. "
    f"The curves are of the first {CURVE_SEEDS} seeds' fits, scored on the test rows on their way; nothing was "
    "chosen by these scores.",
    "unfreezing": "Not in the paper. ULMFiT (arXiv 1801.06146, Table 7, validation error of an LSTM on IMDb) is beside "
    "ours where it has the arm. `fast` and `late` cost less time (speed.md); this is about accuracy alone. `gradual`, "
    "the default, is measured in unfreezing.md; until November 2026 that was the name of `late`.",
}


def verdict(found: dict[str, Any]) -> str:
    """The word for a difference: helps or hurts only when both 95 % intervals leave out zero on the same side.

    found: of `paired.accuracy_difference`. With one seed there is no interval over seeds, so neither.
    """
    spans = [found["interval_seeds"], found["interval_rows_and_seeds"]]
    if any(math.isnan(end) for span in spans for end in span):
        return NEITHER
    if all(low > 0 for low, _ in spans):
        return HELPS
    return HURTS if all(high < 0 for _, high in spans) else NEITHER


def sentence(arm: Arm, found: dict[str, Any] | None, reason: str = "") -> str:
    """One plain sentence about a technique."""
    if found is None:
        return f"{arm.technique}: not measured ({reason})."
    word = verdict(found)
    points = 100 * found["difference"]
    if word != NEITHER:
        return f"{arm.technique} {word}: {points:+.2f} points of accuracy."
    ends = [100 * end for name in ("seeds", "rows_and_seeds") for end in found[f"interval_{name}"]]
    if any(math.isnan(end) for end in ends):
        return f"{arm.technique}: one seed says nothing."
    limit = f"it may be worth anything from {min(ends):+.1f} to {max(ends):+.1f}"
    return f"{arm.technique} {word} ({points:+.2f} points; {limit})."


class Found:
    """What the records hold of the arms of some tables."""

    def __init__(self, records: Records, tables: Sequence[str], *, is_quick: bool = False) -> None:
        self.records = records
        self._differences: dict[str, dict[str, Any] | None] = {}
        self.arms, self.left_out = arms_of(tables, is_quick=is_quick)
        rows = records.get("test rows")
        if rows is None:
            raise InputError(f"{records.path} holds no measurements: run without --write first")
        self.labels = [int(digit) for digit in rows["labels"]]

    def fits(self, arm: Arm) -> dict[int, dict[str, Any]]:
        """By seed."""
        found = self.records.matching(arm.key(0).removesuffix("0"))
        return {int(seed): found[seed] for seed in sorted(found, key=int)}

    def answers(self, arm: Arm) -> dict[int, list[int]]:
        """By seed, of the fits that trained: neither diverged nor stayed at chance."""
        untrained = self.untrained(arm)
        return {
            seed: [int(digit) for digit in fit["answers"]]
            for seed, fit in self.fits(arm).items()
            if "answers" in fit and seed not in untrained
        }

    def untrained(self, arm: Arm) -> list[int]:
        """The seeds whose fits did not train, by the product's rule (`TrainingResult.fault`) and the stored losses.

        The classes' shares of the test rows stand for those of the training and validation rows.
        """
        shares = np.bincount(self.labels) / len(self.labels)
        chance = -sum(float(share * np.log(share)) for share in shares if share)
        losses = {
            seed: min(epoch[name] for epoch in fit["history"] for name in ("train_loss", "validation_loss"))
            for seed, fit in self.fits(arm).items()
            if fit.get("history")
        }
        return [seed for seed, loss in losses.items() if 1 - loss / chance < LEAST_LEARNT]

    def errors(self, arm: Arm) -> list[float]:
        """Test error in % of each seed."""
        return [100 * float(np.mean(np.array(a) != self.labels)) for a in self.answers(arm).values()]

    def difference(self, arm: Arm) -> dict[str, Any] | None:
        """Paired with its baseline over the seeds that both have; None without any."""
        name = f"{arm.table}, {arm.name}"
        if name not in self._differences:
            self._differences[name] = self._paired(arm)
        return self._differences[name]

    def _paired(self, arm: Arm) -> dict[str, Any] | None:
        if self.untrained(arm) or self.untrained(baseline(arm, self.arms)):
            return None
        ours, theirs = self.answers(arm), self.answers(baseline(arm, self.arms))
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            return None
        return accuracy_difference([ours[s] for s in seeds], [theirs[s] for s in seeds], self.labels)

    def reason(self, arm: Arm) -> str:
        """Why there is nothing of an arm."""
        decision = self.records.get(f"decision, {arm.table}, {arm.name}")
        if decision and not decision["kept"]:
            resolves = f"{100 * decision['resolvable']:.1f}"
            return f"dropped before running: it could resolve {resolves} points, {100 * POINTS:g} were wanted"
        if untrained := self.untrained(arm):
            return f"{UNTRAINED} in {len(untrained)} of {len(self.fits(arm))} seeds"
        diverged = [fit["diverged"] for fit in self.fits(arm).values() if "diverged" in fit]
        return f"every fit diverged: {diverged[0]}" if diverged else "not run yet"

    def curves(self, arm: Arm) -> list[dict[str, Any]]:
        """Accuracy and training loss on the way, of each seed."""
        found = self.records.matching(arm.curve_key(0).removesuffix("0"))
        return [found[seed] for seed in sorted(found, key=int) if "accuracy" in found[seed]]


def write_page(records: Records, tables: Sequence[str], folder: Path, *, is_quick: bool) -> Path:
    """evidence.md and evidence_<table>.png in `folder`; returns the page. Raises InputError without measurements."""
    found = Found(records, tables, is_quick=is_quick)
    parts = [heading(found, is_quick), *(section(found, table, folder) for table in tables)]
    if found.left_out:
        parts.append("## Left out\n\n" + "\n".join(f"- {line}" for line in found.left_out))
    page = folder / "evidence.md"
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def heading(found: Found, is_quick: bool) -> str:
    """What was measured, when, how, on what."""
    settings, machine = found.records.get("settings") or {}, found.records.get("settings of the machine") or {}
    fits = [fit for arm in found.arms for fit in found.fits(arm).values()]
    if not fits:
        raise InputError(f"{found.records.path} holds no fit of these tables: run without --write first")
    days, codes = (sorted({fit[name] for fit in fits}) for name in ("at", "code"))
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    seeds = max(len(found.fits(arm)) for arm in found.arms)
    compared = [d for arm in found.arms if arm.against and (d := found.difference(arm))]
    warning = "**Only a trial of the script (--quick): no number here means anything.**\n\n" if is_quick else ""
    mixed = f" Measured by {len(codes)} versions of the code." if len(codes) > 1 else ""
    few = f" Fewer than {WANTED_SEEDS} seeds so far." if seeds < WANTED_SEEDS else ""
    return (
        f"# Evidence: the paper's tables in our size\n\n{warning}"
        f"`python benchmarks/paper_tables.py --out {found.records.path.name}{' --quick' if is_quick else ''}`, {when}, "
        f"{settings['threads']} thread{'s' * (settings['threads'] > 1)}, {machine.get('precision')}; "
        f"the page by `--write`.{mixed}\n\n"
        "What Sun et al. 2019 (arXiv 1905.05583) report for BERT-base and the 25,000 training rows of IMDb, and what "
        f"the same arms do here: MiniLM-L6 (all-MiniLM-L6-v2), {settings['train']:,} IMDb reviews, at most "
        f"{settings['max_length']} tokens, {settings['epochs']} epochs, batches of {settings['batch_size']}, "
        f"{settings['validation']:,} validation rows that choose the epoch, {settings['test']:,} test rows (in "
        f"training precision), {seeds} seeds, the same rows and seeds in all arms.{few} Our errors are those of "
        "a small model on few rows: what can be compared is the sign and size of a difference, not an error.\n\n"
        "A difference is in points of accuracy, above zero: better than the arm named. Two 95 % intervals: over seeds "
        "(Student's, on these very rows) and over rows and seeds (bootstrap of both). **helps** and **hurts** stand "
        f"only where both leave out zero. A fit whose loss never left that of the class shares by {LEAST_LEARNT:.0%} "
        f"{UNTRAINED}: it has no score, and its arm is compared with nothing. Of {len(compared)} comparisons at 95 %, "
        f"about {0.05 * len(compared):.0f} would leave out zero by chance if nothing had any effect."
    )


def section(found: Found, table: str, folder: Path) -> str:
    """One table of the paper: numbers, picture, sentences."""
    arms = [arm for arm in found.arms if arm.table == table]
    file = folder / f"evidence_{table}.png"
    lines = [
        "| arm | error, % (lowest to highest seed) | against | difference | over seeds | over rows and seeds | "
        "paper: error | paper: difference |",
        "|" + "---|" * 8,
    ]
    differences = {arm.name: found.difference(arm) for arm in arms if arm.against}
    lines += [row(found, arm, differences.get(arm.name)) for arm in arms]
    said = [f"- {sentence(a, differences[a.name], found.reason(a))}" for a in arms if a.technique]
    pictures = []
    if any(found.errors(arm) for arm in arms):
        shown = [(arm, found.errors(arm), differences.get(arm.name), paper_gain(arm, arms)) for arm in arms]
        pictures.append(arms_picture(TITLES[table], shown, file))
    if table == CURVES and any(found.curves(arm) for arm in arms):
        followed = {arm.name: found.curves(arm) for arm in arms}
        pictures.append(curves_picture(TITLES[table], followed, folder / f"evidence_{table}_curves.png"))
    shown_pictures = "\n\n".join(f"![{TITLES[table]}]({picture.name})" for picture in pictures)
    cut = found.records.get("training rows that are cut")
    introduction = INTRODUCTIONS[table].replace(
        "{cut}", f", which cuts {100 * cut['share']:.1f} % of the texts" if cut else ""
    )
    parts = [f"## {TITLES[table]}", introduction, "\n".join(lines), shown_pictures, "\n".join(said)]
    return "\n\n".join(part for part in parts if part)


def row(found: Found, arm: Arm, difference: dict[str, Any] | None) -> str:
    """One line of a table."""
    errors = found.errors(arm)
    ours = f"{np.mean(errors):.2f} ({min(errors):.2f} to {max(errors):.2f})" if errors else found.reason(arm)
    if errors and found.untrained(arm):
        ours = f"{found.reason(arm)}; else {ours}"
    elif errors and len(errors) < WANTED_SEEDS:
        ours += f", {len(errors)} seed{'s' * (len(errors) > 1)}"
    cells = [arm.name, ours, arm.against]
    if difference is None:
        cells += [""] * 3
    else:
        spans = [difference[f"interval_{name}"] for name in ("seeds", "rows_and_seeds")]
        shown = ["" if math.isnan(a) else f"[{100 * a:+.2f}, {100 * b:+.2f}]" for a, b in spans]
        cells += [f"{100 * difference['difference']:+.2f}", *shown]
    theirs = f"{arm.error:.2f}" + (f" ({arm.note})" if arm.note else "") if arm.error is not None else ""
    gain = paper_gain(arm, found.arms)
    return "| " + " | ".join([*cells, theirs, "" if gain is None else f"{gain:+.2f}"]) + " |"


def paper_gain(arm: Arm, arms: Sequence[Arm]) -> float | None:
    """Points that the paper's error falls by from the baseline to this arm; None where it lacks one of them."""
    if not arm.against or arm.error is None:
        return None
    theirs = baseline(arm, arms).error
    return None if theirs is None else round(theirs - arm.error, 2)
