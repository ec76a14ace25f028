"""Fits a decision policy on validation rows: blend, temperature, thresholds, abstention; on test rows nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from bertft_core.base.errors import ConfigError
from bertft_core.evaluation.policy.blend import TFIDF_ALONE, Blend
from bertft_core.evaluation.policy.blending import blend_gain, fit_blend
from bertft_core.evaluation.policy.decisions import (
    MULTI_LABEL_THRESHOLD,
    SMALLEST_PROBABILITY,
    TEMPERATURES,
    Costs,
    DecisionPolicy,
    apply_temperature,
    cost_faults,
    decide_by_thresholds,
)
from bertft_core.evaluation.scores.counts import Floats, Ints, counts
from bertft_core.evaluation.scores.intervals import effective_rows, wilson_lower
from bertft_core.evaluation.scores.labels import Predictions, SingleLabels, labels_of
from bertft_core.evaluation.scores.resampling import FOLDS, exchanged_counts, folds_of, running

Objective = Literal["f_beta", "balanced_accuracy"]
BlendMode = Literal["auto", "off", "only"]

MIN_ROWS = 200  # with fewer validation rows a fitted temperature is mostly noise
BLEND_ROWS = 50  # the proof of a blend wants no more: below 200 rows too it never took in noise (techniques/blend.md)
MIN_GROUPS = 2 * FOLDS  # for a blend and for thresholds: whole groups are folded and exchanged
ABSTENTION_LEVEL = 0.95  # one-sided
THRESHOLD_LEVEL = 0.05  # one-sided; keeping any cross-fitted gain cost up to 2 points of macro F1 on test rows
_PERMUTATIONS = 2_000
_SWEEPS = 5  # over all classes; with 150 classes and 25,000 rows those after the third gain under 0.001
_ROUNDING = 1e-12  # a gain below this is none
_TIED = 1e-6  # in log p: batches of other shapes give a row's probability to about this, so no cut in between holds


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """What to fit. thresholds maximise a macro objective; costs [true][decided] are the user's own.

    abstain_accuracy in (0, 1): wanted on the rows answered. metric: the deciding one, which a blend must not lower.
    Raises ConfigError for a value out of range.
    """

    temperature: bool = True
    thresholds: Objective | None = None
    beta: float = 1.0
    costs: Costs | None = None
    abstain_accuracy: float | None = None
    blend: BlendMode = "auto"
    metric: str = "macro_f1"

    def __post_init__(self) -> None:
        faults = [f"decision.{fault}" for fault in cost_faults(self.costs)] if self.costs is not None else []
        if self.thresholds not in (None, "f_beta", "balanced_accuracy"):
            faults.append(f"decision.thresholds must be f_beta or balanced_accuracy, was {self.thresholds!r}")
        if self.thresholds and self.costs is not None:
            faults.append("decision.thresholds and decision.costs exclude each other: keep one")
        if not 0 < self.beta < float("inf"):
            faults.append(f"decision.beta must be a positive number, was {self.beta:g}")
        if self.abstain_accuracy is not None and not 0 < self.abstain_accuracy < 1:
            faults.append(f"decision.abstain_accuracy must lie in (0, 1), was {self.abstain_accuracy:g}")
        if faults:
            raise ConfigError("; ".join(faults))


def fit_policy(
    labels: Any, encoder: Any, settings: PolicySettings, weights: Any = None, tfidf: Any = None, *, groups: Any = None
) -> DecisionPolicy:
    """The policy fitted on validation rows: labels [n], or of multi-label rows 0 and 1 [n, C].

    encoder, tfidf: both models' probabilities [n, C]; without tfidf nothing is blended. weights: soft labels [n, C] for
    log loss. groups [n]: equal for rows that belong together, and are folded, exchanged and counted together.

    The blend first, whose weights settle the temperature, else the temperature; then thresholds or costs on these
    probabilities, then abstention on those decisions. A part that does not help on these rows stays off, and under
    MIN_ROWS rows all but the blend, which wants BLEND_ROWS; `notes` say what was done and why. Of multi-label rows the
    blend alone is fitted.

    Raises DataError or ArtifactError as `SingleLabels` does, ConfigError for costs of another size.
    """
    n, multi_label = len(labels), np.ndim(labels) == 2
    if settings.costs is not None and len(settings.costs) != np.shape(encoder)[-1]:
        raise ConfigError(
            f"decision.costs must have one row per class, wanted {np.shape(encoder)[-1]}, found {len(settings.costs)}"
        )
    blend, notes = _choose_blend(labels, encoder, settings, weights, tfidf, groups)
    policy = DecisionPolicy(fitted_on=n, blend=blend)
    p = policy.blended(encoder, tfidf, multi_label=multi_label)
    if multi_label:
        notes.append(
            f"multi-label: every class of probability {MULTI_LABEL_THRESHOLD:g} or more, no threshold is fitted"
        )
        return replace(policy, notes=tuple(notes))
    if n < MIN_ROWS:
        reason = f"only {n} validation rows, {MIN_ROWS} are wanted"
        notes.append(f"{reason}: temperature, thresholds, costs, abstention stay off")
        return replace(policy, notes=tuple(notes))
    if settings.temperature and not (blend and blend.is_fitted):
        temperature, note = _choose_temperature(labels, p, weights)
        policy = replace(policy, temperature=temperature)
        notes.append(note)
    scaled, y = apply_temperature(p, policy.temperature), np.asarray(labels, dtype=np.int64)
    codes = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    n_groups = n if codes is None else int(codes.max()) + 1
    if settings.thresholds is not None and n_groups < MIN_GROUPS:
        notes.append(f"only {n_groups} groups of validation rows, {MIN_GROUPS} are wanted: thresholds stay off")
    elif settings.thresholds is not None:
        objective, beta = settings.thresholds, settings.beta
        gain, p_value = threshold_gain(y, scaled, objective, beta, codes)
        proof = f"cross-fitted macro {objective} {gain:+.4f} against the most probable class, p {p_value:.3g}"
        if gain <= 0 or p_value > THRESHOLD_LEVEL:
            notes.append(f"thresholds stay off: not shown to help ({proof})")
        else:
            policy = replace(policy, thresholds=fit_thresholds(y, scaled, objective, beta))
            notes.append(f"thresholds fitted ({proof})")
    if settings.costs is not None:
        policy = replace(policy, costs=settings.costs)
        notes.append("decides by the least expected cost (decision.costs)")
    if settings.abstain_accuracy is not None:
        wanted = settings.abstain_accuracy
        below = fit_abstention(y, scaled, policy.apply(p).predicted, wanted, codes)
        policy = replace(policy, abstain_below=below)
        if below is None:
            notes.append(f"abstention stays off: no share of the rows is shown to reach an accuracy of {wanted:g}")
        elif below == 0:
            notes.append(f"abstains never: all rows together are shown to reach an accuracy of {wanted:g}")
        else:
            notes.append(f"abstains below a confidence of {below:.4f}, for an accuracy of {wanted:g}")
    return replace(policy, notes=tuple(notes))


def _choose_blend(
    labels: Any, encoder: Any, settings: PolicySettings, weights: Any, tfidf: Any, groups: Any
) -> tuple[Blend | None, list[str]]:
    """The blend to serve, None for the encoder alone, and what to say about it."""
    if settings.blend == "off" or tfidf is None:
        return None, []
    if settings.blend == "only":
        return TFIDF_ALONE, ["the TF-IDF model answers alone (decision.blend: only)"]
    if len(labels) < BLEND_ROWS:
        return None, [f"only {len(labels)} validation rows, {BLEND_ROWS} are wanted: the blend stays off"]
    rows = labels_of(labels, range(np.shape(encoder)[-1]), weights, groups)
    if rows.n_groups is not None and rows.n_groups < MIN_GROUPS:
        return None, [f"only {rows.n_groups} groups of validation rows, {MIN_GROUPS} are wanted: the blend stays off"]
    gain = blend_gain(rows, encoder, tfidf, settings.metric)
    if not gain.is_shown:
        return None, [f"the blend stays off: not shown to help ({gain})"]
    blend = fit_blend(rows, encoder, tfidf)
    return blend, [f"blend of {blend} ({gain}); its weights settle the temperature"]


def _choose_temperature(labels: Any, p: Floats, weights: Any) -> tuple[float, str]:
    """The temperature to serve, and what to say about it."""
    rows, plain = _checked(labels, p, weights=weights)
    fitted = fit_temperature(labels, p, weights)
    before = float(rows.losses(plain).mean())
    after = float(rows.losses(replace(plain, probabilities=apply_temperature(plain.probabilities, fitted))).mean())
    if fitted in TEMPERATURES:
        return 1.0, f"temperature stays 1: the best one is beyond {fitted:g}, so the rows do not determine it"
    if after >= before:
        return 1.0, f"temperature stays 1: none lowers the validation log loss of {before:.4f}"
    return fitted, f"temperature {fitted:.4g}: validation log loss {before:.4f} -> {after:.4f}"


def fit_temperature(labels: Any, probabilities: Any, weights: Any = None) -> float:
    """The T in [0.05, 20] of least log loss of softmax(log p / T) (Guo et al. 2017, arXiv 1706.04599).

    Log loss is convex in 1 / T, so a bounded search over log T finds its one minimum. A bound is returned where
    the loss falls towards it: all rows right, or no better than chance.

    Raises DataError or ArtifactError as `SingleLabels` does.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    rows, plain = _checked(labels, probabilities, weights=weights)
    z = np.log(np.maximum(plain.probabilities, SMALLEST_PROBABILITY))
    w = np.eye(z.shape[1])[rows.values] if weights is None else np.asarray(weights, dtype=np.float64)
    own = (w * z).sum(axis=1) / w.sum(axis=1)

    def loss(temperature: float) -> float:
        return float((logsumexp(z / temperature, axis=1) - own / temperature).mean())

    found = minimize_scalar(
        lambda log_t: loss(float(np.exp(log_t))), bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-6}
    )
    return min((*TEMPERATURES, float(np.exp(found.x))), key=loss)  # the search itself never tries the bounds


