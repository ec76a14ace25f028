"""mlflow.yaml: where runs and models go and when a model goes live. Reads the file; knows no MLflow."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationError, model_validator

from bertft_core.base.addresses import SQLITE, artifact_uri, sqlite_url
from bertft_core.base.display import masked
from bertft_core.base.errors import ConfigError
from bertft_core.base.names import alias_name, experiment_name, model_name
from bertft_core.config.fit import Part
from bertft_core.config.promotion import SETTINGS, PromotionRule
from bertft_core.config.yaml_files import config_error, dotted, fault_lines, nearest_key, read_yaml

FILE_NAME = "mlflow.yaml"
PLACE = "{name}"  # of a configuration's name in that of an experiment or a registered model
DEFAULTS = Path(__file__).with_name("mlflow_defaults.yaml")
_ENVIRONMENT = {
    "tracking_uri": "MLFLOW_TRACKING_URI",
    "registry_uri": "MLFLOW_REGISTRY_URI",
    "experiment": "MLFLOW_EXPERIMENT_NAME",
    "artifact_root": "MLFLOW_DEFAULT_ARTIFACT_ROOT",
}
_PATHS = ("tracking_uri", "registry_uri", "artifact_root")


def _model_template(value: str) -> str:
    """A model's name with {name} in it; a run's name of 100 signs in its place stays below what MLflow keeps."""
    return model_name(value, most=155)


def _experiment_template(value: str) -> str:
    """An experiment's name, in which {name} may stand for that of a run."""
    plain = experiment_name(value).replace(PLACE, "")
    if "{" in plain or "}" in plain:
        raise ValueError(f"the only placeholder is {PLACE}, the configuration's name; other braces cannot stand in it")
    return value if value == plain else experiment_name(value, most=155)


def _checked_uri(value: Any) -> Any:
    if isinstance(value, str) and "://" in value and (urlsplit(value).password or masked(value, environ={}) != value):
        raise ValueError("must hold no password or token; set it in the environment (MLFLOW_TRACKING_URI)")
    return value


Alias = Annotated[str, AfterValidator(alias_name)]
Uri = Annotated[str, BeforeValidator(_checked_uri), Field(min_length=1)]


class Aliases(Part):
    """The three names that move between versions of a registered model."""

    challenger: Alias = "challenger"
    champion: Alias = "champion"
    previous: Alias = "previous"

    @model_validator(mode="after")
    def _different(self) -> Aliases:
        if len({self.challenger, self.champion, self.previous}) < 3:
            raise ValueError("challenger, champion and previous must be three different names")
        return self


def _promotion(value: Any) -> Any:
    """The rule of a mapping; every fault on a line of its own, each key with its section's name."""
    if isinstance(value, PromotionRule):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("must be a mapping of keys")
    faults = [f"promotion.{key}: {_unknown_key(('promotion', key))}" for key in value if key not in SETTINGS]
    try:
        rule = PromotionRule.from_settings({key: v for key, v in value.items() if key in SETTINGS})
    except ConfigError as fault:
        faults += re.split(r"; (?=promotion\.)", str(fault))
    if faults:
        raise ValueError("\n".join(faults))
    return rule


class MlflowConfig(Part):
    """mlflow.yaml after the environment has had its say. `origin` is the file it came from."""

    tracking_uri: str | None = None
    registry_uri: str | None = None
    artifact_root: str | None = None
    experiment: Annotated[str, AfterValidator(_experiment_template)] = "bertft"
    registered_model: Annotated[str, AfterValidator(_model_template)] = PLACE
    aliases: Aliases = Aliases()
    promotion: Annotated[PromotionRule, PlainValidator(_promotion)] = PromotionRule()
    origin: str = Field(default="", exclude=True)

    def tracking(self, home: Path | str) -> str:
        """The tracking URI; below `home` (BERTFT_HOME) where the file leaves it open."""
        return self.tracking_uri or sqlite_url(Path(home).expanduser().resolve() / "mlflow.db")

    def store(self, home: Path | str) -> Store:
        """The store, with `home` (BERTFT_HOME) filling what the file leaves open."""
        root = Path(home).expanduser().resolve()
        tracking = self.tracking(root)
        is_served = tracking.startswith(("http://", "https://"))
        return Store(
            tracking_uri=tracking,
            registry_uri=self.registry_uri or tracking,
            artifact_root=self.artifact_root or (None if is_served else artifact_uri(root / "artifacts")),
            home=str(root),
            config=self,
        )

    def model_name(self, name: str) -> str:
        """The registered model's name for a configuration called `name`."""
        return self.registered_model.replace(PLACE, name)

    def of(self, name: str) -> MlflowConfig:
        """The same settings for the runs of a configuration called `name`: their experiment."""
        return self.model_copy(update={"experiment": self.experiment.replace(PLACE, name)})

    def named(self, name: str) -> MlflowConfig:
        """The same settings for a registered model `name`. Raises ConfigError for what no model can be called."""
        values: dict[str, Any] = {**dict(self), "registered_model": name}
        found: MlflowConfig = _validated(MlflowConfig, values, "register")
        return found

    def promotion_rule(self, metric: str) -> PromotionRule:
        """The rule for a run whose configuration has this `evaluation.metric`."""
        return replace(self.promotion, metric=metric)


