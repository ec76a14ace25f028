"""Where the pretrained encoder lies: a package, a local folder, or the Hugging Face hub. Needs no torch."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from bertft_core.config import RunConfig
from bertft_core.data.sources import resolve_package
from bertft_core.errors import ConfigError, ModelError
from bertft_core.model.feature_plan import FeaturePlan, feature_plan
from bertft_core.state import read_json


def resolve_pretrained(config: RunConfig) -> Path:
    """The local folder of the encoder: package://, a directory, or a hub id fetched by huggingface_hub.

    Raises ConfigError (key model.pretrained) when there is no such folder or the hub cannot be reached, or (key
    model.layers) when it has no such layers; ModelError when it is no BERT-like encoder.
    """
    text = config.model.pretrained
    if text.startswith("package://"):
        folder = resolve_package(text, "model.pretrained")
    elif re.match(r"^[\w.-]+(/[\w.-]+)?$", text) and not (config.base_dir / text).exists():
        folder = _from_hub(text)
    else:
        folder = (config.base_dir / Path(text).expanduser()).resolve()
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.pretrained: {text!r} is not a model directory (no config.json in {folder}); "
            "wanted package://NAME/path, a local directory or a hub id"
        )
    features_of(config, folder)
    return folder


def features_of(config: RunConfig, pretrained: Path) -> FeaturePlan | None:
    """What the head reads of this encoder; None for the stock head on texts in one piece.

    Raises ConfigError for layers that the encoder does not have, ModelError when it does not say how many it has.
    """
    return feature_plan(config.model, config.tokenization, layer_count(pretrained))


def layers_computed(config: RunConfig, pretrained: Path) -> int:
    """How many layers of this encoder a fit computes and can train, from the lowest. Raises as `features_of`."""
    plan = features_of(config, pretrained)
    return (plan.depth_used if plan else None) or layer_count(pretrained)


def layer_count(pretrained: Path) -> int:
    """Layers of an encoder, from its config.json. Raises ModelError when it does not say."""
    return _number(pretrained, ("num_hidden_layers", "n_layers"))


def hidden_size(pretrained: Path) -> int:
    """Numbers of an encoder's hidden state, from its config.json. Raises ModelError when it does not say."""
    return _number(pretrained, ("hidden_size", "dim"))


def _number(pretrained: Path, keys: tuple[str, ...]) -> int:
    config = read_json(pretrained / "config.json")
    for key in keys:
        if isinstance(config.get(key), int):
            return int(config[key])
    raise ModelError(f"{pretrained / 'config.json'}: no {keys[0]}; wanted a BERT-like encoder")


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    print(f"looking up {name} on the Hugging Face hub", file=sys.stderr)
    try:
        patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
        return Path(snapshot_download(name, allow_patterns=patterns, etag_timeout=5))
    except Exception as fault:  # huggingface_hub raises a dozen unrelated types for "not reachable"
        raise ConfigError(
            f"model.pretrained: {name!r} is neither a local directory nor reachable on the Hugging Face hub "
            f"({type(fault).__name__}); give a local directory, package://NAME/path, or connect to the network"
        ) from None
