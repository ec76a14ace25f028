"""Whether a night trains, and why. Signs that need an encoder are asked only where the cheap ones are silent."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bertft_core.base.errors import DataError
from bertft_core.base.text import counted
from bertft_core.config.nightly import NightlyConfig
from bertft_core.evaluation.drift.domain_shift import DomainShift
from bertft_core.evaluation.drift.label_shift import LabelShift
from bertft_core.recipe.nights.rows import Changes

LEAST_ROWS = 30  # new rows below which a share or a score of them says nothing


@dataclass(frozen=True, kw_only=True)
class TrainingDecision:
    """Whether to train, and every trigger that fired, or why none did."""

    trains: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class NewRowsScore:
    """Right answers of the champion on so many rows that it did not see, and its accuracy on its test rows.

    high: the upper end of the 95 % interval of the share of right answers. test_low: the lower end of that of
    test_accuracy; both None where its answers to test rows are not kept.
    """

    right: int
    rows: int
    high: float
    test_accuracy: float | None = None
    test_low: float | None = None


def require_sound(change: Changes, config: NightlyConfig) -> tuple[str, ...]:
    """Warnings about classes and row counts. Raises DataError where the nightly section says `fail`."""
    faults, warnings = [], []
    new = f"class {_names(change.new_classes)} is new: the champion cannot know it"
    lost = f"class {_names(change.lost_classes)} has no row any more"
    halved = f"{counted(change.now, 'row')}, the last training had {change.before}"
    cases = (
        ("new_class", bool(change.new_classes), new),
        ("lost_class", bool(change.lost_classes), lost),
        ("halved", 2 * change.now <= change.before, halved),
    )
    for key, holds, text in cases:
        policy = getattr(config, key)
        if holds and policy == "fail":
            faults.append(f"{text} (nightly.{key}: fail; {_REMEDIES[key]})")
        elif holds:
            warnings.append(f"{text} (nightly.{key}: {policy})")
    if faults:
        raise DataError("; ".join(faults))
    return tuple(warnings)


_REMEDIES = {
    "new_class": "mend the labels, or set extend to train it or warn to leave its rows out",
    "lost_class": "mend the data, or set warn to train without it",
    "halved": "mend the data, or set warn",
}


def _names(classes: tuple[str, ...]) -> str:
    return ", ".join(repr(name) for name in classes)


def cheap_triggers(
    change: Changes, config: NightlyConfig, *, age_days: float, settings_changed: bool, label: LabelShift | None
) -> list[str]:
    """What speaks for training without an encoder. label: None where there are too few new rows."""
    fired = []
    if settings_changed:
        fired.append("configuration, encoder or code changed")
    enough = math.inf if config.new_rows is None else config.new_rows  # below 1: a share of the rows before
    if enough < 1:
        enough *= change.before
    if change.new and change.new >= enough:
        fired.append(f"{counted(change.new, 'new row')} (nightly.new_rows: {config.new_rows:g})")
    if change.relabelled + change.deleted and change.relabelled + change.deleted >= enough:
        fired.append(f"{change.relabelled} relabelled, {counted(change.deleted, 'deleted row')}")
    if config.label_shift is not None and label is not None and label.is_shifted(config.label_shift):
        share = f"{label.total_variation:.2f}"
        fired.append(f"class shares of the new rows differ by {share} (nightly.label_shift: {config.label_shift:g})")
    if config.max_age_days is not None and change.any and age_days >= config.max_age_days:
        fired.append(f"{age_days:.1f} days since the last training (nightly.max_age_days: {config.max_age_days:g})")
    return fired


def needs_encoder(config: NightlyConfig) -> bool:
    """Whether a trigger is set that costs an encoder pass a row: `drift_trigger` or `drop_trigger`."""
    return config.text_drift is not None or config.score_drop is not None


def drift_trigger(shift: DomainShift, config: NightlyConfig) -> str | None:
    """Why the new texts speak for training, or None."""
    if config.text_drift is None or not shift.is_shifted(config.text_drift):
        return None
    auroc = f"AUROC [{shift.low:.2f}, {shift.high:.2f}]"
    return f"new texts can be told from old ones, {auroc} (nightly.text_drift: {config.text_drift:g})"


def drop_trigger(score: NewRowsScore, config: NightlyConfig) -> str | None:
    """Why the champion's answers on new rows speak for training, or None.

    Even the upper end of their interval must lie below the *lower* end of the champion's on its test rows, less
    nightly.score_drop: a champion is champion because its test score came out high. The best of 30 equal challengers is
    expected 2.04 standard errors above what it is worth, and the lower end of a 95 % interval 1.96 below what was seen.
    """
    if config.score_drop is None or score.test_accuracy is None or score.test_low is None or score.rows < LEAST_ROWS:
        return None
    if score.high >= score.test_low - config.score_drop:
        return None
    return (
        f"the champion is right on {score.right / score.rows:.1%} of {score.rows} new rows, at most {score.high:.1%}; "
        f"it was on {score.test_accuracy:.1%} of its test rows, at least {score.test_low:.1%} "
        f"(nightly.score_drop: {config.score_drop:g})"
    )


def decide_training(fired: list[str], change: Changes | None, *, is_forced: bool, since: str = "") -> TrainingDecision:
    """Train where anything fired. change: None where no training is remembered; since: what is unchanged since then."""
    if change is None:
        return TrainingDecision(trains=True, reason="this home remembers no training")
    if is_forced:
        return TrainingDecision(trains=True, reason="; ".join(["forced", *fired]))
    if fired:
        return TrainingDecision(trains=True, reason="; ".join(fired))
    what = f"unchanged{since}" if not change.any else f"no trigger fired: {change}"
    return TrainingDecision(trains=False, reason=what)
