"""An encoder under its masked language modelling head, of which only masked positions are computed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import AutoModelForMaskedLM, PreTrainedModel

from bertft_core.adaptation.masking import IGNORED, MaskedBatch
from bertft_core.base.errors import ModelError
from bertft_core.data.tokens.encoding import TOKENIZER_FILES
from bertft_core.model.classifier import set_dropout
from bertft_core.model.encoder_pass import AGREEMENT, EncoderPass, Head, evaluating, layers_of, probe
from bertft_core.model.layers import LayerMap
from bertft_core.model.structures import find_layers
from bertft_core.model.weight_files import WHOLE, weight_files
from bertft_core.model.weights import load_config, load_weights
from bertft_core.training.checkpoint import save_tensors, untied

_SCALES = (*(2.0 ** (-i / 2) for i in range(17)),)  # of the norm below the decoder: 1 down to 1/256


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedModel:
    """model: transformers' own, decoder tied to the word embeddings where its configuration says so.

    levels: head (0), all layers (1), embeddings (2). head: hidden states [..., H] to logits [..., V]. passes: the
    layers in pieces, None for another structure than BERT's. has_head: whether the head's weights came from the folder.
    """

    model: PreTrainedModel
    levels: LayerMap
    head: Head
    passes: EncoderPass | None
    has_head: bool

    @classmethod
    def load(cls, pretrained: Path | str, device: torch.device, seed: int) -> Self:
        """Of an encoder's folder; no dropout of attention probabilities, as in fits.

        Raises ModelError where there is no such encoder, or transformers knows no masked language model for it.
        """
        config = load_config(pretrained)
        set_dropout(config, None, 0.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, origin = load_weights(AutoModelForMaskedLM, pretrained, config)
        model.to(device)  # type: ignore[arg-type]
        inside = f"{model.base_model_prefix}."
        outer = [name for name, _ in model.named_parameters() if not name.startswith(inside)]
        drawn = [name for name in origin.drawn if not name.startswith(inside) and not name.endswith("bias")]
        layers = tuple(f"{name}." for names in find_layers(model) for name in names)
        within = [name for name, _ in model.named_parameters() if name.startswith(inside)]
        levels = LayerMap(
            embeddings=tuple(name for name in within if not name.startswith(layers)),
            layers=(tuple(name for name in within if name.startswith(layers)),),
            head=tuple(outer),
        )
        head = _find_head(model)
        return cls(model=model, levels=levels, head=head, passes=_find_passes(model, head), has_head=not drawn)

    @property
    def decoder(self) -> nn.Linear:
        """The last step, from the head's transform to a logit for each id."""
        found = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        assert isinstance(found, nn.Linear), "transformers' masked language models end in a linear layer"
        return found

    def hidden(self, batch: MaskedBatch) -> torch.Tensor:
        """The top layer's states at the masked positions, [B, M, H]; in its own layer nothing else is computed."""
        device = self.model.device
        ids, at = (torch.from_numpy(part).to(device) for part in (batch.ids, batch.at))
        if self.passes is not None:
            below = self.passes.run(self.passes.embed({"input_ids": ids}), None, 0, len(self.passes.layers) - 1)
            return self.passes.layers[-1](below, None, at=at)
        states: torch.Tensor = self.model.base_model(
            input_ids=ids, attention_mask=torch.ones_like(ids)
        ).last_hidden_state
        return states.gather(1, at[..., None].expand(-1, -1, states.shape[2]))

    def loss(self, batch: MaskedBatch) -> torch.Tensor:
        """Sum of the losses, in nats, over the masked tokens: of all positions these alone meet the vocabulary."""
        targets = torch.from_numpy(batch.targets.reshape(-1)).to(self.model.device)
        is_used = targets != IGNORED
        logits = self.head(self.hidden(batch).flatten(0, 1)[is_used])
        return functional.cross_entropy(logits.float(), targets[is_used], reduction="sum")

    def start_head(self, log_shares: NDArray[np.float64], batch: MaskedBatch) -> None:
        """Begin with a head that the folder lacks: every square step an identity, frequencies as the decoder's bias.

        The norm below the decoder gets the scale that guesses `batch` best, so that the first loss is at most that of
        the frequencies.
        """
        inside = f"{self.model.base_model_prefix}."
        steps = [m for n, m in self.model.named_modules() if not f"{n}.".startswith(inside) and m is not self.decoder]
        with torch.no_grad():
            for step in (m for m in steps if isinstance(m, nn.Linear)):
                nn.init.eye_(step.weight)
                if step.bias is not None:
                    step.bias.zero_()
            if self.decoder.bias is not None:
                self.decoder.bias.copy_(torch.from_numpy(log_shares))
            norms = [m for m in steps if isinstance(getattr(m, "weight", None), nn.Parameter) and m.weight.dim() == 1]
            if norms:
                norm = norms[-1]
                losses = {scale: self._loss_scaled(norm, scale, batch) for scale in _SCALES}
                norm.weight.fill_(min(losses, key=losses.__getitem__))

    def _loss_scaled(self, norm: nn.Module, scale: float, batch: MaskedBatch) -> float:
        norm.weight.fill_(scale)  # type: ignore[operator]
        with evaluating(self.model):
            return float(self.loss(batch).item())

    def save(self, pretrained: Path, folder: Path) -> None:
        """Write an encoder folder: configuration and tokenizer as they lie in `pretrained`, the weights of now.

        The head goes with it, so that another adaptation begins with it; so does the pooler that `pretrained` has and
        masked language modelling does not use. Whatever reads `pretrained` reads this too.
        """
        prefix = self.model.base_model_prefix
        # the embeddings, not the decoder that is tied to them
        write_encoder(untied(self.model, f"{prefix}."), prefix, pretrained, folder)


