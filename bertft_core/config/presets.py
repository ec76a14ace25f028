"""Presets: published settings as plain data, filled in below what a configuration says itself.

A preset is nothing but values: it is resolved when the configuration is read, and its name is no part of a run's
identity. What a source has and bertft has no key for is named in docs/techniques/schedules.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

PresetName = Literal["sun2019", "ulmfit", "roberta", "plain", "fast"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Values by dotted key, each of `training` or `tokenization`, and where they are from."""

    source: str
    values: Mapping[str, Any]

    def sections(self) -> dict[str, dict[str, Any]]:
        """The values as a configuration holds them: by section."""
        found: dict[str, dict[str, Any]] = {}
        for key, value in self.values.items():
            section, _, field = key.partition(".")
            found.setdefault(section, {})[field] = value
        return found


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "sun2019": Preset(
            source="Sun et al. 2019, arXiv 1905.05583: hyperparameters and best strategies; weight decay from its code",
            values={
                "training.lr": 2e-5,
                "training.batch_size": 24,
                "training.epochs": 4,
                "training.alpha": 0.95,
                "training.schedule": "linear",  # what its code does; the text calls it slanted triangular
                "training.warmup_fraction": 0.1,
                "training.weight_decay": 0.01,
                "training.unfreezing": "none",
                "tokenization.max_length": 512,
                "tokenization.truncation": "head+tail",
            },
        ),
        "ulmfit": Preset(
            source="Howard and Ruder 2018, arXiv 1801.06146, section 3; the restarts from its code",
            values={
                "training.alpha": 1 / 2.6,
                "training.schedule": "slanted_triangular",
                "training.cut_fraction": 0.1,
                "training.ratio": 32.0,
                "training.phase_restart": True,
                "training.unfreezing": "ulmfit",
            },
        ),
        "roberta": Preset(
            source="Liu et al. 2019, arXiv 1907.11692, appendix; single values of fairseq's example for IMDb",
            values={
                "training.lr": 1e-5,  # of 1e-5, 2e-5, 3e-5
                "training.batch_size": 32,  # of 16, 32
                "training.epochs": 10,
                "training.alpha": 1.0,
                "training.schedule": "linear",
                "training.warmup_fraction": 0.06,
                "training.weight_decay": 0.1,
                "training.unfreezing": "none",
                "tokenization.max_length": 512,
                "tokenization.truncation": "head",
            },
        ),
        "plain": Preset(
            source="the control: everything trains from the first step at one rate",
            values={"training.alpha": 1.0, "training.schedule": "linear", "training.unfreezing": "none"},
        ),
        "fast": Preset(
            source="speed before accuracy: the lower two thirds of the layers never train (docs/speed.md)",
            values={"training.unfreezing": "fast"},
        ),
    }
)
assert tuple(PRESETS) == get_args(PresetName), "every preset has a name in the configuration"


def with_preset(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration tree with the values of its `preset` where it has none of its own.

    An unknown name, and a section that is no mapping, are left for the configuration to report.
    """
    name = tree.get("preset")
    preset = PRESETS.get(name) if isinstance(name, str) else None
    if preset is None:
        return dict(tree)
    filled = dict(tree)
    for section, values in preset.sections().items():
        own = filled.get(section, {})
        if isinstance(own, Mapping):
            filled[section] = {**values, **own}
    return filled
