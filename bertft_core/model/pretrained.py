"""Where the pretrained encoder lies: a package, a local folder, or the Hugging Face hub. Loads no torch by itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from bertft_core.config import RunConfig
from bertft_core.data.sources import resolve_package
from bertft_core.errors import ConfigError, ModelError
from bertft_core.model.structures import find_adaptor, find_layers, meta_classifier, weight_groups
from bertft_core.state import read_json


def resolve_pretrained(config: RunConfig) -> Path:
    """The local folder of the encoder: package://, a directory, or a hub id fetched by huggingface_hub.

    Raises ConfigError (key model.pretrained) when there is no such folder or the hub cannot be reached, ModelError
    when it is no BERT-like encoder.
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
    layer_count(folder)
    return folder


def layer_count(pretrained: Path) -> int:
    """Layers of an encoder with weights of their own (ALBERT: groups of weights): what a depth counts.

    From its config.json, without torch; from the module tree where an adaptor is installed for it. Raises ModelError
    when neither says.
    """
    config = read_json(pretrained / "config.json")
    count = weight_groups(config)
    if find_adaptor(str(config.get("model_type") or "")) is not None:
        count = len(find_layers(meta_classifier(pretrained)))
    if count is None:
        raise ModelError(f"{pretrained / 'config.json'}: no num_hidden_layers; wanted a BERT-like encoder")
    return count


def hidden_size(pretrained: Path) -> int:
    """Numbers of an encoder's hidden state, from its config.json. Raises ModelError when it does not say."""
    config = read_json(pretrained / "config.json")
    for key in ("hidden_size", "dim"):
        if isinstance(config.get(key), int):
            return int(config[key])
    raise ModelError(f"{pretrained / 'config.json'}: no hidden_size; wanted a BERT-like encoder")


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
