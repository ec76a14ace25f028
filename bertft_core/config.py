"""The run configuration: one strict YAML file. All faults are reported together, with the nearest valid key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bertft_core.errors import ConfigError
from bertft_core.yaml_files import read_yaml

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must not be true or false (quote yes and no: YAML reads them as booleans)")
    return value


def _valid_name(value: Any) -> Any:
    if isinstance(value, str) and not _NAME.match(value):
        raise ValueError("must be 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit")
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as fault:
        raise ValueError(f"is no regular expression ({fault})") from None
    return value


Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_no_bool)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitConfig(_Part):
    """Shares of rows (by hash of the text) for validation and test; the rest trains."""

    validation: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    test: Annotated[Number, Field(gt=0, lt=1)] = 0.2

    @model_validator(mode="after")
    def _leaves_rows_to_train(self) -> SplitConfig:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation + test must be below 1, was {self.validation + self.test:g}")
        return self


class DataConfig(_Part):
    """Where labelled text comes from, which columns matter, how it is split and gated."""

    source: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    split: SplitConfig = SplitConfig()
    where: dict[str, str | int | float | bool] = Field(default_factory=dict)
    sample: Annotated[Whole, Field(ge=10)] | None = None
    group: str | None = None
    classes: list[Annotated[str | int, BeforeValidator(_no_bool)]] | None = None
    date: str | None = None
    slices: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    encoding: str | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    max_faulty_share: Annotated[Number, Field(ge=0, le=1)] = 0.01
    min_class_rows: Annotated[Whole, Field(ge=1)] = 3

    @model_validator(mode="before")
    @classmethod
    def _files_below_split(cls, tree: Any) -> Any:
        """data.split may name the files of the three splits instead of shares: then they are data.train and so on."""
        split = tree.get("split") if isinstance(tree, dict) else None
        if not isinstance(split, dict) or not any(isinstance(value, str) for value in split.values()):
            return tree
        return {**{k: v for k, v in tree.items() if k != "split"}, **split}

    @model_validator(mode="after")
    def _one_origin(self) -> DataConfig:
        files = [n for n in ("train", "validation", "test") if getattr(self, n)]
        if self.source and files:
            raise ValueError(f"give either source or files of their own, found source and {', '.join(files)}")
        if not self.source and len(files) != 3:
            raise ValueError("give source, or all three of train, validation, test")
        return self


class ModelConfig(_Part):
    """The pretrained encoder: package://NAME/path, a local directory, or a hub id."""

    pretrained: Annotated[str, Field(min_length=1)]


class TokenizationConfig(_Part):
    """How long texts are cut (Sun et al. 2019, section 5.3.1)."""

    max_length: Annotated[Whole, Field(ge=8, le=8192)] = 256
    truncation: Literal["head", "tail", "head+tail"] = "head+tail"


