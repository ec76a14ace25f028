"""The run configuration: one strict YAML file. All faults are reported together, with the nearest valid key."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from bertft_core.base.addresses import PASSWORD_FAULT, holds_password, is_elsewhere
from bertft_core.base.errors import ConfigError
from bertft_core.base.names import run_name
from bertft_core.config.adaptation import AdaptationConfig
from bertft_core.config.evaluation import ClassName, DecisionConfig, EvaluationConfig, as_text
from bertft_core.config.fit import (
    ADAPTED,
    BASE,
    CHUNKS,
    ModelConfig,
    Part,
    TokenizationConfig,
    TrainingConfig,
    is_one_layer,
)
from bertft_core.config.knobs import SEARCHED_SECTIONS, key_fault, place, unused_fault, without_unused
from bertft_core.config.nightly import NightlyConfig
from bertft_core.config.numbers import Number, Share, Whole, no_bool
from bertft_core.config.presets import PresetName, with_preset
from bertft_core.config.queries import select_only
from bertft_core.config.search import Range, SearchConfig, Values, values_of
from bertft_core.config.yaml_files import config_error, dotted, fault_lines, masked, nearest_key, parse_yaml, read_yaml

Salt = Annotated[str, BeforeValidator(as_text), Field(min_length=1, max_length=100)]


class SplitConfig(Part):
    """Shares of rows (by hash of the text) for validation and test; the rest trains. No draw moves a row by night."""

    validation: Share = 0.1
    """Share of the rows that chooses epochs, hyperparameters and decisions; by the hash of each row's text
    (docs/configuration.md#splits)."""
    test: Annotated[Number, Field(ge=0, lt=1)] = 0.2
    """Share of the rows that judges and nothing else. 0 keeps no row for a test: then `search` and `finetune` alone
    run, and what is trained cannot be judged, registered or promoted."""
    salt: Salt | None = None
    """Any text; each is another draw of all rows (docs/configuration.md#splits)."""
    class_salt: dict[ClassName, Salt] = Field(default_factory=dict)
    """`{class: text}`: another draw of the rows of that class alone (docs/configuration.md#splits)."""

    @model_validator(mode="after")
    def _leaves_rows_to_train(self) -> SplitConfig:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation + test must be below 1, was {self.validation + self.test:g}")
        return self


_FILES, _ENCODER = ("train", "validation", "test"), "model.pretrained"


def _iso_date(value: Any) -> Any:
    text = value.isoformat() if isinstance(value, dt.date) else value  # YAML reads 2026-01-31 as a date
    try:
        dt.datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise ValueError("is no ISO 8601 date such as 2026-01-31") from None
    return text


class DataConfig(Part):
    """Where labelled text comes from, which columns matter, how it is split and gated."""

    source: str | None = None
    """`.csv .tsv .jsonl .json .parquet` (the texts among them also as `.gz`, `.xz`, or alone in a `.zip`; JSON as
    lines, an array, or columns as pandas writes them; `sep=;` and lines of `#` above a header are skipped), a folder
    of class folders with `.txt` files, a folder of tables, `package://NAME/path`, `hf://owner/dataset[#split]`,
    `hf:///folder`, `s3://`, `gs://` and other stores of fsspec, a database's URL beside `data.query`, the address of a
    plug-in, `env:NAME` for an address in an environment variable (docs/plugins.md). Never a password. Wanted unless the
    three splits have files of their own."""
    query: Annotated[str, AfterValidator(select_only)] | None = None
    """The SELECT whose rows are read from the database that `data.source` names (docs/plugins.md)."""
    train: str | None = None
    """A file of training rows of your own, in place of `data.source`; it comes with `data.validation` and `data.test`,
    and may also stand below `data.split`."""
    validation: str | None = None
    """A file of validation rows of your own, as `data.train`."""
    test: str | None = None
    """A file of test rows of your own, as `data.train`."""
    chosen: Annotated[str, Field(pattern=r"\.jsonl$")] | None = None
    """A `.jsonl` file of rows that were chosen to be labelled, with the columns of the source, as
    `bertft label CONFIG --import FILE` writes it. They are training rows, whatever the split says, and their label wins
    over the source's: rows picked for being hard would bias a test (docs/few_labels.md)."""
    text: str = "text"
    """Column of the text."""
    text_pair: str | None = None
    """Column of a second text, which is read beside the first."""
    label: str | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2)] = "label"
    """Column of the label: strings, integers, `{label: weight}`, lists of numbers in the order of `data.classes`;
    several per row (multi-label): lists of strings (`["a", "b"]` in a CSV), or a list of columns of 0 and 1, which
    are then the classes: `label: [spam, rude]`."""
    split: SplitConfig = SplitConfig()
    where: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """`{column: value}`: only rows that match."""
    sample: Annotated[Whole, Field(ge=10)] | None = None
    """That many rows, by hash, so that the choice is stable; null: all."""
    group: str | None = None
    """Column whose rows stay on one side (one customer, one thread), and count as one in every interval and test
    (docs/gate.md)."""
    classes: list[Annotated[str | int, BeforeValidator(no_bool)]] | None = None
    """Order of the classes; sorted where it is left out. Required for labels that are lists of numbers."""
    date: str | None = None
    """Column of a row's date; of one text with several labels the latest wins. Dates are ISO 8601, YYYYMMDD, years, or
    seconds, milliseconds, microseconds or nanoseconds since 1970 (told by their size, from 1973 to 2286), one of
    these in all rows; any other number is a faulty row, a second kind ends the run."""
    until: Annotated[str, BeforeValidator(_iso_date)] | None = None
    """ISO 8601; rows of a later `data.date` are left out. A date without a time counts to its end."""
    unknown_class: Literal["faulty", "drop"] = "faulty"
    """What a row is whose label is not in `data.classes`: faulty, or left out (`drop`)."""
    merge_labels: Literal["none", "casefold"] = "none"
    """`casefold`: labels that differ by case or inner spaces alone are one class, by its name in `data.classes`, else
    in lower case. A label reads alike in CSV, JSON lines and Parquet: `1` for 1.0, `true` for True, bytes as UTF-8,
    Unicode composed, without zero-width signs."""
    slices: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Columns kept beside the rows: scores by their values in the report and the gate."""
    encoding: str | None = None
    """null decides by each file: UTF-8, UTF-16 (with a byte order mark or without), else cp1252 where bytes 0x80 to
    0x9F occur, else latin-1. UTF-8 with a bad byte is refused by its place (a `.txt` of a class folder is a faulty
    row). The encoding travels with the version: `predict` and `compare` read alike, `--encoding` overrides."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """null decides by each file: comma, semicolon, tab or bar."""
    quoting: Literal["auto", "standard", "none"] = "auto"
    """Quotation marks in CSV and TSV: `none` (they are part of the text), or `auto`, per file: without quoting where
    every line has the header's fields and more records speak against quoting than for it. A quoted field that holds
    a line with the header's fields and a known label is a fault of each of its lines, `none` apart. Under a header
    of one column each line is a cell, with its commas."""
    max_faulty_share: Annotated[Number, Field(ge=0, le=1)] = 0.01
    """Above this share of faulty rows the run stops (duplicates do not count)."""
    min_class_rows: Annotated[Whole, Field(ge=1)] = 3
    """A class with fewer rows stops the run."""

    @property
    def columns(self) -> dict[str, str]:
        """Column name -> the configuration key that asks for it."""
        keys = {column: "data.slices" for column in self.slices}
        keys |= {column: f"data.where.{column}" for column in self.where}
        keys |= {column: "data.label" for column in self.label_columns}
        for key in ("date", "group", "text_pair", "text"):
            column = getattr(self, key)
            if column is not None:
                keys[column] = f"data.{key}"
        return keys

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The label column, or all of them."""
        return (self.label,) if isinstance(self.label, str) else tuple(self.label)

    @model_validator(mode="before")
    @classmethod
    def _files_below_split(cls, tree: Any) -> Any:
        """data.split may name the files of the three splits instead of shares: then they are data.train and so on."""
        split = tree.get("split") if isinstance(tree, dict) else None
        if not isinstance(split, dict) or not any(isinstance(split.get(name), str) for name in _FILES):
            return tree
        return {**{k: v for k, v in tree.items() if k != "split"}, **split}

    @model_validator(mode="after")
    def _one_origin(self) -> DataConfig:
        files = [n for n in _FILES if getattr(self, n)]
        if self.source and files:
            raise ValueError(f"give either source or files of their own, found source and {', '.join(files)}")
        if not self.source and len(files) != 3:
            raise ValueError("give source, or all three of train, validation, test")
        if self.query and not is_elsewhere(self.source or ""):
            raise ValueError("data.query: wants data.source to be a database's URL, or env:NAME that holds one")
        if held := [key for key in ("source", *_FILES) if holds_password(getattr(self, key) or "")]:
            raise ValueError(f"data.{held[0]}: {PASSWORD_FAULT}: put the whole URL into a variable and write env:NAME")
        if isinstance(self.label, list) and (self.classes is not None or len(set(self.label)) != len(self.label)):
            raise ValueError("label names the classes by its columns, each once: leave classes out")
        if self.until and not self.date:
            raise ValueError("until needs data.date, the column that holds each row's date")
        return self

    @model_validator(mode="after")
    def _salts_draw(self) -> DataConfig:
        salts = [name for name in ("salt", "class_salt") if getattr(self.split, name)]
        if salts and not self.source:
            raise ValueError(f"data.split.{salts[0]}: has no effect on files of your own: take it out")
        if self.split.class_salt and (self.group or isinstance(self.label, list)):
            kept = "the rows of a value of data.group stay together" if self.group else "a row has several labels"
            raise ValueError(f"data.split.class_salt: cannot be, {kept}: data.split.salt draws all rows anew")
        return self