def fit_thresholds(
    labels: Any, probabilities: Any, objective: Objective, beta: float = 1.0
) -> tuple[float, ...] | None:
    """Thresholds [C], summing to 1, whose argmax of p / threshold has the best macro objective; None: plain argmax.

    f_beta: (1 + b²) hits / (b² rows + decided); balanced_accuracy: recall; mean over the classes with rows. One
    class's threshold at a time moves to its best place between any two neighbouring rows, until none gains.
    That is exhaustive for two classes, a climb to a local best for more. Equally good places: the nearest to
    the last one, so a tie stays with the plain argmax.
    """
    y = np.asarray(labels, dtype=np.int64)
    z = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), SMALLEST_PROBABILITY))
    n_classes = z.shape[1]
    support = np.bincount(y, minlength=n_classes)
    gain = _class_gain(objective, beta, support)
    shifts = np.zeros(n_classes)
    present = np.flatnonzero(support)
    # One class that stays is what a class without rows, which has no evidence to move, keeps its place against.
    moving = present if 2 < len(present) == n_classes else present[1:]
    for _ in range(_SWEEPS):
        before = shifts.copy()
        for column in moving:
            step = _best_step(y, z, int(column), gain)
            shifts[column] += step
            z[:, column] -= step
        if np.array_equal(before, shifts):
            break
    if not shifts.any():
        return None
    raised = np.exp(shifts - shifts.max())
    return tuple(float(t) for t in raised / raised.sum())