def write_encoder(state: dict[str, torch.Tensor], prefix: str, pretrained: Path, folder: Path) -> None:
    """Write weights as an encoder folder, with configuration and tokenizer as they lie in `pretrained`.

    The pooler that `pretrained` has goes with it, where the weights hold none that was trained. Whatever reads
    `pretrained` reads this too. prefix: of the encoder's weights in the state.
    """
    folder.mkdir(parents=True)
    for name in ("config.json", *TOKENIZER_FILES):
        if (pretrained / name).is_file():
            shutil.copyfile(pretrained / name, folder / name)
    for file in weight_files(pretrained):
        for name, tensor in load_file(file).items():
            _, is_pooler, rest = f".{name}".rpartition(".pooler.")
            if is_pooler:
                state.setdefault(f"{prefix}.pooler.{rest}", tensor)
    save_tensors(folder / WHOLE, state, {"format": "pt"})


def _find_head(model: Any) -> Head:
    """The head's own modules as a function, found by trying how the families do it on a small batch."""
    batch, base = probe(model), model.base_model
    ways: tuple[Head, ...] = (
        lambda hidden: model.cls(hidden),  # BERT, DeBERTa
        lambda hidden: model.lm_head(hidden),  # RoBERTa, MPNet, CamemBERT
        lambda hidden: model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))),
        lambda hidden: model.generator_lm_head(model.generator_predictions(hidden)),  # ELECTRA
        lambda hidden: model.decoder(model.head(hidden)),  # ModernBERT
        lambda hidden: model.predictions(hidden),  # ALBERT
        lambda hidden: model.lm_predictions(hidden, base.embeddings.word_embeddings),  # DeBERTa, not the old way
    )
    with evaluating(model):
        wanted, hidden = model(**batch).logits, base(**batch).last_hidden_state
        for way in ways:
            try:
                found = way(hidden)
            except (AttributeError, IndexError, RuntimeError, TypeError):
                continue
            if found.shape == wanted.shape and (found - wanted).abs().max().item() < AGREEMENT:
                return way
    raise ModelError(
        f"adaptation: the masked language modelling head of {type(model).__name__} cannot be run by itself: use "
        "another encoder, or take the section adaptation out"
    )


def _find_passes(model: PreTrainedModel, head: Head) -> EncoderPass | None:
    """The layers in pieces where they answer as the stock modules do, else None."""
    batch = probe(model)
    try:
        passes = EncoderPass(model=model, layers=layers_of(model), head=head, width=int(model.config.hidden_size))
        with evaluating(model):
            wanted = model.base_model(batch["input_ids"]).last_hidden_state
            states = passes.embed({"input_ids": batch["input_ids"]})
            found = passes.run(states, None, 0, len(passes.layers))
        return passes if (found - wanted).abs().max().item() < AGREEMENT else None
    except (AttributeError, ModelError, RuntimeError, TypeError, ValueError):
        return None
