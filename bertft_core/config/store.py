"""mlflow.yaml: where runs and models go and when a model goes live. Reads the file; knows no MLflow."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from bertft_core.base.errors import ConfigError
from bertft_core.base.text import mask_uri
from bertft_core.config.promotion import SETTINGS, PromotionRule
from bertft_core.config.yaml_files import nearest_key, read_yaml

FILE_NAME = "mlflow.yaml"
DEFAULTS = Path(__file__).with_name("mlflow_defaults.yaml")
_ENVIRONMENT = {
    "tracking_uri": "MLFLOW_TRACKING_URI",
    "registry_uri": "MLFLOW_REGISTRY_URI",
    "experiment": "MLFLOW_EXPERIMENT_NAME",
    "artifact_root": "MLFLOW_DEFAULT_ARTIFACT_ROOT",
}
# MLflow keeps `latest` and v<N> for itself, and refuses these signs in a registered model's name.
_RESERVED_ALIAS = re.compile(r"^(latest|v\d+)$", re.IGNORECASE)
_ALIAS = re.compile(r"^[A-Za-z0-9_-]{1,100}$")
_SQLITE = "sqlite:///"


def _checked_alias(value: Any) -> Any:
    if not isinstance(value, str) or not _ALIAS.match(value) or _RESERVED_ALIAS.match(value):
        raise ValueError("must be letters, digits, _ or -, and not latest or v<number>")
    return value


def _checked_uri(value: Any) -> Any:
    if isinstance(value, str) and "://" in value and (urlsplit(value).password or mask_uri(value) != value):
        raise ValueError("must hold no password or token; set it in the environment (MLFLOW_TRACKING_URI)")
    return value


Alias = Annotated[str, BeforeValidator(_checked_alias)]
Uri = Annotated[str, BeforeValidator(_checked_uri), Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Aliases(_Part):
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
    """The rule of a mapping; every fault in one message, each key with its section's name."""
    if isinstance(value, PromotionRule):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("must be a mapping of keys")
    faults = [f"promotion.{key}: {_unknown(f'promotion.{key}')}" for key in value if key not in SETTINGS]
    try:
        rule = PromotionRule.from_settings({key: v for key, v in value.items() if key in SETTINGS})
    except ConfigError as fault:
        faults.append(str(fault))
    if faults:
        raise ValueError("; ".join(faults))
    return rule


class MlflowConfig(_Part):
    """mlflow.yaml after the environment has had its say. `origin` is the file it came from."""

    tracking_uri: str | None = None
    registry_uri: str | None = None
    artifact_root: str | None = None
    experiment: Annotated[str, Field(min_length=1)] = "bertft"
    registered_model: Annotated[str, Field(min_length=1)] = "{name}"
    aliases: Aliases = Aliases()
    promotion: Annotated[PromotionRule, PlainValidator(_promotion)] = PromotionRule()
    origin: str = Field(default="", exclude=True)

    def tracking(self, home: Path | str) -> str:
        """The tracking URI; below `home` (BERTFT_HOME) where the file leaves it open."""
        return self.tracking_uri or f"{_SQLITE}{Path(home).expanduser().resolve() / 'mlflow.db'}"

    def store(self, home: Path | str) -> Store:
        """The store, with `home` (BERTFT_HOME) filling what the file leaves open."""
        root = Path(home).expanduser().resolve()
        tracking = self.tracking(root)
        is_served = tracking.startswith(("http://", "https://"))
        return Store(
            tracking_uri=tracking,
            registry_uri=self.registry_uri or tracking,
            artifact_root=self.artifact_root or (None if is_served else str(root / "artifacts")),
            home=str(root),
            config=self,
        )

    def model_name(self, name: str) -> str:
        """The registered model's name for a configuration called `name`."""
        return self.registered_model.replace("{name}", name)

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
        """The experiment's name."""
        return self.config.experiment

    @property
    def shown_uri(self) -> str:
        """The tracking URI without credentials."""
        return mask_uri(self.tracking_uri)

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
    file = _find(explicit, config_dir, here)
    tree = _read(file)
    _validated(_File, tree, str(file))
    base = file.resolve().parent
    values = {k: _absolute(v, base) if k in _PATHS and v else v for k, v in tree.items()}
    for key, variable in _ENVIRONMENT.items():
        if text := (os.environ if environ is None else environ).get(variable):
            values[key] = _absolute(text, here.resolve()) if key in _PATHS else text
    result: MlflowConfig = _validated(MlflowConfig, {**values, "origin": str(file)}, str(file))
    return result


_PATHS = ("tracking_uri", "registry_uri", "artifact_root")


def _find(explicit: Path | str | None, config_dir: Path | str | None, here: Path) -> Path:
    if explicit is not None:
        if not Path(explicit).is_file():
            raise ConfigError(f"--mlflow {explicit}: no such file")
        return Path(explicit)
    folders = [Path(config_dir)] if config_dir is not None else []
    for folder in [*folders, here]:
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    return DEFAULTS


def _read(file: Path) -> dict[str, Any]:
    tree = read_yaml(file) if file.read_text(encoding="utf-8", errors="replace").strip() else {}
    if "origin" in tree:
        raise ConfigError(f"{file}: origin: unknown key")
    return tree


def _validated(kind: type[MlflowConfig], tree: dict[str, Any], origin: str) -> Any:
    try:
        return kind.model_validate(tree)
    except ValidationError as fault:
        lines = dict.fromkeys(line for e in fault.errors() for line in _describe(e))
        raise ConfigError("\n  ".join([f"{origin}: {len(lines)} fault(s)", *lines])) from None


def _describe(fault: Any) -> list[str]:
    key = ".".join(str(p) for p in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return [f"{key}: {_unknown(key)}"]
    message = fault["msg"].removeprefix("Value error, ")
    if message.startswith("promotion."):  # of the whole section: the message names its keys itself
        return re.split(r"; (?=promotion\.)", message)
    return [f"{key}: {message[0].lower()}{message[1:]}, was {mask_uri(repr(fault['input']))}"]


def _unknown(key: str) -> str:
    known = [name for name in MlflowConfig.model_fields if name != "origin"]
    known += [f"aliases.{name}" for name in Aliases.model_fields] + [f"promotion.{name}" for name in SETTINGS]
    section = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == section]
    near = nearest_key(key, known)
    return "unknown key; " + (f"did you mean {near}?" if near else f"known: {', '.join(siblings)}")


def _absolute(text: str, base: Path) -> str:
    """A relative sqlite file or plain path made absolute; anything else as it is."""
    if text.startswith(_SQLITE):
        return f"{_SQLITE}{(base / Path(text[len(_SQLITE) :]).expanduser()).resolve()}"
    if "://" in text or text.startswith("file:"):
        return text
    return str((base / Path(text).expanduser()).resolve())