def coverage_curve(labels: Any, probabilities: Any, predicted: Any = None) -> tuple[Floats, Floats]:
    """(coverage, accuracy) [k], most confident rows first: the share answered and how much of that is right.

    One point for each distinct confidence, the probability of the decided class; rows of equal confidence are
    answered together. Raises DataError or ArtifactError as `SingleLabels` does.
    """
    _, falling, right = _by_confidence(labels, probabilities, predicted)
    last = _last_of_equals(falling)
    return (last + 1) / len(falling), np.cumsum(right)[last] / (last + 1)


def fit_abstention(
    labels: Any, probabilities: Any, predicted: Any, wanted_accuracy: float, groups: Any = None
) -> float | None:
    """The confidence below which to abstain, so that the answered rows reach the wanted accuracy; None: no such.

    The largest coverage whose one-sided 95 % Wilson lower bound is at least `wanted_accuracy`; 0.0 when every
    row may be answered. The bound was looked at for every coverage, so state accuracy on test rows. groups [n] in
    0..G-1: the rows answered count as so many independent ones as they are worth (`effective_rows`).
    """
    order, falling, right = _by_confidence(labels, probabilities, predicted)
    last = _last_of_equals(falling)
    share, worth = np.cumsum(right)[last] / (last + 1), (last + 1).astype(np.float64)
    if groups is not None:
        worth = effective_rows(right, np.asarray(groups)[order], ABSTENTION_LEVEL)[last]
    enough = np.flatnonzero(wilson_lower(share * worth, worth, ABSTENTION_LEVEL) >= wanted_accuracy)
    if len(enough) == 0:
        return None
    widest = int(last[enough[-1]])
    return 0.0 if widest == len(falling) - 1 else float(falling[widest])


def _by_confidence(labels: Any, probabilities: Any, predicted: Any) -> tuple[Ints, Floats, Floats]:
    """The rows, most confident first; how confident, and whether decided rightly (1, 0). [n] each."""
    rows, answers = _checked(labels, probabilities, predicted)
    confidence = rows.confidence(answers)
    order = np.argsort(-confidence, kind="stable")
    return order.astype(np.int64), confidence[order], rows.is_right(answers)[order].astype(np.float64)