class RunConfig(Part):
    """One run. `base_dir` is the folder of the file; relative paths start there. A preset is resolved at once."""

    name: Annotated[str, AfterValidator(run_name)]
    """Letters, digits, `.`, `_`, `-`; also the registered model's name."""
    preset: PresetName | None = Field(default=None, exclude=True)
    """Values for `training` and `tokenization` below those you write (docs/techniques/schedules.md#presets); its name
    is no part of a run."""
    data: DataConfig
    model: ModelConfig
    tokenization: TokenizationConfig = TokenizationConfig()
    adaptation: AdaptationConfig | None = None
    multi_task: str | None = None
    """A file with `tasks`, from this one on: fits begin with the encoder that it trains on several tasks at once, at
    half the rate where `training.lr` is `auto` (docs/techniques/multi_task.md). `bertft run` of that file sets it."""
    training: TrainingConfig = TrainingConfig()
    search: SearchConfig | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    decision: DecisionConfig = DecisionConfig()
    nightly: NightlyConfig = NightlyConfig()
    base_dir: Path = Field(default=Path("."), exclude=True, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _preset_below(cls, tree: Any) -> Any:
        return with_preset(tree) if isinstance(tree, dict) else tree

    @model_validator(mode="after")
    def _no_unused_key(self) -> RunConfig:
        space = self.search.space if self.search else {}
        if fault := unused_fault(self.value_of, {key: values_of(choice) for key, choice in space.items()}):
            raise ValueError(fault)
        combine, layers = self.value_of("model.combine"), self.possible("model.layers")
        if combine != "concat" and all(is_one_layer(value) for value in layers):
            raise ValueError(f"model.combine: has no effect on one layer: take it out, was {combine!r}")
        return self

    @model_validator(mode="after")
    def _adapts_for_something(self) -> RunConfig:
        searched = self._searched(_ENCODER)
        if self.model.pretrained in (BASE, ADAPTED):
            raise ValueError(f"{_ENCODER}: wanted an encoder; {BASE} and {ADAPTED} are words of search.space")
        if self.adaptation is None and (words := [word for word in (BASE, ADAPTED) if word in searched]):
            raise ValueError(f"search.space.{_ENCODER}: {words[0]} wants a section adaptation, which is missing")
        if self.adaptation is not None and self.multi_task is not None:
            raise ValueError(
                "multi_task: the encoder is trained further by adaptation already: take one of the two out"
            )
        if self.multi_task is not None and searched and self.is_searched:
            raise ValueError(
                f"search.space.{_ENCODER}: has no effect with multi_task, which makes one encoder: take it out"
            )
        if self.adaptation is None and not self.model.adapted:
            raise ValueError("model.adapted: has no effect without a section adaptation: take it out")
        if searched and self.is_searched and self.adaptation is not None and ADAPTED not in searched:
            raise ValueError(
                f"adaptation: has no effect, search.space.{_ENCODER} does not hold {ADAPTED}: add it, or take one of "
                "them out"
            )
        return self

    @model_validator(mode="after")
    def _chunks_fit(self) -> RunConfig:
        if CHUNKS not in self.possible("tokenization.truncation"):
            return self
        if self.data.text_pair:
            raise ValueError(
                "tokenization.truncation: chunks are for single texts, data.text_pair is "
                f"{self.data.text_pair!r}: use head, tail or head+tail"
            )
        overlap, length = (f"tokenization.{name}" for name in ("chunk_overlap", "max_length"))
        most, least = max(self.possible(overlap)), min(self.possible(length))
        if most > least // 2:
            raise ValueError(f"{overlap}: must be at most half of {length}, {least // 2:g}, was {most:g}")
        return self

    @property
    def is_searched(self) -> bool:
        """Whether there are trials to run."""
        return self.search is not None and self.search.trials > 0

    @property
    def is_adapted(self) -> bool:
        """Whether some fit begins with the adapted encoder."""
        return self.adaptation is not None and (
            ADAPTED in self._searched(_ENCODER) if self.is_searched and self._searched(_ENCODER) else self.model.adapted
        )

    def possible(self, knob: str) -> list[Any]:
        """The configured value of a knob, and those (of a range: its ends) that a search may take."""
        return [self.value_of(knob), *self._searched(knob)]

    def resolved(self) -> dict[str, Any]:
        """The configuration as plain JSON values, without the folder it came from and the name of its preset."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """What a run is, besides its rows: not when it is repeated, nor up to which date rows were taken."""
        tree = without_unused(self.resolved())
        del tree["nightly"], tree["data"]["until"]
        return tree

    def value_of(self, knob: str) -> Any:
        """The configured value of a knob, by its name in search.space."""
        section, field = place(knob)
        if knob == _ENCODER and self.adaptation is not None and ADAPTED in self._searched(knob):
            return ADAPTED if self.model.adapted else BASE if BASE in self._searched(knob) else self.model.pretrained
        return getattr(getattr(self, section), field)

    def _searched(self, knob: str) -> list[Any]:
        return values_of(self.search.space.get(knob, [])) if self.search else []

    def with_values(self, params: Mapping[str, Any]) -> RunConfig:
        """This configuration with the values of a trial in place, by their names in search.space.

        Raises ConfigError for an unknown knob and a value that its section refuses.
        """
        sections: dict[str, dict[str, Any]] = {}
        for knob, value in params.items():
            section, field = place(knob)
            if section not in SEARCHED_SECTIONS:
                raise ConfigError(f"{knob}: {key_fault(knob)}")
            values = sections.setdefault(section, getattr(self, section).model_dump())
            if knob == _ENCODER and self.adaptation is not None:
                values["adapted"] = value == ADAPTED
                value = self.model.pretrained if value in (BASE, ADAPTED) else value
            values[field] = value
        try:
            return RunConfig(**{**dict(self), **sections})
        except ValidationError as fault:
            raise ConfigError("; ".join(fault_lines(fault, _unknown_key))) from None

    def __str__(self) -> str:
        return f"run configuration {self.name}: {self.data.source or self.data.train} on {self.model.pretrained}"


def _known_keys(prefix: str = "", model: type[Part] = RunConfig) -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        if name == "base_dir":
            continue
        keys.append(prefix + name)
        for candidate in [field.annotation, *getattr(field.annotation, "__args__", ())]:
            part = getattr(candidate, "__origin__", candidate)  # what an Annotated annotates
            if isinstance(part, type) and issubclass(part, Part):
                keys += _known_keys(f"{prefix}{name}.", part)
    return keys


def _unknown_key(loc: Sequence[Any], value: Any) -> str:
    """What is said of a key that no section has, with the nearest that one has, or all those beside it."""
    choice = next((kind for tag, kind in (("[range]", Range), ("[values]", Values)) if tag in loc), None)
    key, known = dotted(loc), _known_keys() if choice is None else list(choice.model_fields)
    near = nearest_key(key if choice is None else key.split(".")[-1], known)
    head = key.rpartition(".")[0] if choice is None else ""
    siblings = [name for name in known if name.rpartition(".")[0] == head]
    hint = f"did you mean {near}?" if near else f"known: {', '.join(siblings)}"
    return f"unknown key (value {masked(value)}); {hint}"


def parse_config(tree: dict[str, Any], base_dir: Path, origin: str = "configuration") -> RunConfig:
    """Validate a configuration tree. Raises ConfigError that lists every fault."""
    tree = {k: v for k, v in tree.items() if not (k == "search" and v is None)}
    if "base_dir" in tree:
        raise ConfigError(f"{origin}: base_dir: unknown key")
    try:
        return RunConfig(**tree, base_dir=base_dir)
    except ValidationError as fault:
        raise config_error(origin, fault_lines(fault, _unknown_key)) from None


def load_config(path: Path | str, overrides: tuple[str, ...] | list[str] = ()) -> RunConfig:
    """Read a YAML file, apply `key=value` overrides (values are YAML), validate.

    Raises ConfigError naming the file, every dotted key at fault, its value and the nearest valid key.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{file}: no such configuration file; wanted a YAML file (see examples/)")
    tree = read_yaml(file)
    if "tasks" in tree:
        raise ConfigError(
            f"{file}: tasks: `bertft run` and `bertft check` take a file of several tasks; for all else name the "
            f"configuration of one of them, with `multi_task: {file.name}` in it"
        )
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {masked(override)}: wanted key=value, such as training.lr=3e-5")
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise ConfigError(f"override {masked(override)}: {parent} holds a value, not a section")
        try:
            node[last] = parse_yaml(text)
        except yaml.YAMLError as fault:
            raise ConfigError(
                f"override {masked(override)}: the value is not readable as YAML: {' '.join(str(fault).split())[:300]}"
            ) from None
    return parse_config(tree, file.resolve().parent, str(file))
