"""The arms of paper_tables.py: which fits stand for which row of the paper, with the paper's own numbers.

Numbers: Sun et al. 2019 (arXiv 1905.05583), Tables 2, 3 and 4, IMDb, test error in %, BERT-base. Gradual unfreezing is
not in that paper: those are ULMFiT's (arXiv 1801.06146, Table 7), validation error in % of an LSTM.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bertft_core.config.knobs import SEARCHED_SECTIONS, place, read_value

EPOCHS, BATCH, MAX_LENGTH = 3, 16, 64
RATES = (1e-4, 2e-4)  # MiniLM's; the paper's are 2e-5 and 2.5e-5
FORGETTING = (2e-5, 5e-5, 1e-4, 4e-4)  # the panels of Figure 2
ALPHAS = (1.0, 0.95, 0.9, 0.85, 0.8)
BASE: dict[str, Any] = {
    "lr": RATES[0],
    "alpha": 1.0,
    "epochs": EPOCHS,
    "batch_size": BATCH,
    "unfreezing": "none",
    "tokenization.max_length": MAX_LENGTH,
    "tokenization.truncation": "head+tail",
}
SCHEDULES = ("late", "fast", "ulmfit", "head_first")  # `gradual`: unfreezing.py


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row of a table: values in place of BASE's, and the arm it is measured against.

    error: the paper's, in %; note: where in the paper, if not the row of the same name. technique: the subject of the
    sentence about it ("" for an arm that is only compared with).
    """

    table: str
    name: str
    values: dict[str, Any] = field(default_factory=dict)
    against: str = ""
    technique: str = ""
    error: float | None = None
    note: str = ""

    def settings(self) -> dict[str, Any]:
        """All values of the fit, by their canonical names."""
        return BASE | self.values

    def key(self, seed: int) -> str:
        """Of the fit in the records: arms of two tables with the same values are one fit."""
        return f"fit {json.dumps(self.settings(), sort_keys=True)}, seed {seed}"

    def curve_key(self, seed: int) -> str:
        """Of the fit that is scored on the test rows on its way."""
        return "curve, " + self.key(seed)

    def fault(self) -> str:
        """What the installed configuration does not know of this arm; "" for nothing."""
        for key, value in self.values.items():
            section, name = place(key)
            if name not in SEARCHED_SECTIONS[section].model_fields:
                return f"no key {section}.{name} in this version"
            try:
                read_value(key, value)
            except ValueError as fault:
                return f"{section}.{name} {fault}"
        return ""


def short(rate: float) -> str:
    """A rate as people write it.

    >>> short(2e-05)
    '2e-5'
    """
    return f"{rate:.0e}".replace("e-0", "e-")


def table2() -> list[Arm]:
    """Long texts: which part is read (§5.3.1). Every arm reads max_length tokens at a time."""
    kinds = {"mean": 5.89, "max": 5.71, "attention": 5.49}
    cut = "tokenization.truncation"
    return [
        Arm(table="table2", name="head", values={cut: "head"}, error=5.63),
        Arm(
            table="table2",
            name="tail",
            values={cut: "tail"},
            against="head",
            error=5.44,
            technique="Reading the end of a long text (`tail`) instead of its beginning",
        ),
        Arm(
            table="table2",
            name="head+tail",
            against="head",
            error=5.42,
            technique="Reading beginning and end (`head+tail`) instead of the beginning alone",
        ),
        *(
            Arm(
                table="table2",
                name=f"hierarchical {kind}",
                against="head+tail",
                error=error,
                values={cut: "chunks", "tokenization.chunk_pooling": kind},
                technique=f"Reading all of a text in chunks, joined by {kind}, instead of `head+tail`",
            )
            for kind, error in kinds.items()
        ),
    ]


def table3() -> list[Arm]:
    """Features: which layers' [CLS] the head reads (§5.3.2). Our layer i stands beside the paper's 2i + 1 of 12."""
    layers = {0: 9.81, 1: 8.66, 2: 6.83, 3: 6.41, 4: 5.70, 5: 5.42}
    joined = {"concat": 5.43, "mean": 5.44, "max": 5.42}
    raw = {"model.pooling": "layers"}
    return [
        Arm(table="table3", name="pooled [CLS]", error=5.42, note="layer 11"),
        *(
            Arm(
                table="table3",
                name=f"layer {layer}",
                against="pooled [CLS]",
                values={**raw, "model.layers": layer},
                error=error,
                note=f"its layer {2 * layer + 1} of 12",
                technique=f"The raw [CLS] of layer {layer} instead of the pooled [CLS] of the top layer",
            )
            for layer, error in layers.items()
        ),
        *(
            Arm(
                table="table3",
                name=f"last 4, {how}",
                against="pooled [CLS]",
                error=error,
                values={**raw, "model.layers": "last_4", "model.combine": how},
                note="of 12",
                technique=f"The [CLS] of the last four layers, joined by {how}, instead of the pooled one",
            )
            for how, error in joined.items()
        ),
        Arm(
            table="table3",
            name="token mean",
            against="pooled [CLS]",
            values={"model.pooling": "mean"},
            technique="The mean of the top layer's tokens instead of the pooled [CLS]",
        ),
    ]


