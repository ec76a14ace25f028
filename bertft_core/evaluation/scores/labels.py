"""Labels of rows: one class a row, or several (multi-label). Whatever depends on which of the two it is stands here.

`labels_of` makes the value; from then on nobody asks. Labels know which rows belong together (data.group) too: then
whole groups are drawn and exchanged, never rows; see `resampling`.

To what was counted a resample adds pseudo rows, one for each class: with 3 of 3 rows right a plain bootstrap is sure of
that class, and with no error anywhere it is sure of everything. Their answers lie half way between knowing nothing and
what the models do on all rows together. docs/gate.md has the coverage, simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bertft_core.base.errors import ArtifactError, DataError
from bertft_core.base.text import multi_label_text
from bertft_core.evaluation.policy.decisions import MULTI_LABEL_THRESHOLD
from bertft_core.evaluation.scores.counts import Floats, Ints, class_f1, confusion, count_scores, counts, multi_label_f1
from bertft_core.evaluation.scores.metrics import (
    BINS,
    LARGEST_CONFUSION,
    ClassScores,
    ReliabilityBin,
    Scores,
    calibration_error,
    check_metric,
    reliability_bins,
)
from bertft_core.evaluation.scores.resampling import (
    BLOCK,
    exchanged_counts,
    flipped_sums,
    group_sums,
    kind_weights,
    parts,
    resampled_sums,
)

# float32's epsilon, scikit-learn's clip for float32 probabilities: an exact 0 costs 15.9 nats, not infinity
_LEAST_PROBABILITY = float(np.finfo(np.float32).eps)
_SUM_TOLERANCE = 1e-3  # float32 softmax over 150 classes sums to 1 within 1e-5
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What a model says of n rows.

    probabilities: float64 [n, C], of multi-label rows each class for itself
    decided: class indices int64 [n]; of multi-label rows bool [n, C]
    """

    probabilities: Floats
    decided: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class SingleLabels:
    """Rows of one class each.

    values: class indices int64 [n]
    classes: names in the order of the indices
    weights: soft labels [n, C], over which log loss and Brier score are taken, or None
    groups: int64 [n] in 0..G-1, equal for rows that belong together, or None where each row stands for itself
    Raises DataError for no rows or an index out of range.
    """

    values: Ints
    classes: tuple[str, ...]
    weights: Any = None
    groups: Any = None
    multi_label: ClassVar[bool] = False

    def __post_init__(self) -> None:
        y = self.values
        if y.ndim != 1 or len(y) == 0:
            raise DataError(f"scoring wants at least one labelled row, found an array of shape {y.shape}")
        if y.min() < 0 or y.max() >= len(self.classes):
            raise DataError(f"labels must lie in 0..{len(self.classes) - 1}, found {y.min()}..{y.max()}")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_groups(self) -> int | None:
        """Number of groups, None where each row stands for itself."""
        return None if self.groups is None else int(self.groups.max()) + 1

    def predictions(self, probabilities: Any, decided: Any = None) -> Predictions:
        """Checked predictions of these rows; `decided` [n] where it is not the most probable class.

        Raises ArtifactError for rows that are no distribution and for decisions that are no class indices.
        """
        p = np.asarray(probabilities, dtype=np.float64)
        n, n_classes = len(self.values), len(self.classes)
        if p.shape != (n, n_classes):
            raise ArtifactError(f"wanted probabilities of shape ({n}, {n_classes}), found {p.shape}")
        faulty = ~np.isfinite(p).all(axis=1) | (p < 0).any(axis=1) | (np.abs(p.sum(axis=1) - 1) > _SUM_TOLERANCE)
        if faulty.any():
            first = int(np.argmax(faulty))
            raise ArtifactError(
                f"{int(faulty.sum())} of {n} rows of probabilities are no distribution (not finite, "
                f"negative, or not summing to 1); the first is row {first}: {p[first][:5].tolist()}"
            )
        guess = np.asarray(p.argmax(axis=1) if decided is None else decided, dtype=np.int64)
        if guess.shape != (n,) or not 0 <= guess.min() <= guess.max() < n_classes:
            raise ArtifactError(
                f"wanted {n} decisions in 0..{n_classes - 1}, found {guess[:5].tolist()} ({guess.shape})"
            )
        return Predictions(probabilities=p, decided=guess)

    def is_right(self, predictions: Predictions) -> Bools:
        """Rows decided rightly, [n]."""
        return np.asarray(predictions.decided == self.values)

    def losses(self, predictions: Predictions) -> Floats:
        """Log loss in nats of each row, [n]; against the soft labels, normalised to sum 1, where there are some."""
        logs = np.log(np.clip(predictions.probabilities, _LEAST_PROBABILITY, 1.0))
        if self.weights is None:
            return np.asarray(-logs[np.arange(len(self.values)), self.values], dtype=np.float64)
        w = np.asarray(self.weights, dtype=np.float64)
        return np.asarray(-(w * logs).sum(axis=1) / w.sum(axis=1), dtype=np.float64)

    def briers(self, predictions: Predictions) -> Floats:
        """Squared error summed over the classes, [n]; its mean over the label's distribution for soft labels.

        With w the label's distribution: sum_k w_k |p - e_k|^2 = |p|^2 - 2 w.p + 1.
        """
        p = predictions.probabilities
        w = np.eye(p.shape[1])[self.values] if self.weights is None else np.asarray(self.weights, dtype=np.float64)
        expected = (w * p).sum(axis=1) / w.sum(axis=1)
        return np.asarray((p**2).sum(axis=1) - 2 * expected + 1, dtype=np.float64)

    def confidence(self, predictions: Predictions) -> Floats:
        """Probability of each row's decided class, [n]."""
        return np.asarray(predictions.probabilities[np.arange(len(self.values)), predictions.decided])

    def reliability(self, predictions: Predictions, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
        """Probability of the decided class against accuracy."""
        return reliability_bins(self.confidence(predictions), self.is_right(predictions), bins)

    def scores(self, predictions: Predictions, *, ranking: bool = True) -> Scores:
        """All scores; without `ranking` no AUROC and average precision (None): they cost more than all the rest."""
        p, n_classes = predictions.probabilities, len(self.classes)
        hits, decided = counts(self.values, predictions.decided, n_classes)
        support = self._support()
        is_shown = n_classes <= LARGEST_CONFUSION
        table = confusion(self.values, predictions.decided, n_classes) if is_shown else np.zeros((0, 0), dtype=np.int64)
        counted = {k: float(v) for k, v in count_scores(hits, decided, support).items()}
        mcc = counted.pop("mcc")
        is_class = self.values[:, None] == np.arange(n_classes)
        per_class = _class_scores(self.classes, (hits, decided, support), is_class, p, ranking=ranking)
        return Scores(
            n=len(self.values),
            **counted,
            mcc=None if np.isnan(mcc) else mcc,
            log_loss=float(self.losses(predictions).mean()),
            brier=float(self.briers(predictions).mean()),
            ece=calibration_error(self.reliability(predictions), len(self.values)),
            auroc=_mean([c.auroc for c in per_class]),
            average_precision=_mean([c.average_precision for c in per_class]),
            per_class=per_class,
            confusion=tuple(tuple(int(v) for v in row) for row in table),
        )

    def difference(self, metric: str, a: Predictions, b: Predictions) -> float:
        """Score of a less that of b, higher is better."""
        if check_metric(metric) == "log_loss":
            return float((self.losses(b) - self.losses(a)).mean())
        support = self._support()
        one, two = (count_scores(*counts(self.values, m.decided, len(support)), support)[metric] for m in (a, b))
        return float(one - two)

    def resampled_scores(self, models: Sequence[Predictions], resamples: int, seed: int) -> list[dict[str, Floats]]:
        """Every score of the decisions of each model on the same resamples, [resamples] each."""
        rng, n_classes = np.random.default_rng(seed), len(self.classes)
        answers = np.stack([self.values, *(m.decided for m in models)], axis=1)
        kinds, kind_of = np.unique(answers, axis=0, return_inverse=True)
        alone = (self._support() > 0).astype(np.float64)
        size = alone if self.groups is None else group_sizes(np.eye(n_classes)[self.values], self.groups)
        found: list[list[dict[str, Floats]]] = [[] for _ in models]
        for drawn in parts(resamples, n_classes):  # many classes: no more resamples at once than fit into memory
            support, hits, decided = self._drawn(kinds, kind_of.ravel(), drawn, rng)
            # a pseudo row of a class answers rightly, or as another class as often as that one is decided
            share_as = decided.mean(axis=(0, 2))[:, None] + 1 / n_classes
            others = np.maximum(share_as.sum() - share_as, _LEAST_PROBABILITY)
            for is_right, share in pseudo_shares([self.is_right(m) for m in models]).items():
                pseudo = rng.standard_gamma(share, size=support.shape) * size[:, None]
                wrong = pseudo / others
                support += pseudo
                for model, right in enumerate(is_right):
                    hits[model] += pseudo * right
                    decided[model] += pseudo if right else share_as * (wrong.sum(axis=0) - wrong)
            for scores, h, d in zip(found, hits, decided, strict=True):
                scores.append(count_scores(h.T, d.T, support.T))
        return [{name: np.concatenate([part[name] for part in one]) for name in one[0]} for one in found]

    def _drawn(self, kinds: Ints, kind_of: Ints, resamples: int, rng: np.random.Generator) -> tuple[Floats, ...]:
        """Support [C, resamples], hits and decided [models, C, resamples] of rows of these kinds, weighted at random.

        kinds [K, 1 + models]: label and each model's decision; kind_of [n]: which one a row is of.
        """
        n_classes, n_models = len(self.classes), kinds.shape[1] - 1
        support = np.zeros((n_classes, resamples))
        hits, decided = np.zeros((2, n_models, n_classes, resamples))
        step = max(1, BLOCK // len(kinds))
        for start in range(0, resamples, step):
            part = slice(start, min(start + step, resamples))
            weights = kind_weights(kind_of, self.groups, part.stop - start, rng)
            for (label, *guesses), weight in zip(kinds, weights.T, strict=True):
                support[label, part] += weight
                for model, guess in enumerate(guesses):
                    decided[model, guess, part] += weight
                    if guess == label:
                        hits[model, label, part] += weight
        return support, hits, decided

    def resampled_differences(self, metric: str, a: Predictions, b: Predictions, resamples: int, seed: int) -> Floats:
        """`difference` on resamples, both models on the same rows, [resamples]."""
        if metric == "log_loss":
            return self.resampled_means((self.losses(b) - self.losses(a))[:, None], resamples, seed)[:, 0]
        one, two = self.resampled_scores([a, b], resamples, seed)
        return np.asarray(one[metric] - two[metric], dtype=np.float64)

    def resampled_means(self, values: Floats, resamples: int, seed: int) -> Floats:
        """Means [resamples, K] of the rows' values [n, K] on resamples."""
        return _resampled_means(values, self.groups, resamples, seed)

    def exchanged_differences(
        self, metric: str, a: Predictions, b: Predictions, permutations: int, seed: int
    ) -> Floats:
        """`difference` after the two answers to a row, or group, changed sides with probability one half."""
        rng = np.random.default_rng(seed)
        if metric == "log_loss":
            gains = group_sums(self.losses(b) - self.losses(a), self.groups)
            return flipped_sums(gains, permutations, rng) / len(self.values)
        support, n_classes = self._support(), len(self.classes)
        found = []
        for drawn in parts(permutations, n_classes):
            counted = exchanged_counts(self.values, (a.decided, b.decided), n_classes, self.groups, drawn, rng)
            one, two = (count_scores(*c, support)[metric] for c in counted)
            found.append(one - two)
        return np.concatenate(found)

    def texts(self, answers: Any) -> list[str]:
        """Classes or decisions [n] by name."""
        return [self.classes[int(answer)] for answer in answers]

    def _support(self) -> Ints:
        return np.bincount(self.values, minlength=len(self.classes))


@dataclass(frozen=True, kw_only=True, eq=False)
class MultiLabels:
    """Rows of any number of the classes; each class is decided by its own probability.

    values: bool [n, C]
    classes: names in the order of the columns
    groups: int64 [n] in 0..G-1, equal for rows that belong together, or None where each row stands for itself
    Raises DataError for no rows.
    """

    values: Bools
    classes: tuple[str, ...]
    groups: Any = None
    weights: ClassVar[None] = None
    multi_label: ClassVar[bool] = True

    def __post_init__(self) -> None:
        y = self.values
        if y.ndim != 2 or len(y) == 0 or y.shape[1] != len(self.classes):
            raise DataError(f"wanted one or more rows of 0 and 1 for {len(self.classes)} classes, found {y.shape}")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_groups(self) -> int | None:
        """Number of groups, None where each row stands for itself."""
        return None if self.groups is None else int(self.groups.max()) + 1

    def predictions(self, probabilities: Any, decided: Any = None) -> Predictions:
        """Checked predictions of these rows; `decided` [n, C] where it is not the classes of probability 1/2 or more.

        Raises ArtifactError for numbers outside [0, 1] and for decisions of another shape.
        """
        p = np.asarray(probabilities, dtype=np.float64)
        if p.shape != self.values.shape:
            raise ArtifactError(f"wanted probabilities of shape {self.values.shape}, found {p.shape}")
        faulty = ~((p >= 0) & (p <= 1)).all(axis=1)
        if faulty.any():
            first = int(np.argmax(faulty))
            raise ArtifactError(f"{int(faulty.sum())} rows hold no probabilities; the first is {first}: {p[first][:5]}")
        guess = p >= MULTI_LABEL_THRESHOLD if decided is None else np.asarray(decided)
        if guess.shape != p.shape:
            raise ArtifactError(f"wanted decisions of shape {p.shape}, found {guess.shape}")
        return Predictions(probabilities=p, decided=guess.astype(bool))

    def is_right(self, predictions: Predictions) -> Bools:
        """Rows whose whole set is right, [n]."""
        return np.asarray((predictions.decided == self.values).all(axis=1))

    def losses(self, predictions: Predictions) -> Floats:
        """Binary cross entropy in nats of each row, the mean over the classes, [n]."""
        p = predictions.probabilities
        own = np.where(self.values, p, 1 - p)
        return np.asarray(-np.log(np.clip(own, _LEAST_PROBABILITY, 1.0)).mean(axis=1), dtype=np.float64)

    def confidence(self, predictions: Predictions) -> Floats:
        """How sure each row's surest wrong class was, [n]; 0 for a row that is right."""
        p = predictions.probabilities
        return np.asarray(np.where(predictions.decided != self.values, np.maximum(p, 1 - p), 0.0).max(axis=1))

    def reliability(self, predictions: Predictions, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
        """Probability against frequency of all (row, class) pairs; a bin's rows count pairs."""
        return reliability_bins(predictions.probabilities.ravel(), self.values.ravel(), bins)

    def scores(self, predictions: Predictions, *, ranking: bool = True) -> Scores:
        """All scores that have a meaning here.

        accuracy: rows whose whole set is right (subset accuracy). log_loss and brier: mean over rows and classes. ece:
        of all (row, class) probabilities together. ranking: label ranking average precision (Schapire & Singer 2000)
        over the rows with a label. balanced_accuracy and mcc have no meaning (None), confusion is empty.
        """
        from sklearn.metrics import label_ranking_average_precision_score

        y, p, guess, ranked = self.values, predictions.probabilities, predictions.decided, self.values.any(axis=1)
        hits, decided, support = (v.sum(axis=0) for v in (y & guess, guess, y))
        seen, shares = support > 0, support[support > 0] / max(1, support.sum())
        precision = hits[seen] / np.maximum(1, decided[seen])
        per_class = _class_scores(self.classes, (hits, decided, support), y, p, ranking=ranking)
        return Scores(
            n=len(y),
            accuracy=float(self.is_right(predictions).mean()),
            balanced_accuracy=None,
            **{name: float(v) for name, v in multi_label_f1(hits, decided, support).items()},
            weighted_f1=float(class_f1(hits, decided, support)[seen] @ shares),
            macro_precision=float(precision.mean()) if seen.any() else 0.0,
            weighted_precision=float(precision @ shares),
            mcc=None,
            log_loss=float(self.losses(predictions).mean()),
            brier=float(((p - y) ** 2).mean()),
            ece=calibration_error(self.reliability(predictions), y.size),
            auroc=_mean([c.auroc for c in per_class]),
            average_precision=_mean([c.average_precision for c in per_class]),
            per_class=per_class,
            confusion=(),
            ranking=float(label_ranking_average_precision_score(y[ranked], p[ranked]))
            if ranking and ranked.any()
            else None,
        )

    def difference(self, metric: str, a: Predictions, b: Predictions) -> float:
        """Score of a less that of b, higher is better."""
        one, two = (self._from_sums(metric, self._parts(metric, m).sum(axis=0)) for m in (a, b))
        return float(one - two)

    def resampled_scores(self, models: Sequence[Predictions], resamples: int, seed: int) -> list[dict[str, Floats]]:
        """Macro and micro F1 of each model on the same resamples, [resamples] each."""
        rng = np.random.default_rng(seed)
        flags = np.hstack([self.values, *(np.hstack([self.values & m.decided, m.decided]) for m in models)])
        drawn = resampled_sums(group_sums(flags.astype(np.float64), self.groups), resamples, rng)
        support, *counted = np.split(drawn, 1 + 2 * len(models), axis=1)
        # a pseudo row of a class has it or not, and is answered rightly or not as to that class
        size = group_sizes(self.values.astype(np.float64), self.groups)
        for is_right, share in pseudo_shares([m.decided == self.values for m in models]).items():
            for has_class in (True, False):
                drawn = rng.standard_gamma(share / 2, size=support.shape) * size
                support += drawn * has_class
                for model, right in enumerate(is_right):
                    counted[2 * model] += drawn * (right and has_class)
                    counted[2 * model + 1] += drawn * (right == has_class)
        return [multi_label_f1(counted[i], counted[i + 1], support) for i in range(0, len(counted), 2)]

    def resampled_differences(self, metric: str, a: Predictions, b: Predictions, resamples: int, seed: int) -> Floats:
        """`difference` on resamples, both models on the same rows, [resamples]."""
        if metric in ("log_loss", "accuracy"):
            gains = self._parts(metric, a) - self._parts(metric, b)
            return self.resampled_means(gains, resamples, seed)[:, 0]
        one, two = self.resampled_scores([a, b], resamples, seed)
        return np.asarray(one[metric] - two[metric])

    def resampled_means(self, values: Floats, resamples: int, seed: int) -> Floats:
        """Means [resamples, K] of the rows' values [n, K] on resamples."""
        return _resampled_means(values, self.groups, resamples, seed)

    def exchanged_differences(
        self, metric: str, a: Predictions, b: Predictions, permutations: int, seed: int
    ) -> Floats:
        """`difference` after the two answers to a row, or group, changed sides with probability one half."""
        one, two = self._parts(metric, a), self._parts(metric, b)
        middle = (one + two).sum(axis=0) / 2
        half = flipped_sums(group_sums(one - two, self.groups) / 2, permutations, np.random.default_rng(seed))
        return np.asarray(self._from_sums(metric, middle + half) - self._from_sums(metric, middle - half))

    def texts(self, answers: Any) -> list[str]:
        """Sets of classes [n, C] as JSON lists of names."""
        return [multi_label_text(row, self.classes) for row in answers]

    def _parts(self, metric: str, predictions: Predictions) -> Floats:
        """What each row adds to the sums that `metric` is made of, [n, K]."""
        if check_metric(metric) == "log_loss":
            return np.asarray(-self.losses(predictions)[:, None])
        if metric == "accuracy":
            return np.asarray(self.is_right(predictions)[:, None], dtype=np.float64)
        y, guess = self.values, predictions.decided
        return np.hstack([y & guess, guess, y]).astype(np.float64)

    def _from_sums(self, metric: str, sums: Any) -> Any:
        """The score (higher is better) from sums [..., K] of `_parts`."""
        if metric in ("log_loss", "accuracy"):
            return sums[..., 0] / len(self.values)
        return multi_label_f1(*np.split(sums, 3, axis=-1))[metric]


Labels = SingleLabels | MultiLabels


def labels_of(values: Any, classes: Sequence[object], weights: Any = None, groups: Any = None) -> Labels:
    """Labels from class indices [n] or, multi-label, 0 and 1 [n, C]; `weights` [n, C]: soft labels.

    groups [n]: any values, equal for rows that belong together (one customer's, say); None: rows are independent.

    >>> labels_of([0, 1], ["no", "yes"]).multi_label, labels_of([[0, 1]], ["a", "b"]).multi_label
    (False, True)

    Raises DataError for no rows, an index out of range, other numbers than 0 and 1, or not one group a row.
    """
    names = tuple(str(name) for name in classes)
    if groups is not None and len(groups) != len(values):
        raise DataError(f"wanted a group for each of {len(values)} rows, found {len(groups)}")
    places = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if np.ndim(values) != 2:
        return SingleLabels(values=np.asarray(values, dtype=np.int64), classes=names, weights=weights, groups=places)
    flags = np.asarray(values)
    if not np.isin(flags, (0, 1)).all():
        raise DataError(f"wanted rows of 0 and 1 for {len(names)} classes, found other numbers in {flags.shape}")
    return MultiLabels(values=flags.astype(bool), classes=names, groups=places)


def pseudo_shares(is_right: Sequence[Bools]) -> dict[tuple[bool, ...], float]:
    """How the pseudo row of a class is answered by one model or two: shares, adding up to 1, by who is right.

    is_right: of each model, bool of equal shapes. Half way between ignorance (one model: right or wrong alike; two:
    they differ in half of the rows, either being right in half of those) and what is seen on all rows, where who of
    the two is right counts alike.

    >>> pseudo_shares([np.array([True, True, True, False])])
    {(True,): 0.625, (False,): 0.375}
    """
    if len(is_right) == 1:
        right = (0.5 + float(is_right[0].mean())) / 2
        return {(True,): right, (False,): 1 - right}
    differ = (0.5 + float((is_right[0] != is_right[1]).mean())) / 2
    return {(True, False): differ / 2, (False, True): differ / 2, (True, True): 1 - differ}


def group_sizes(is_class: Floats, groups: Any) -> Floats:
    """Rows of its class in the group that a row of the class finds itself in, on average [C]; is_class [n, C].

    1 without groups, 0 for a class without rows. As many rows answered alike weigh as one (Kish's design effect).
    """
    sums = group_sums(is_class, groups)
    return np.asarray((sums**2).sum(axis=0) / np.maximum(1, sums.sum(axis=0)))


def _resampled_means(values: Floats, groups: Any, resamples: int, seed: int) -> Floats:
    counted = group_sums(np.column_stack([values, np.ones(len(values))]), groups)
    sums = resampled_sums(counted, resamples, np.random.default_rng(seed))
    return np.asarray(sums[:, :-1] / sums[:, -1:])


def _class_scores(
    classes: Sequence[str], tallies: tuple[Any, Any, Any], is_class: Bools, p: Floats, *, ranking: bool
) -> tuple[ClassScores, ...]:
    """Scores of each class from tallies (hits, decided, support) [C], is_class [n, C] and probabilities [n, C]."""
    found = []
    for i, name in enumerate(classes):
        hits, decided, support = (int(tally[i]) for tally in tallies)
        is_ranked = ranking and 0 < support < len(p)
        auroc, average_precision = _ranking(is_class[:, i], p[:, i]) if is_ranked else (None, None)
        found.append(
            ClassScores(
                name=name,
                precision=hits / decided if decided else None,
                recall=hits / support if support else None,
                f1=2 * hits / (support + decided) if support else None,
                support=support,
                predicted=decided,
                auroc=auroc,
                average_precision=average_precision,
            )
        )
    return tuple(found)


def _ranking(is_own: Bools, p: Floats) -> tuple[float, float]:
    """AUROC and average precision of probabilities [n] for rows of a class, rows alike counting together.

    As scikit-learn has them (roc_auc_score, average_precision_score), from one sort: theirs cost 12 ms a class.
    """
    order = np.argsort(-p, kind="stable")
    last = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)  # of rows of one probability
    own = np.cumsum(is_own[order])[last].astype(np.float64)
    others = last + 1 - own
    gained = np.diff(own, prepend=0.0)
    area = (np.diff(others, prepend=0.0) * (own - gained / 2)).sum() / (own[-1] * others[-1])
    return float(area), float((gained * own / (last + 1)).sum() / own[-1])


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [v for v in values if v is not None]
    return float(np.mean(defined)) if defined else None
