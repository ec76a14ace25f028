"""How probabilities become an answer: blend, temperature, thresholds or costs, abstention. numpy only.

The policy is fitted on validation rows (`calibration.fit_policy`), travels in the served artefact and is applied
there and by the gate through this one file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from bertft_core.base.errors import ArtifactError
from bertft_core.evaluation.policy.blend import Blend

TEMPERATURES = (0.05, 20.0)  # beyond these the validation rows do not determine a temperature
# float32's least number above 0, what an exact 0 of its softmax may have been: logarithms start here
SMALLEST_PROBABILITY = float(np.finfo(np.float32).smallest_subnormal)
_ROUNDING = 1e-12  # share of the largest cost; expected costs closer than this are equal

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Costs = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Decided:
    """probabilities float64 [n, C] after temperature; predicted int64 [n], of multi-label rows 0 and 1 [n, C]; abstain
    bool [n]: leave it to a person.
    """

    probabilities: Floats
    predicted: Ints
    abstain: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class DecisionPolicy:
    """From probabilities to decisions; the default is the encoder's most probable class, never abstaining.

    blend: how the TF-IDF model's probabilities come in, before all else; None: not at all. temperature T in
    [0.05, 20]: softmax(log p / T). thresholds [C], positive: argmax of p / threshold. costs [C][C] >= 0,
    costs[true][decided]: least expected cost. At most one of these two. abstain_below in [0, 1]: abstain where the
    decided class is less probable, or no number. fitted_on: validation rows. notes: what was done or left off, and
    why. Raises ArtifactError for a value out of range.
    """

    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None
    costs: Costs | None = None
    abstain_below: float | None = None
    fitted_on: int = 0
    notes: tuple[str, ...] = ()
    blend: Blend | None = None

    def __post_init__(self) -> None:
        low, high = TEMPERATURES
        faults = []
        if not low <= self.temperature <= high:
            faults.append(f"temperature must lie in [{low:g}, {high:g}], was {self.temperature:g}")
        if self.thresholds is not None and not (
            len(self.thresholds) >= 2 and all(0 < t < float("inf") for t in self.thresholds)
        ):
            faults.append(f"thresholds must be two or more positive numbers, were {self.thresholds}")
        if self.costs is not None:
            faults += cost_faults(self.costs)
        if self.costs is not None and self.thresholds is not None:
            faults.append("thresholds and costs exclude each other")
        if self.abstain_below is not None and not 0 <= self.abstain_below <= 1:
            faults.append(f"abstain_below must lie in [0, 1], was {self.abstain_below:g}")
        if self.fitted_on < 0:
            faults.append(f"fitted_on must be 0 or more rows, was {self.fitted_on}")
        if faults:
            raise ArtifactError(f"no decision policy: {'; '.join(faults)}")

    def __str__(self) -> str:
        rule = "thresholds" if self.thresholds else "least cost" if self.costs else "most probable class"
        below = "" if self.abstain_below is None else f", abstains below {self.abstain_below:.4f}"
        blend = f"blend of {self.blend}, " if self.blend else ""
        return f"{blend}temperature {self.temperature:.4g}, {rule}{below}, fitted on {self.fitted_on} rows"

    def blended(self, encoder: Any, tfidf: Any = None, *, multi_label: bool = False) -> Floats:
        """What `apply` decides on, [n, C]: the encoder's probabilities, or their blend with the TF-IDF model's."""
        if self.blend is None:
            return np.asarray(encoder, dtype=np.float64)
        return self.blend.mix(encoder, tfidf, multi_label=multi_label)

    def apply(self, probabilities: Any, *, multi_label: bool = False) -> Decided:
        """Decide rows of probabilities [n, C], as `blended` gives them; n may be 0.

        Multi-label rows have every class of 1/2 or more. Raises ArtifactError when C differs from the classes of the
        thresholds or costs.
        """
        raw = np.asarray(probabilities, dtype=np.float64)
        if multi_label:
            classes = (raw >= MULTI_LABEL_THRESHOLD).astype(np.int64)
            return Decided(probabilities=raw, predicted=classes, abstain=np.asarray(~np.isfinite(raw).all(axis=1)))
        wanted = len(self.thresholds or self.costs or ())
        if raw.ndim != 2 or (wanted and raw.shape[1] != wanted):
            raise ArtifactError(f"the policy decides between {wanted or 'C'} classes, found probabilities {raw.shape}")
        p = apply_temperature(raw, self.temperature)
        if self.costs is not None:
            predicted = decide_by_cost(p, self.costs)
        else:
            predicted = decide_by_thresholds(p, self.thresholds or (1.0,) * p.shape[1])
        confidence = p[np.arange(len(p)), predicted]
        is_sure = confidence >= (self.abstain_below or 0.0)  # False for nan: nobody should act on such a row
        return Decided(probabilities=p, predicted=predicted, abstain=~is_sure)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping; `from_json` reads it back to an equal value. Without a blend it is as it always was."""
        return {key: value for key, value in asdict(self).items() if key != "blend" or value is not None}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> DecisionPolicy:
        """The policy that `to_json` wrote, also after a trip through a JSON file. Raises ArtifactError."""
        known, blend = {f.name for f in fields(cls)}, value.get("blend")
        if set(value) | {"blend"} != known:
            odd = ", ".join(sorted((set(value) | {"blend"}) ^ known))
            raise ArtifactError(f"wanted a decision policy of {', '.join(sorted(known))}; missing or unknown: {odd}")
        try:
            return cls(
                temperature=float(value["temperature"]),
                thresholds=_numbers(value["thresholds"]),
                costs=None if value["costs"] is None else tuple(_numbers(row) or () for row in value["costs"]),
                abstain_below=None if value["abstain_below"] is None else float(value["abstain_below"]),
                fitted_on=int(value["fitted_on"]),
                notes=tuple(str(note) for note in value["notes"]),
                blend=None if blend is None else Blend.from_json(blend),
            )
        except (KeyError, TypeError, ValueError) as fault:
            raise ArtifactError(f"the decision policy holds a value of the wrong kind: {fault}") from fault