def table4() -> list[Arm]:
    """Layer-wise rates (§5.4.3): our two rates stand beside the paper's two, the lower beside the lower."""
    errors = {
        RATES[0]: {1.0: 5.42, 0.95: 5.40, 0.9: 5.52, 0.85: 5.65},  # the paper's 2.0e-5
        RATES[1]: {1.0: 5.52, 0.95: 5.46, 0.9: 5.44, 0.85: 5.58},  # the paper's 2.5e-5
    }
    notes = {RATES[0]: "lr 2.0e-5", RATES[1]: "lr 2.5e-5"}
    arms = []
    for lr in RATES:
        for alpha in ALPHAS:
            arms.append(
                Arm(
                    table="table4",
                    name=f"lr {short(lr)}, alpha {alpha:g}",
                    values={"lr": lr, "alpha": alpha},
                    against="" if alpha == 1 else f"lr {short(lr)}, alpha 1",
                    error=errors[lr].get(alpha),
                    note=notes[lr] if alpha in errors[lr] else "",
                    technique="" if alpha == 1 else f"`alpha: {alpha:g}` instead of equal rates at lr {short(lr)}",
                )
            )
        arms.append(
            Arm(
                table="table4",
                name=f"lr {short(lr)}, alpha 0.95, paper_code",
                against=f"lr {short(lr)}, alpha 0.95",
                values={"lr": lr, "alpha": 0.95, "embedding_rate": "paper_code"},
                technique=f"Embeddings at lr {short(lr)} itself (`paper_code`) instead of below layer 0, alpha 0.95",
            )
        )
    return arms


def figure2() -> list[Arm]:
    """Forgetting (§5.3.3): rates. The paper prints curves, no numbers."""
    lowest = f"lr {short(FORGETTING[0])}"
    return [
        Arm(
            table="figure2",
            name=f"lr {short(lr)}",
            values={"lr": lr},
            against="" if lr == FORGETTING[0] else lowest,
            technique="" if lr == FORGETTING[0] else f"lr {short(lr)} instead of the paper's {short(FORGETTING[0])}",
        )
        for lr in FORGETTING
    ]


def unfreezing() -> list[Arm]:
    """Schedules of unfreezing against training everything from the start."""
    arms = []
    for lr in RATES:
        plain = f"lr {short(lr)}, none"
        arms.append(Arm(table="unfreezing", name=plain, values={"lr": lr}, error=6.87, note="ULMFiT, full"))
        for schedule in SCHEDULES:
            is_theirs = schedule == "ulmfit"
            arms.append(
                Arm(
                    table="unfreezing",
                    name=f"lr {short(lr)}, {schedule}",
                    values={"lr": lr, "unfreezing": schedule},
                    against=plain,
                    technique=f"`unfreezing: {schedule}` instead of `none` at lr {short(lr)}",
                    error=6.37 if is_theirs else None,
                    note="ULMFiT, freez" if is_theirs else "",
                )
            )
        arms.append(
            Arm(
                table="unfreezing",
                name=f"lr {short(lr)}, late, restarts",
                against=f"lr {short(lr)}, late",
                values={"lr": lr, "unfreezing": "late", "phase_restart": True},
                technique="`phase_restart: true` (a curve a phase) instead of one curve, "
                f"with `late` at lr {short(lr)}",
            )
        )
    return arms


TABLES = {"table2": table2, "table3": table3, "table4": table4, "figure2": figure2, "unfreezing": unfreezing}
TITLES = {
    "table2": "Table 2: which part of a long text is read",
    "table3": "Table 3: which layers the head reads",
    "table4": "Table 4: layer-wise learning rates",
    "figure2": "Figure 2: forgetting at high learning rates",
    "unfreezing": "Gradual unfreezing against plain fine-tuning",
}
QUICK = {  # arms of --quick: every kind of arm once
    "table2": ("head", "tail", "head+tail", "hierarchical mean", "hierarchical attention"),
    "table3": ("pooled [CLS]", "layer 0", "last 4, concat", "token mean"),
    "table4": ("lr 1e-4, alpha 1", "lr 1e-4, alpha 0.95", "lr 1e-4, alpha 0.95, paper_code"),
    "figure2": ("lr 2e-5", "lr 4e-4"),
    "unfreezing": ("lr 1e-4, none", "lr 1e-4, late"),
}
CURVES = "figure2"  # the table whose fits are also followed on the test rows,
CURVE_SEEDS = 3  # of so many seeds: each is another fit, and six times the test rows


def arms_of(tables: Sequence[str], *, is_quick: bool = False) -> tuple[list[Arm], list[str]]:
    """(arms of these tables that the installed configuration knows, a line for each that it does not)."""
    every = [arm for table in tables for arm in TABLES[table]() if not is_quick or arm.name in QUICK[table]]
    lines = [f"{arm.table}, {arm.name}: left out, {arm.fault()}" for arm in every if arm.fault()]
    return [arm for arm in every if not arm.fault()], lines
