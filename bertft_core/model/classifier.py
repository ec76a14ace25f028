"""Load and save an encoder with a classification head, as standard transformers folders."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from bertft_core.base.errors import ConfigError, ModelError
from bertft_core.base.files import follow_umask, process_umask
from bertft_core.data.tokens.encoding import TOKENIZER_FILES, load_tokenizer
from bertft_core.model.feature_plan import FeaturePlan
from bertft_core.model.features import Classifier, FeatureClassifier, draw_linear, read_plan, read_weights, write_head
from bertft_core.model.layers import LayerMap
from bertft_core.model.weights import Origin, load_config, load_weights, output_layer, quiet

# config names of hidden and attention-probability dropout in the BERT family, ALBERT, DistilBERT, DeBERTa, ModernBERT
_DROPOUT = (
    "hidden_dropout_prob",
    "classifier_dropout",
    "classifier_dropout_prob",
    "dropout",
    "seq_classif_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "pooler_dropout",
    "cls_dropout",
)
MULTI_LABEL = "multi_label_classification"  # what transformers calls it in config.json
_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")


def load_classifier(
    pretrained: Path | str,
    classes: Sequence[str],
    seed: int,
    dropout: float | None = None,
    *,
    attention_dropout: float = 0.0,
    multi_label: bool = False,
    plan: FeaturePlan | None = None,
) -> Classifier:
    """Load an encoder (float32, safetensors) under a fresh output layer for ``classes``, initialised by ``seed``.

    A folder is read without the network. What it holds of the head below the output layer (BERT's pooler) is kept.
    An encoder whose family can also pool by the mean (ModernBERT's classifier_pooling) is set to read its [CLS].
    ``dropout`` None keeps the encoder's own. ``multi_label``: the head's outputs are logits of independent classes.
    With a ``plan`` the head reads its features, and layers above those it names are not loaded. The caller's random
    state is left as it was. The model is returned in eval mode.

    Raises: ModelError if the folder holds no readable encoder; ConfigError if ``dropout`` has no effect on it.
    """
    config = load_config(pretrained)
    _set_labels(config, classes)
    config.problem_type = MULTI_LABEL if multi_label else "single_label_classification"
    set_dropout(config, dropout, attention_dropout)
    if hasattr(config, "classifier_pooling"):
        config.classifier_pooling = "cls"
    if plan is not None and plan.depth_used is not None:  # the lowest layers only
        config.num_hidden_layers = plan.depth_used
        if isinstance(getattr(config, "layer_types", None), list):  # ModernBERT: one entry a layer
            config.layer_types = config.layer_types[: plan.depth_used]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, origin = load_weights(AutoModelForSequenceClassification, pretrained, config)
        _draw_output(model, origin, seed)
        if plan is not None:
            torch.manual_seed(seed)
            return FeatureClassifier(_under(model, plan), plan)
    return model


def _draw_output(model: PreTrainedModel, origin: Origin, seed: int) -> None:
    """Forget an output layer that the folder brought along: its rows are other classes, or the same in another order.

    One that was not in the folder, or had another size, has been drawn already.
    """
    output = output_layer(model)
    if output and f"{output}.weight" not in origin.drawn:
        torch.manual_seed(seed)
        draw_linear(model.get_submodule(output), model.config)  # type: ignore[arg-type]


def _under(model: Any, plan: FeaturePlan) -> PreTrainedModel:
    """What a head of our own stands on: the bare encoder without pooler; with pooling cls the whole classifier."""
    if plan.pooling == "cls":
        return model.eval()  # type: ignore[no-any-return]
    base = model.base_model
    if getattr(base, "pooler", None) is not None:
        base.pooler = None
    return base.eval()  # type: ignore[no-any-return]


def load_encoder(pretrained: Path | str) -> PreTrainedModel:
    """Load a pretrained encoder without a head (float32, safetensors), in eval mode.

    A folder is read without the network. The caller's random state is left as it was (a pooler that the folder
    lacks is drawn at random).

    Raises: ModelError if the folder holds no readable encoder.
    """
    with torch.random.fork_rng(devices=[]):
        return load_weights(AutoModel, pretrained, load_config(pretrained))[0]


def load_saved(folder: Path | str) -> Classifier:
    """Load a folder written by `save_classifier`, in eval mode. Raises ModelError if a weight is missing."""
    plan = read_plan(folder)
    kind: Any = AutoModelForSequenceClassification if plan is None or plan.pooling == "cls" else AutoModel
    with torch.random.fork_rng(devices=[]):
        model, origin = load_weights(kind, folder, load_config(folder))
    missing = [name for name in origin.drawn if kind is not AutoModel or not name.startswith("pooler.")]
    if missing:
        raise ModelError(f"{folder} lacks weights {missing[:3]}: it is no trained classifier")
    if plan is None:
        return model
    with torch.random.fork_rng(devices=[]):
        found = FeatureClassifier(_under(model, plan), plan)
    read_weights(found, folder)
    return found.eval()


def save_classifier(model: Classifier, tokenizer_src: Path | str, folder: Path | str, classes: Sequence[str]) -> Path:
    """Write a transformers folder (safetensors, id2label, tokenizer; mode 0644), whole or not at all.

    With a head of our own the folder holds the encoder it stands on, and the head beside it (`feature_files`).

    Raises: ModelError if ``tokenizer_src`` holds no tokenizer.
    """
    target = Path(folder)
    staging = target.with_name(f".{target.name}.part-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    _set_labels(model.config, classes)
    with quiet():
        if isinstance(model, FeatureClassifier):
            model.backbone.save_pretrained(staging)
            write_head(model, staging)
        else:
            model.save_pretrained(staging)
        source = Path(tokenizer_src)
        if (source / "tokenizer.json").is_file():
            for name in TOKENIZER_FILES:
                if (source / name).is_file():
                    shutil.copyfile(source / name, staging / name)
        else:
            load_tokenizer(source)
            AutoTokenizer.from_pretrained(str(source), local_files_only=True, trust_remote_code=False).save_pretrained(
                staging
            )
    follow_umask(staging, process_umask())  # safetensors writes 0600 whatever that is
    shutil.rmtree(target, ignore_errors=True)
    staging.rename(target)
    return target


def weights_digest(model: torch.nn.Module) -> str:
    """sha256 (hex) over names, types, shapes and bytes of all weights, in order of name."""
    return digest_tensors(dict(model.state_dict()))


def digest_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """sha256 (hex) over names, types, shapes and bytes, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].detach().to("cpu").contiguous().numpy()
        digest.update(f"{name}|{array.dtype}|{array.shape}|".encode())
        digest.update(array.reshape(-1).view("uint8").data)
    return digest.hexdigest()


def level_digests(model: torch.nn.Module, layers: LayerMap) -> list[str]:
    """Digest of each level's weights, from the head (level 0) to the embeddings (L+1)."""
    parameters = dict(model.named_parameters())
    return [digest_tensors({n: parameters[n] for n in names}) for _, names in layers.by_level()]


def _set_labels(config: Any, classes: Sequence[str]) -> None:
    config.num_labels = len(classes)
    config.id2label = {i: str(name) for i, name in enumerate(classes)}
    config.label2id = {str(name): i for i, name in enumerate(classes)}


def set_dropout(config: Any, dropout: float | None, attention_dropout: float) -> None:
    """Set an encoder's dropout (None: its own) and that of attention probabilities; ConfigError where it has none."""
    found = [name for name in _DROPOUT if hasattr(config, name)]
    if dropout is not None and not found:
        raise ConfigError(f"training.dropout: {type(config).__name__} has none of {_DROPOUT}; leave it out")
    for name in found if dropout is not None else ():
        setattr(config, name, dropout)
    for name in _ATTENTION_DROPOUT:
        if hasattr(config, name):
            setattr(config, name, attention_dropout)
