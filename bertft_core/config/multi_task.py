"""A multi-task configuration: which tasks share one encoder, and how it is trained on all of them before their fits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from bertft_core.base.errors import ConfigError
from bertft_core.base.names import run_name
from bertft_core.config.fit import PROBE, Part, TrainingConfig
from bertft_core.config.numbers import Number
from bertft_core.config.run import RunConfig, load_config
from bertft_core.config.yaml_files import config_error, dotted, fault_lines, masked, nearest_key, read_yaml

OF_THE_TASK = ("loss", "focal_gamma", "tau", "class_weights", "label_smoothing")  # read from each task's configuration
OF_THE_MACHINE = (
    "precision",
    "threads",
    "processes",
    "device",
    "prefix_cache",
    "prefix_cache_gb",
)  # settled by the run at hand
_UNREAD = {
    **dict.fromkeys(OF_THE_TASK, "each task's own configuration says it"),
    **dict.fromkeys(OF_THE_MACHINE, "the run of a task settles it"),
    "patience": "the last weights are taken",
}


class MultiTaskConfig(Part):
    """One encoder for several tasks (Liu et al. 2019, MT-DNN; Sun et al. 2019, table 7). `base_dir` as of a run."""

    name: Annotated[str, AfterValidator(run_name)]
    """Letters, digits, `.`, `_`, `-`; for people: each task is registered under its own configuration's name."""
    tasks: Annotated[dict[Annotated[str, AfterValidator(run_name)], str], Field(min_length=2)]
    """`{task: configuration}`, two or more, with paths from this file on. All name the same `model.pretrained`; their
    rows, tokens, heads, losses and decisions are their own."""
    temperature: Annotated[Number, Field(ge=1, le=1000)] = 1.0
    """T of the batches' shares, rows^(1/T): 1 in proportion to the training rows, a large one as many of each task."""
    training: TrainingConfig = TrainingConfig()
    """Of the shared training; keys of `training` as in a run, but for losses (each task's own), the machine's (the
    run's) and `patience`. `auto`: as for a single task of all rows."""
    base_dir: Path = Field(default=Path("."), exclude=True, repr=False)

    @model_validator(mode="after")
    def _is_read(self) -> MultiTaskConfig:
        for key in sorted(self.training.model_fields_set & set(_UNREAD)):
            raise ValueError(f"training.{key}: has no effect here, {_UNREAD[key]}: take it out")
        if self.training.unfreezing == PROBE:
            raise ValueError(f"training.unfreezing: {PROBE} trains no encoder: write another")
        if len(files := set(self.files().values())) < len(self.tasks):
            raise ValueError(f"tasks: wanted a configuration of its own for each, found {len(files)}")
        return self

    def files(self) -> dict[str, Path]:
        """The configuration of each task, in the order of their names."""
        return {name: (self.base_dir / self.tasks[name]).resolve() for name in sorted(self.tasks)}

    def configurations(self) -> dict[str, RunConfig]:
        """The same, read. Raises ConfigError naming the task whose configuration is at fault."""
        found = {}
        for name, file in self.files().items():
            try:
                config = load_config(file)
            except ConfigError as fault:
                raise ConfigError(f"tasks.{name}: {fault}") from None
            if config.adaptation is not None:
                raise ConfigError(
                    f"tasks.{name}: {file} has an adaptation: an encoder is trained further on text, or on several "
                    "tasks: take one of the two out"
                )
            found[name] = config
        return found


def is_multi_task(path: Path | str) -> bool:
    """Whether a file is a YAML file with `tasks`."""
    file = Path(path)
    return file.suffix.lower() in (".yaml", ".yml") and file.is_file() and "tasks" in read_yaml(file)


def load_multi_task(path: Path | str) -> MultiTaskConfig:
    """Read a multi-task configuration. Raises ConfigError naming the file and every key at fault."""
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{file}: no such multi-task configuration; wanted a YAML file with tasks")
    tree = read_yaml(file)
    try:
        return MultiTaskConfig(**{**tree, "base_dir": file.resolve().parent})
    except ValidationError as fault:
        raise config_error(str(file), fault_lines(fault, _unknown_key)) from None


def _unknown_key(loc: Any, value: Any) -> str:
    known = [*MultiTaskConfig.model_fields, *(f"training.{key}" for key in TrainingConfig.model_fields)]
    known.remove("base_dir")
    near = nearest_key(dotted(loc), known)
    return f"unknown key (value {masked(value)}); " + (
        f"did you mean {near}?" if near else f"known: {', '.join(known)}"
    )