@dataclass(frozen=True, kw_only=True)
class Store:
    """One resolved MLflow store: absolute URIs, where artefacts lie, and the settings it came from.

    artifact_root is None where a tracking server decides. home: absolute BERTFT_HOME (locks lie below it).
    """

    tracking_uri: str
    registry_uri: str
    artifact_root: str | None
    home: str
    config: MlflowConfig

    @property
    def experiment(self) -> str:
        """The experiment's name; with PLACE in it where the store is opened for no run (`MlflowConfig.of`)."""
        return self.config.experiment

    @property
    def shown_uri(self) -> str:
        """The tracking URI without credentials."""
        return masked(self.tracking_uri)

    def __str__(self) -> str:
        return f"MLflow store {self.shown_uri}, experiment {self.experiment}"


class _File(MlflowConfig):
    """The file itself: as the configuration, but credentials are refused."""

    tracking_uri: Uri | None = None
    registry_uri: Uri | None = None
    artifact_root: Uri | None = None


def load_mlflow_config(
    explicit: Path | str | None = None,
    config_dir: Path | str | None = None,
    cwd: Path | str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> MlflowConfig:
    """Read the first of: `explicit`, config_dir/mlflow.yaml, cwd/mlflow.yaml, the packaged defaults.

    Relative paths in the file start at its folder, those in the environment at `cwd`. Environment variables
    win. Raises ConfigError that names the file and every key at fault.
    """
    here = Path(cwd) if cwd is not None else Path.cwd()
    if explicit is not None and not Path(explicit).is_file():
        raise ConfigError(f"--mlflow {explicit}: no such file")
    folders = [Path(folder) for folder in (config_dir, here) if folder is not None]
    nearest = next((folder / FILE_NAME for folder in folders if (folder / FILE_NAME).is_file()), DEFAULTS)
    file = nearest if explicit is None else Path(explicit)
    tree = read_yaml(file, may_be_empty=True)
    if "origin" in tree:
        raise ConfigError(f"{file}: origin: unknown key")
    _validated(_File, tree, str(file))
    base = file.resolve().parent
    values = {k: _absolute(v, base) if k in _PATHS and v else v for k, v in tree.items()}
    for key, variable in _ENVIRONMENT.items():
        if text := (os.environ if environ is None else environ).get(variable):
            values[key] = _absolute(text, here.resolve()) if key in _PATHS else text
    result: MlflowConfig = _validated(MlflowConfig, {**values, "origin": str(file)}, str(file))
    return result


def _validated(kind: type[MlflowConfig], tree: dict[str, Any], origin: str) -> Any:
    try:
        return kind.model_validate(tree)
    except ValidationError as fault:
        raise config_error(origin, fault_lines(fault, _unknown_key)) from None


def _unknown_key(loc: Sequence[Any], value: Any = None) -> str:
    key = dotted(loc)
    known = [name for name in MlflowConfig.model_fields if name != "origin"]
    known += [f"aliases.{name}" for name in Aliases.model_fields] + [f"promotion.{name}" for name in SETTINGS]
    section = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == section]
    near = nearest_key(key, known)
    return "unknown key; " + (f"did you mean {near}?" if near else f"known: {', '.join(siblings)}")


def _absolute(text: str, base: Path) -> str:
    """A relative sqlite file or plain path made absolute; anything else as it is."""
    if text.startswith(SQLITE):
        name, mark, query = text[len(SQLITE) :].partition("?")
        return f"{sqlite_url((base / Path(name).expanduser()).resolve())}{mark}{query}"
    if "://" in text or text.startswith("file:"):
        return text
    return artifact_uri((base / Path(text).expanduser()).resolve())
