"""The search section: how many trials, where the study is kept, and which values a trial may take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from bertft_core.base.addresses import PASSWORD_FAULT, holds_password
from bertft_core.config.fit import AUTO, Part
from bertft_core.config.knobs import SEARCHED_SECTIONS, canonical, is_integer, is_number, key_fault, place, read_value
from bertft_core.config.numbers import Number, Positive, Whole
from bertft_core.config.strategies import PROBED_SAMPLERS, Pruner, Sampler, Strategy

CONFIRM_FROM = 15  # trials; with fewer, the luckiest of them is not yet far above its own mean
_SIZES = ("model.pretrained", "model.layers", "model.pooling")
_NEEDED_BY = {
    "size": _SIZES,
    "latency": (*_SIZES, "tokenization.max_length", "tokenization.truncation", "tokenization.max_chunks"),
}


def _plain(value: Any) -> Any:
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError("wanted a plain value (text, number, true, false or null)")
    return value


Scalars = list[Annotated[Any, AfterValidator(_plain)]]
_Allowed = Annotated[Scalars, BeforeValidator(lambda v: v if isinstance(v, list | tuple) else [v]), Field(min_length=1)]


class _Conditional(Part):
    """A choice that a trial makes only while `when` holds: {other knob: value, or list of allowed values}."""

    when: dict[str, _Allowed] = Field(default_factory=dict)
    """The knob counts only while these other knobs have one of these values."""

    @model_serializer(mode="wrap")
    def _without_empty_condition(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if key != "when" or value}


class Range(_Conditional):
    """A numeric interval to search, both ends included."""

    low: Number
    """Of an interval of a knob: least value, included."""
    high: Number
    """Of an interval of a knob: largest value, included."""
    log: bool = False
    """Drawn evenly in the logarithm."""

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low must not exceed high, was {self.low:g} > {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range needs low > 0, was {self.low:g}")
        return self


class Values(_Conditional):
    """A list of values with a condition; without one, the plain list says the same."""

    values: Scalars
    """Of a knob: a list with a condition; without one, the plain list says the same."""


def _kind_of_choice(value: Any) -> str | None:
    if isinstance(value, Mapping):
        return "[values]" if "values" in value else "[range]"
    if isinstance(value, Range | Values):
        return "[range]" if isinstance(value, Range) else "[values]"
    return "[list]" if isinstance(value, list | tuple) else None


Choice = Range | Values | list[Any]
_ReadChoice = Annotated[
    Annotated[Range, Tag("[range]")] | Annotated[Values, Tag("[values]")] | Annotated[Scalars, Tag("[list]")],
    Discriminator(
        _kind_of_choice,
        custom_error_type="choice",
        custom_error_message="wanted a list of values, {low, high, log} or {values, when}",
    ),
]


def values_of(choice: Choice) -> list[Any]:
    """What a choice says in plain values: the list, or the two ends of the range."""
    if isinstance(choice, Range):
        return [choice.low, choice.high]
    return choice.values if isinstance(choice, Values) else choice


def conditions_of(choice: Choice) -> dict[str, list[Any]]:
    """The condition of a choice; empty for one that always counts."""
    return {} if isinstance(choice, list) else choice.when


def _checked_choice(key: str, space: Mapping[str, Choice]) -> Choice:
    """The choice with its values as their section reads them. Raises ValueError when it leaves nothing to choose."""
    choice, name = space[key], ".".join(place(key))
    if isinstance(choice, Range):
        if not is_number(key):
            raise ValueError(f"{name} is no number: wanted a list of values, not a range")
        ends = [read_value(key, int(v) if is_integer(key) and v == int(v) else v) for v in values_of(choice)]
        if ends[0] == ends[1]:
            raise ValueError(f"has one value only, {ends[0]}: set {name} instead")
        return choice
    values = [read_value(key, value) for value in values_of(choice)]
    if not values:
        raise ValueError(f"the list is empty: give two or more values, or set {name} instead")
    if len(values) == 1:
        raise ValueError(f"has one value only, {values[0]!r}: set {name} instead")
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} occurs twice: keep one")
    when = conditions_of(choice)
    return Values(values=values, when=when) if when else values


def _checked_condition(key: str, space: Mapping[str, Choice]) -> Choice:
    """The choice with its condition by canonical names. Raises ValueError for one that never or always holds."""
    choice, when = space[key], {}
    for given, allowed in conditions_of(choice).items():
        parent = canonical(given)
        if parent not in space:
            fault = key_fault(given) or "is not searched: add it to the space, or take the condition out"
            raise ValueError(f"when: {given}: {fault}")
        possible = space[parent]
        if isinstance(possible, Range):
            raise ValueError(f"when: {given}: is a range, a condition needs a knob with a list of values")
        wanted = []
        for value in allowed:
            try:
                wanted.append(read_value(parent, value))
            except ValueError:  # then it is not among the knob's values either, and the message says so
                wanted.append(value)
        strange = [value for value in wanted if value not in values_of(possible)]
        if strange:
            raise ValueError(f"when: {given}: never {strange[0]!r}, its values are {values_of(possible)}")
        when[parent] = [value for value in values_of(possible) if value in wanted]
        if when[parent] == values_of(possible) and not conditions_of(possible):
            raise ValueError(f"when: {given}: always holds, it names every value: take it out")
    return choice if isinstance(choice, list) else choice.model_copy(update={"when": when})


def requirements(space: Mapping[str, Choice], key: str) -> dict[str, list[Any]]:
    """Values that the knobs above `key` must have for it to count: its condition, and those of the knobs it names.

    Raises ValueError when the conditions are a circle or contradict each other.
    """
    required: dict[str, list[Any]] = {}
    todo: list[tuple[str, tuple[str, ...]]] = [(key, (key,))]
    while todo:
        child, path = todo.pop()
        for parent, allowed in conditions_of(space[child]).items():
            if parent in path:
                raise ValueError(f"when: the conditions are a circle: {' -> '.join((*path, parent))}")
            required[parent] = [value for value in required.get(parent, allowed) if value in allowed]
            if not required[parent]:
                raise ValueError(f"when: can never hold, the conditions above it want different values of {parent}")
            todo.append((parent, (*path, parent)))
    return required


def _satisfiable(key: str, space: Mapping[str, Choice]) -> Choice:
    requirements(space, key)
    return space[key]


def _storage_url(url: str) -> str:
    if holds_password(url):
        raise ValueError(
            f"{PASSWORD_FAULT}: give the whole URL as BERTFT_STORAGE, or keep the password in PGPASSWORD or .pgpass"
        )
    if not url.startswith(("sqlite:///", "journal:///", "postgresql+psycopg://")):
        raise ValueError("wanted sqlite:///FILE, journal:///FILE or postgresql+psycopg://USER@HOST/DATABASE")
    return url


class ConfirmConfig(Part):
    """The `top` best trials run again with `seeds` further seeds each; the best mean wins."""

    top: Annotated[Whole, Field(ge=2, le=100)] = 3
    """The so many best trials run again."""
    seeds: Annotated[Whole, Field(ge=1, le=100)] = 2
    """With so many further seeds each; the best mean wins."""


class SecondConfig(Part):
    """A second objective, less is better; of the trials within `within` of the best score the lowest wins."""

    measure: Literal["latency", "size"]
    """Less is better: milliseconds of processor time for one row, or bytes."""
    within: Annotated[Number, Field(ge=0, lt=1)] = 0.01
    """Of the trials within so much of the best score the one that measures least wins."""


def _kind_of_confirm(value: Any) -> str | None:
    if value is None or value is False:
        return "[off]"
    return "[confirm]" if isinstance(value, Mapping | ConfirmConfig) else None


class SearchConfig(Part):
    """Optuna search. A space that is left out, or `auto`, follows the rows (`config.auto.searched`)."""

    trials: Annotated[Whole, Field(ge=0, le=10000)] = 5
    """Finished trials in total, over any number of interruptions; 0: no search."""
    rows: Annotated[Whole, Field(ge=10)] | None = None
    """Trials train on that many rows, stratified; validation stays whole. null: all."""
    space: dict[str, _ReadChoice] = Field(default_factory=dict)
    """`{knob: choice}` (docs/configuration.md#the-search-space). `auto`, or left out: lr (log) from 0.4 to 4 times
    `training.lr`, which is 2e-5 to 2e-4 where that is 5e-5; batch_size 16 or 32; alpha 0.8 to 1; epochs as
    `training.epochs`."""
    workers: Annotated[Whole, Field(ge=1, le=256)] = Field(default=1, exclude=True)
    """Trainer processes on this machine, each with its share of the threads or a GPU of its own. No part of what a run
    is."""
    storage: Annotated[str, Field(min_length=1), AfterValidator(_storage_url)] | None = Field(
        default=None, exclude=True, repr=False
    )
    """File or URL of the study, in BERTFT_HOME where it is left out; never a password: give the whole URL as
    `BERTFT_STORAGE`, or use `PGPASSWORD` or `.pgpass` (docs/search.md#storages). No part of what a run is."""
    timeout: Positive | None = None
    """Seconds of the whole search, summed over interruptions; null: no limit."""
    trial_timeout: Positive | None = None
    """Seconds of one trial; null: no limit."""
    stop_early: bool = True
    """Stop when the expected gain is below the noise (docs/search.md#spending)."""
    confirm: Annotated[
        Annotated[ConfirmConfig, Tag("[confirm]")] | Annotated[Literal[False] | None, Tag("[off]")],
        Discriminator(
            _kind_of_confirm, custom_error_type="confirm", custom_error_message="wanted {top, seeds}, or false"
        ),
    ] = None
    """`{top: 3, seeds: 2}` where it is left out and there are 15 trials or more; `false`: never."""
    linear_probe: bool | None = None
    """One trial is a logistic regression on the encoder as it is (`training.unfreezing: linear_probe`), behind the
    configured values; null: where `space` is left out and trials train on at most 1,000 rows (docs/few_labels.md).
    Beside `auto`, `tpe` and `random` alone: other samplers want the searched knobs in every trial."""
    sampler: Sampler = Strategy(name="auto")
    """What proposes values: `tpe`, `gp`, `cmaes`, `grid`, `random`, or `auto`; a class and its arguments as
    `{name: "optuna.samplers:QMCSampler", arguments: {qmc_type: halton}}` (docs/search.md#strategies)."""
    pruner: Pruner = Strategy(name="auto")
    """What gives a trial up at 1/4, 1/2, 3/4 of its length: `halving`, `median`, `none`, a class as above, or `auto`:
    halving from 9 trials, below the median rule."""
    second: SecondConfig | None = None
    """A second objective beside the score: `{measure: latency, within: 0.01}`."""

    @model_validator(mode="before")
    @classmethod
    def _no_empty_space(cls, tree: Any) -> Any:
        if isinstance(tree, Mapping) and tree.get("space", AUTO) == {} and tree.get("trials", 1) != 0:
            raise ValueError("space is empty: name a knob to search, write auto, or set search.trials to 0")
        return tree

    @field_validator("space", mode="before")
    @classmethod
    def _keys(cls, tree: Any) -> Any:
        """Knobs by their one name; an override may also write search.space.tokenization.truncation=[...]."""
        if tree == AUTO:
            return {}
        if not isinstance(tree, Mapping):
            return tree
        choices: dict[str, Any] = {}
        for key, value in tree.items():
            is_section = key in SEARCHED_SECTIONS and isinstance(value, Mapping)
            choices |= (
                {f"{key}.{field}": choice for field, choice in value.items()} if is_section else {str(key): value}
            )
        faults = [f"space.{key}: {fault}" for key in choices if (fault := key_fault(key))]
        names = [canonical(key) for key in choices]
        twice = sorted({name for name in names if names.count(name) > 1})
        faults += [f"space.{name}: given twice, as {name} and training.{name}: keep one" for name in twice]
        if faults:
            raise ValueError("\n".join(faults))
        return dict(zip(names, choices.values(), strict=True))

    @field_serializer("space", mode="wrap")
    def _auto_by_name(self, space: dict[str, Any], dump: SerializerFunctionWrapHandler) -> Any:
        return dump(space) if space else AUTO

    @field_serializer("sampler", "pruner")
    def _by_name(self, strategy: Strategy) -> Any:
        return strategy.model_dump(mode="json") if strategy.arguments else strategy.name

    @field_validator("space", mode="after")
    @classmethod
    def _possible(cls, space: dict[str, Choice]) -> dict[str, Choice]:
        """Every value as its section reads it, conditions by canonical names; all faults of a kind together."""
        for check in (_checked_choice, _checked_condition, _satisfiable):
            faults, checked = [], {}
            for key in space:
                try:
                    checked[key] = check(key, space)
                except ValueError as fault:
                    faults.append(f"space.{key}: {fault}")
            if faults:
                raise ValueError("\n".join(faults))
            space = checked
        return space

    @model_validator(mode="after")
    def _has_something_to_choose(self) -> SearchConfig:
        needed = _NEEDED_BY[self.second.measure] if self.second and self.trials else ()
        if needed and not set(needed) & set(self.space):
            raise ValueError(f"second is the same in every trial: search {' or '.join(needed)} too, or take it out")
        if self.second and self.confirm:
            raise ValueError("confirm has no effect beside second, whose rule names the winner: take one of them out")
        return self

    @model_validator(mode="after")
    def _sampler_fits(self) -> SearchConfig:
        name, ranges = self.sampler.name, [key for key, choice in self.space.items() if isinstance(choice, Range)]
        if name == "grid" and (ranges or not self.space) and self.trials:
            found = f"search.space.{ranges[0]} is a range" if ranges else "search.space is auto, which has some"
            raise ValueError(f"search.sampler: grid wants lists of values and no range, {found}: write the values out")
        if name == "cmaes" and self.space and not ranges:
            raise ValueError("search.sampler: cmaes moves in ranges alone, search.space has none: take tpe or grid")
        if name == "cmaes" and self.second:
            raise ValueError("search.sampler: cmaes has one objective: take search.second out, or another sampler")
        if self.linear_probe and name not in PROBED_SAMPLERS:
            raise ValueError(
                f"search.linear_probe: {name} wants the searched knobs in every trial: take one of them out"
            )
        if self.pruner.name not in ("auto", "none") and self.second:
            raise ValueError("search.pruner: nothing is pruned beside second: take the pruner out")
        return self

    @property
    def order(self) -> tuple[str, ...]:
        """The knobs, each behind those that its condition names."""
        return tuple(sorted(self.space, key=lambda key: (len(requirements(self.space, key)), key)))

    @property
    def confirm_plan(self) -> ConfirmConfig | None:
        """How the best trials are confirmed; None where they are not, and beside `second`, which names the winner."""
        if self.second is not None:
            return None
        if self.confirm is None:
            return ConfirmConfig() if self.trials >= CONFIRM_FROM else None
        return self.confirm or None
