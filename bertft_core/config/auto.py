"""What `auto` means for a number of rows and classes: epochs, rate and the default search space of a fit.

The paper's 2 to 4 epochs are for 25,000 rows; on a few hundred they end before the encoder has learnt, and training
longer helps (Mosbach et al. 2021, arXiv 2006.04884; Zhang et al. 2021, arXiv 2006.05987). So a fit gets a least number
of updates, and where that would take more epochs than those papers use, a higher rate. docs/techniques/small_data.md.
"""

from __future__ import annotations

import math

from bertft_core.config.fit import AUTO, HIGHEST_LR, PROBE, TrainingConfig, number
from bertft_core.config.run import RunConfig
from bertft_core.config.search import Choice, Range
from bertft_core.config.strategies import PROBED_SAMPLERS

LEAST_UPDATES, UPDATES_A_CLASS = 300, 50
LEAST_EPOCHS, MOST_EPOCHS = 3, 20
LOW_LR, TOP_LR = 5e-5, 2e-4
SHARED_SHARE = 0.5  # of the `auto` rate, for an encoder that learnt the task beside others (Sun et al. 2019, table 7)
FEW_ROWS = 100  # training rows up to which the head alone is proposed (docs/few_labels.md)
PROBED_ROWS = 1_000  # a search on at most so many rows tries the head alone as well: it costs seconds there


def auto_values(training: TrainingConfig, rows: int, classes: int) -> dict[str, float | int]:
    """The fields of ``training`` that are `auto`, by their names, for a fit on so many rows of so many classes.

    wanted = max(300, 50 a class) updates. epochs: as many as that takes, 3 to 20. lr: 5e-5, and where the fit has fewer
    updates than wanted (by `training.epochs`, or 20), as much higher, 2e-4 at most: rate times updates stays.

    >>> [auto_values(TrainingConfig(), rows, 2) for rows in (100, 600, 25_000)]
    [{'epochs': 20, 'lr': 0.000107}, {'epochs': 8, 'lr': 5e-05}, {'epochs': 3, 'lr': 5e-05}]
    """
    if training.unfreezing == PROBE:  # neither is read
        return {key: value for key, value in (("epochs", 1), ("lr", LOW_LR)) if getattr(training, key) == AUTO}
    wanted, steps = max(LEAST_UPDATES, UPDATES_A_CLASS * classes), math.ceil(rows / training.batch_size)
    found: dict[str, float | int] = {}
    if training.epochs == AUTO:
        found["epochs"] = min(MOST_EPOCHS, max(LEAST_EPOCHS, math.ceil(wanted / steps)))
    if training.lr == AUTO:
        updates = steps * (found["epochs"] if training.epochs == AUTO else number(training.epochs))
        found["lr"] = float(f"{min(TOP_LR, max(LOW_LR, LOW_LR * wanted / updates)):.3g}")
    return found


def _values_of(config: RunConfig, rows: int, classes: int) -> dict[str, float | int]:
    """`auto_values` of a run; the rate is half of it where the encoder was trained on the task already."""
    found = auto_values(config.training, rows, classes)
    if config.multi_task is not None and "lr" in found:
        found["lr"] = float(f"{SHARED_SHARE * found['lr']:.3g}")
    return found


def settled(config: RunConfig, rows: int, classes: int) -> RunConfig:
    """The configuration with numbers in place of `auto`, for a fit on so many training rows; values given stay."""
    found = _values_of(config, rows, classes)
    return config.with_values(found) if found else config


def follows_rows(config: RunConfig, knob: str) -> bool:
    """Whether a knob is `auto` and no search settles it: each training takes it from its own rows."""
    space = (config.search.space if config.search else {}) or _default_space(LOW_LR)
    return config.value_of(knob) == AUTO and knob not in space


def _default_space(lr: float) -> dict[str, Choice]:
    return {
        "lr": Range(low=float(f"{0.4 * lr:.3g}"), high=min(HIGHEST_LR, float(f"{4 * lr:.3g}")), log=True),
        "batch_size": [16, 32],
        "alpha": Range(low=0.8, high=1.0),
    }


def searched(config: RunConfig, rows: int, classes: int) -> RunConfig:
    """The configuration with a search space, of trials that train on so many rows.

    The default space: lr from 0.4 to 4 times the configured or `auto` one, batches of 16 or 32, alpha 0.8 to 1; epochs
    that are `auto` are settled trial by trial, for its own batches. A searched knob that is `auto` gets its number,
    which is the first trial's. search.linear_probe left out: whether the space is too, there are at most PROBED_ROWS,
    and the sampler bears a trial without the searched knobs.
    """
    search = config.search
    if search is None or not search.trials:
        return config
    found = _values_of(config, rows, classes)
    lr = found["lr"] if config.training.lr == AUTO else number(config.training.lr)
    space = search.space or _default_space(lr)
    first = {key: value for key, value in found.items() if key in space}
    is_probed = search.linear_probe
    if is_probed is None:
        is_probed = not search.space and rows <= PROBED_ROWS and search.sampler.name in PROBED_SAMPLERS
    return RunConfig(
        **{
            **dict(config),
            "training": config.training.model_copy(update=first),
            "search": search.model_copy(update={"space": space, "linear_probe": is_probed}),
        }
    )