class TrainingConfig(_Part):
    """Fine-tuning settings. alpha is the ratio of a layer's rate to the rate of the layer above, in (0, 1]."""

    lr: Annotated[Number, Field(gt=0, le=0.01)] = 5e-5
    batch_size: Annotated[Whole, Field(ge=1, le=4096)] = 16
    epochs: Annotated[Whole, Field(ge=1, le=1000)] = 3
    alpha: Annotated[Number, Field(gt=0, le=1)] = 0.95
    warmup_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    weight_decay: Annotated[Number, Field(ge=0, le=1)] = 0.01
    unfreezing: Literal["gradual", "none"] = "gradual"
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 13
    max_grad_norm: Annotated[Number, Field(gt=0)] = 1.0
    dropout: Annotated[Number, Field(ge=0, lt=1)] | None = None
    attention_dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Annotated[Whole, Field(ge=1, le=1024)] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Range(_Part):
    """A numeric interval to search, both ends included."""

    low: Number
    high: Number
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low must not exceed high, was {self.low:g} > {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range needs low > 0, was {self.low:g}")
        return self


Searched = Literal["lr", "batch_size", "epochs", "alpha"]


def _paper_space() -> dict[Searched, Range | list[Number]]:
    return {
        "lr": Range(low=2e-5, high=5e-5, log=True),
        "batch_size": [16, 32],
        "epochs": [2, 3, 4],
        "alpha": Range(low=0.8, high=1.0),
    }


class SearchConfig(_Part):
    """Optuna search; the default space is the paper's (Sun et al. 2019)."""

    trials: Annotated[Whole, Field(ge=0, le=10000)] = 5
    rows: Annotated[Whole, Field(ge=10)] | None = None
    space: dict[Searched, Range | list[Number]] = Field(default_factory=_paper_space)

    @model_validator(mode="after")
    def _possible(self) -> SearchConfig:
        faults = []
        for key, choice in self.space.items():
            values = [choice.low, choice.high] if isinstance(choice, Range) else choice
            if not values:
                faults.append(f"space.{key}: the list is empty")
            for value in values:
                try:
                    TrainingConfig.model_validate({key: value})
                except ValidationError as fault:
                    faults.append(f"space.{key}: {fault.errors()[0]['msg']}, was {value!r}")
        if faults:
            raise ValueError("; ".join(faults))
        return self


class EvaluationConfig(_Part):
    """The metric that serves best epoch, trial score and gate alike, and the intervals.

    review_rows: training rows whose labels are looked through for errors, 0 = none. slices {name: regular
    expression}: rows whose text it finds are a slice of their own, in the report and the gate.
    """

    metric: Literal["macro_f1", "accuracy", "log_loss"] = "macro_f1"
    level: Annotated[Number, Field(gt=0.5, lt=1)] = 0.95
    resamples: Annotated[Whole, Field(ge=100, le=100_000)] = 10_000
    review_rows: Annotated[Whole, Field(ge=0)] = 5_000
    slices: dict[Annotated[str, Field(min_length=1)], Annotated[str, AfterValidator(_pattern)]] = Field(
        default_factory=dict
    )


class DecisionConfig(_Part):
    """How probabilities become an answer; fitted on validation, carried by the served model.

    costs {true: {decided: cost}} by class name, 0 where a pair is left out; thresholds and costs exclude each
    other. abstain_accuracy: wanted on the rows answered, the others are left to a person.
    """

    temperature: bool = True
    thresholds: Literal["f_beta", "balanced_accuracy"] | None = None
    beta: Annotated[Number, Field(gt=0)] = 1.0
    costs: dict[str, dict[str, Annotated[Number, Field(ge=0)]]] | None = None
    abstain_accuracy: Annotated[Number, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> DecisionConfig:
        if self.thresholds and self.costs:
            raise ValueError("thresholds and costs exclude each other: keep one")
        return self

    def cost_matrix(self, classes: Sequence[str]) -> tuple[tuple[float, ...], ...] | None:
        """costs as [true][decided] in the order of `classes`. Raises ConfigError for an unknown class."""
        if self.costs is None:
            return None
        unknown = {*self.costs, *(decided for row in self.costs.values() for decided in row)} - set(classes)
        if unknown:
            raise ConfigError(f"decision.costs: unknown class {sorted(unknown)[0]!r}; classes: {', '.join(classes)}")
        return tuple(tuple(self.costs.get(true, {}).get(decided, 0.0) for decided in classes) for true in classes)


class RunConfig(_Part):
    """One run. `base_dir` is the folder of the file; relative paths start there."""

    name: Annotated[str, BeforeValidator(_valid_name)]
    data: DataConfig
    model: ModelConfig
    tokenization: TokenizationConfig = TokenizationConfig()
    training: TrainingConfig = TrainingConfig()
    search: SearchConfig | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    decision: DecisionConfig = DecisionConfig()
    base_dir: Path = Field(default=Path("."), exclude=True, repr=False)

    def resolved(self) -> dict[str, Any]:
        """The configuration as plain JSON values, without the folder it came from."""
        return self.model_dump(mode="json")

    def __str__(self) -> str:
        return f"run configuration {self.name}: {self.data.source or self.data.train} on {self.model.pretrained}"


def _fields(model: Any) -> dict[str, Any]:
    return getattr(model, "model_fields", {})


def _known_keys(prefix: str = "", model: Any = RunConfig) -> list[str]:
    keys = []
    for name, field in _fields(model).items():
        if name == "base_dir":
            continue
        keys.append(prefix + name)
        inner = field.annotation
        for candidate in [inner, *getattr(inner, "__args__", ())]:
            if isinstance(candidate, type) and issubclass(candidate, _Part):
                keys += _known_keys(f"{prefix}{name}.", candidate)
    return keys


def _describe(fault: Any) -> str:
    parts = [str(p) for p in fault["loc"]]
    if fault["type"] == "extra_forbidden":
        key = ".".join(parts)
        near = difflib.get_close_matches(key, _known_keys(), n=1, cutoff=0.5) or difflib.get_close_matches(
            parts[-1], [k.split(".")[-1] for k in _known_keys()], n=1, cutoff=0.6
        )
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(_siblings(parts))}"
        return f"{key}: unknown key (value {_short(fault['input'])}){hint}"
    key = ".".join(p for p in parts if "[" not in p and p != "Range")  # pydantic names union members too
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        return f"{key}: required key is missing"
    if message.startswith("space."):
        return f"{key}.{message}"
    return f"{key}: {message[0].lower()}{message[1:]}, was {_short(fault['input'])}"


def _siblings(parts: list[str]) -> list[str]:
    prefix = ".".join(parts[:-1])
    head = f"{prefix}." if prefix else ""
    return [k for k in _known_keys() if k.startswith(head) and "." not in k[len(head) :]]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _set_dotted(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: wanted key=value, such as training.lr=3e-5")
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {parent} holds a value, not a section")
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as fault:
        raise ConfigError(f"override {override!r}: the value is not YAML") from fault


def parse_config(tree: dict[str, Any], base_dir: Path, origin: str = "configuration") -> RunConfig:
    """Validate a configuration tree. Raises ConfigError that lists every fault."""
    tree = {k: v for k, v in tree.items() if not (k == "search" and v is None)}
    if "base_dir" in tree:
        raise ConfigError(f"{origin}: base_dir: unknown key")
    try:
        return RunConfig(**tree, base_dir=base_dir)
    except ValidationError as fault:
        lines = list(dict.fromkeys(_describe(e) for e in fault.errors()))
        noun = "fault" if len(lines) == 1 else "faults"
        raise ConfigError(f"{origin}: {len(lines)} {noun}\n" + "\n".join(f"  {x}" for x in lines)) from None


def load_config(path: Path | str, overrides: tuple[str, ...] | list[str] = ()) -> RunConfig:
    """Read a YAML file, apply `key=value` overrides (values are YAML), validate.

    Raises ConfigError naming the file, every dotted key at fault, its value and the nearest valid key.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{file}: no such configuration file; wanted a YAML file (see examples/)")
    tree = read_yaml(file)
    for override in overrides:
        _set_dotted(tree, override)
    return parse_config(tree, file.resolve().parent, str(file))
