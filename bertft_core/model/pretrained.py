"""Where the pretrained encoder lies: a package, a local folder, or the Hugging Face hub. Loads no torch by itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from bertft_core.base.display import visible
from bertft_core.base.errors import ConfigError, ModelError
from bertft_core.config.run import RunConfig
from bertft_core.data.sources import resolve_package
from bertft_core.data.tokens.encoder_fit import encoder_config
from bertft_core.model.feature_plan import FeaturePlan, feature_plan
from bertft_core.model.structures import find_adaptor, find_layers, reference_classifier, weight_groups
from bertft_core.model.weight_files import weight_shapes


def resolve_pretrained(config: RunConfig) -> Path:
    """The local folder of the encoder: package://, a directory, or a hub id fetched by huggingface_hub.

    Raises ConfigError (key model.pretrained) when there is no such folder or the hub cannot be reached, or (key
    model.layers) when it has no such layers; ModelError when it is no BERT-like encoder, or its weight files are none.
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
    weight_shapes(folder)  # files that cannot be weights end here, before any row is read
    features_of(config, folder)
    return folder


def features_of(config: RunConfig, pretrained: Path) -> FeaturePlan | None:
    """What the head reads of this encoder; None for the stock head on texts in one piece.

    Raises ConfigError for layers that the encoder does not have, ModelError when it does not say how many it has.
    """
    count = layer_count(pretrained)
    if config.model.pooling == "layers" and _runs(pretrained) != count:
        raise ConfigError(
            f"model.pooling: layers wants an encoder whose layers are num_hidden_layers of their own, but {pretrained} "
            f"has {count} for {_runs(pretrained)} runs: use cls or mean"
        )
    return feature_plan(config.model, config.tokenization, count)


def _runs(pretrained: Path) -> int | None:
    """How often the hidden states go through a layer, by config.json; None where it does not say."""
    config = encoder_config(pretrained)
    return weight_groups({key: value for key, value in config.items() if key != "num_hidden_groups"})


def layers_computed(config: RunConfig, pretrained: Path) -> int:
    """How many layers of this encoder a fit computes and can train, from the lowest. Raises as `features_of`."""
    plan = features_of(config, pretrained)
    return (plan.depth_used if plan else None) or layer_count(pretrained)


def layer_count(pretrained: Path) -> int:
    """Layers of an encoder with weights of their own (ALBERT: groups of weights): what a depth counts.

    From its config.json, without torch; from the module tree where an adaptor is installed for it. Raises ModelError
    when neither says.
    """
    config = encoder_config(pretrained)
    count = weight_groups(config)
    if find_adaptor(str(config.get("model_type") or "")) is not None:
        count = len(find_layers(reference_classifier(pretrained)))
    if count is None:
        raise ModelError(f"{pretrained / 'config.json'}: no num_hidden_layers; wanted a BERT-like encoder")
    return count


def hidden_size(pretrained: Path) -> int:
    """Numbers of an encoder's hidden state, from its config.json. Raises ModelError when it does not say."""
    config = encoder_config(pretrained)
    for key in ("hidden_size", "dim"):
        if isinstance(config.get(key), int):
            return int(config[key])
    size = getattr(reference_classifier(pretrained).config, "hidden_size", None)  # transformers knows its other names
    if not isinstance(size, int):
        raise ModelError(f"{pretrained / 'config.json'}: no hidden_size; wanted a BERT-like encoder")
    return size


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    print(f"looking up {visible(name)} on the Hugging Face hub", file=sys.stderr)
    try:
        patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
        return Path(snapshot_download(name, allow_patterns=patterns, etag_timeout=5))
    except Exception as fault:  # huggingface_hub raises a dozen unrelated types for "not reachable"
        raise ConfigError(
            f"model.pretrained: {name!r} is neither a local directory nor reachable on the Hugging Face hub "
            f"({type(fault).__name__}); give a local directory, package://NAME/path, or connect to the network"
        ) from None