def _last_of_equals(falling: Floats) -> Ints:
    """The places of the last row of each distinct confidence."""
    return np.asarray(np.flatnonzero(np.append(np.diff(falling) != 0, True)), dtype=np.int64)


def _checked(
    labels: Any, probabilities: Any, predicted: Any = None, weights: Any = None
) -> tuple[SingleLabels, Predictions]:
    p = np.asarray(probabilities, dtype=np.float64)
    rows = labels_of(labels, range(p.shape[-1]), weights)
    assert isinstance(rows, SingleLabels), "a policy is fitted where a row has one class"
    return rows, rows.predictions(p, predicted)


def threshold_gain(
    labels: Ints, probabilities: Floats, objective: Objective, beta: float, groups: Any = None
) -> tuple[float, float]:
    """What thresholds gain on rows they were not fitted on, against the plain argmax, and its one-sided p-value.

    Five folds, stratified, by the order of the rows; groups [n] in 0..G-1 are folded and exchanged whole. Thresholds
    always gain on their own rows: without this proof they lost up to 9 points of macro F1 on test rows (20 classes, 200
    validation rows).
    """
    n_classes = probabilities.shape[1]
    fold = folds_of(labels, groups)
    plain = probabilities.argmax(axis=1)
    guess = plain.copy()
    for own in (fold == k for k in range(FOLDS)):
        found = fit_thresholds(labels[~own], probabilities[~own], objective, beta)
        guess[own] = plain[own] if found is None else decide_by_thresholds(probabilities[own], found)
    support = np.bincount(labels, minlength=n_classes)
    part, everyone = _class_gain(objective, beta, support), np.arange(n_classes)

    def macro(hits: Floats, decided: Floats) -> Any:
        return part(everyone, hits, decided).sum(axis=-1) / (support > 0).sum()

    gain = float(macro(*counts(labels, guess, n_classes)) - macro(*counts(labels, plain, n_classes)))
    one, other = exchanged_counts(labels, (guess, plain), n_classes, groups, _PERMUTATIONS, np.random.default_rng(0))
    reached = (macro(*one) - macro(*other) >= gain - _ROUNDING).sum()
    return gain, float((1 + reached) / (1 + _PERMUTATIONS))


def _class_gain(objective: Objective, beta: float, support: Ints) -> Callable[[Any, Any, Any], Any]:
    """(class, hits, decided) -> the class's part in the macro objective, elementwise."""
    rows = np.maximum(support, 1)  # a class without rows has no hits: its part is 0

    def gain(column: Any, hits: Any, decided: Any) -> Any:
        if objective == "balanced_accuracy":
            return hits / rows[column]
        return (1 + beta**2) * hits / (beta**2 * rows[column] + decided)

    return gain


def _best_step(y: Ints, z: Floats, column: int, gain: Callable[[Any, Any, Any], Any]) -> float:
    """How far to raise one class's log threshold; z [n, C] are log p less the log thresholds so far.

    Rows go over to the class in order of their margin. Each move changes two classes only, so the objective at
    all cuts costs one sort.
    """
    everyone, own_score = np.arange(z.shape[1]), z[:, column].copy()
    z[:, column] = -np.inf  # in place and put back: a copy of [n, C] for each class would cost most of the time
    rival = z.argmax(axis=1)
    margin = own_score - z[np.arange(len(y)), rival]
    z[:, column] = own_score
    wins = (margin > 0) | ((margin == 0) & (column < rival))
    now = gain(everyone, *counts(y, np.where(wins, column, rival), z.shape[1])).sum()
    order = np.argsort(-margin, kind="stable")
    margin, rival, y = margin[order], rival[order], y[order]
    hits, decided = counts(y, rival, z.shape[1])
    left, lost = running(rival, np.ones(len(y))), running(rival, (rival == y).astype(np.float64))
    after = gain(rival, hits[rival] - lost, decided[rival] - left)
    before = gain(rival, hits[rival] - lost + (rival == y), decided[rival] - left + 1)
    own = gain(column, np.cumsum(y == column), np.arange(1, len(y) + 1))
    values = gain(everyone, hits, decided).sum() + np.cumsum(after - before) + own
    cuts = np.flatnonzero(margin[:-1] - margin[1:] > _TIED)  # the class keeps rows 0..cut
    if len(cuts) == 0 or values[cuts].max() <= now + _ROUNDING:
        return 0.0
    best = cuts[values[cuts] >= values[cuts].max() - _ROUNDING]
    places = (margin[best] + margin[best + 1]) / 2
    return float(places[np.abs(places).argmin()])
