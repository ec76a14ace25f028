"""Parameters of flows as a form at Prefect shows them: fields with types, ranges and texts; and paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bertft_core.config.fit import HIGHEST_LR, Loss, Part, Schedule

Stage = Literal["search", "finetune", "evaluate", "promote"]
_SECTIONS = {"pretrained": "model", "max_length": "tokenization", "trials": "search"}  # else: training


class Hyperparameters(Part):
    """Values in place of the configuration's; what is left empty stays as configured."""

    lr: Annotated[
        Annotated[float, Field(gt=0, le=HIGHEST_LR)] | Literal["auto"] | None,
        Field(description="Learning rate of the top layer; auto: by the number of rows"),
    ] = None
    epochs: Annotated[
        Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] | None,
        Field(description="Passes over the training rows; auto: by their number"),
    ] = None
    batch_size: Annotated[int | None, Field(ge=1, le=4096, description="Rows of a training step")] = None
    max_length: Annotated[int | None, Field(ge=8, le=8192, description="Tokens of a text that are read")] = None
    pretrained: Annotated[
        str | None, Field(min_length=1, description="Encoder: package://NAME/path, a folder, or a hub id")
    ] = None
    unfreezing: Annotated[
        Literal["gradual", "late", "fast", "none", "ulmfit", "head_first", "linear_probe"] | None,
        Field(description="In which order layers are trained"),
    ] = None
    schedule: Annotated[Schedule | None, Field(description="Course of the learning rate")] = None
    loss: Annotated[Loss | None, Field(description="Loss of a row")] = None
    weight_decay: Annotated[float | None, Field(ge=0, le=1, description="Decay of the weights (AdamW)")] = None
    label_smoothing: Annotated[
        float | None, Field(ge=0, lt=1, description="Share of each target spread over all classes")
    ] = None
    patience: Annotated[
        int | None, Field(ge=1, description="Epochs without a better validation score that end a fit")
    ] = None
    seed: Annotated[int | None, Field(ge=0, lt=2**31, description="Of all draws of the training")] = None
    trials: Annotated[int | None, Field(ge=0, description="Trials of the search; 0: none is made")] = None

    def overrides(self) -> list[str]:
        """As key=value, in the words of the configuration."""
        values = self.model_dump(exclude_none=True)
        return [f"{_SECTIONS.get(name, 'training')}.{name}={value}" for name, value in values.items()]


def all_overrides(overrides: list[str] | None, values: Hyperparameters | None) -> list[str]:
    """key=value from both, the fields last: they win."""
    return [*(overrides or []), *(values.overrides() if values else [])]


def home_of(home: str | None) -> str:
    """BERTFT_HOME of a run as an absolute path: the parameter, else the environment's, else .bertft.

    A relative one lies below the working directory of the run, which for a `git_clone` is the clone.
    """
    return str(Path(home or os.environ.get("BERTFT_HOME") or ".bertft").expanduser().resolve())


def file_of(path: str) -> str:
    """A file of a run as an absolute path; relative ones as `home_of`."""
    return str(Path(path).expanduser().resolve())