MULTI_LABEL_THRESHOLD = 0.5  # every class of at least this probability is decided


def apply_temperature(probabilities: Any, temperature: float) -> Floats:
    """softmax(log p / T) of rows [n, C]; T = 1 changes nothing, T > 1 makes less confident (arXiv 1706.04599).

    Equal to softmax(logits / T), as log p differs from the logits by a constant per row. An exact 0 stays 0.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if temperature == 1.0 or p.size == 0:
        return p
    with np.errstate(divide="ignore"):
        z = np.log(p) / temperature
    raised = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), dtype=np.float64)


def decide_by_thresholds(probabilities: Floats, thresholds: Sequence[float]) -> Ints:
    """argmax of p / threshold, [n]; for two classes with thresholds (1 - t, t): the second where its p > t.

    At a tie the first class wins, as in a plain argmax.
    """
    p = np.maximum(probabilities, SMALLEST_PROBABILITY)
    return np.asarray((p / np.asarray(thresholds)).argmax(axis=1), dtype=np.int64)


def decide_by_cost(probabilities: Any, costs: Any) -> Ints:
    """The class of least expected cost, [n] (Bayes decision); costs [C, C] by [true][decided].

    Among classes of equal cost the most probable wins.
    """
    p, matrix = np.asarray(probabilities, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    expected = p @ matrix
    is_least = expected <= expected.min(axis=1, keepdims=True) + _ROUNDING * matrix.max()
    return np.asarray(np.where(is_least, p, -1.0).argmax(axis=1), dtype=np.int64)


def cost_faults(costs: Sequence[Sequence[float]]) -> list[str]:
    """What is wrong with a cost matrix, in words; empty when it is square, finite and 0 or more."""
    size = len(costs)
    if size < 2 or any(len(row) != size for row in costs):
        return [f"costs must be a square matrix [true][decided], had rows of {[len(row) for row in costs]}"]
    if not all(0 <= c < float("inf") for row in costs for c in row):
        return [f"costs must be finite and 0 or more, were {costs}"]
    return []


def _numbers(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(v) for v in values)
