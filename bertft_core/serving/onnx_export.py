"""A saved classifier as one ONNX file: float32 by torch's exporter, or int8 weights by onnxruntime.

Only the exporter that traces with torch.export is used (`dynamo=True`): the older one gave MiniLM's logits off by up to
0.04 without an error.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bertft_core.base.errors import InputError, ModelError
from bertft_core.model.classifier import load_saved
from bertft_core.model.encoder_pass import Batch, evaluating, takes_types
from bertft_core.model.features import FeatureClassifier

OPSET = 20
AGREEMENT = 1e-5  # largest difference of a float32 logit from torch's, at each of SHAPES
SHAPES = ((1, 1), (1, 5), (4, 256), (7, 33), (1, 512))  # rows, tokens; longer ones than the encoder takes are left out
_SMALL = ("MatMul", "Gemm", "Gather")  # Gather: the embeddings, of MiniLM half of the weights


class _Logits(nn.Module):
    """A classifier as a function of tensors alone."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of the inputs in their order, each [B, T]."""
        return self.model(**dict(zip(self.names, tensors, strict=True))).logits  # type: ignore[no-any-return]


def export_onnx(folder: Path | str, file: Path, *, int8: bool) -> None:
    """Write the classifier in `folder` to `file`, inputs and logits named as transformers names them, [batch, tokens].

    A float32 file is compared with torch at SHAPES. int8: weights of 8 bits, one scale an output channel, embeddings
    too; how good it is its answers must show. Raises InputError where the libraries are missing or the model has a
    head of ours, ModelError where the file answers otherwise than the model.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as fault:
        raise InputError(
            f"export wants onnx, onnxscript and onnxruntime ({fault}): pip install 'bertft[onnx]'"
        ) from None
    model: Any = load_saved(folder)
    if isinstance(model, FeatureClassifier):
        raise InputError(f"{folder}: only a stock head is exported; this one reads {model.plan}")
    names = ("input_ids", "attention_mask", *(("token_type_ids",) if takes_types(model) else ()))
    whole = file.with_name(f"{file.name}.float32") if int8 else file
    batch, tokens = torch.export.Dim("batch", min=1, max=65_536), torch.export.Dim("tokens", min=1, max=_longest(model))
    with _quiet(), evaluating(model):
        torch.onnx.export(
            _Logits(model, names),
            tuple(_example(model, 2, 16)[name] for name in names),
            input_names=names,
            output_names=("logits",),
            dynamic_shapes={"tensors": tuple({0: batch, 1: tokens} for _ in names)},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            external_data=False,
            f=str(whole),
        )
        session = onnxruntime.InferenceSession(str(whole), providers=["CPUExecutionProvider"])
        for rows, length in SHAPES:
            if length <= _longest(model):
                _require_alike(model, session, {n: t for n, t in _example(model, rows, length).items() if n in names})
    if int8:
        _quantise(whole, file)
        whole.unlink()


def _example(model: Any, rows: int, length: int) -> Batch:
    """A batch of drawn ids, the last row half padding."""
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.config.vocab_size, (rows, length), generator=drawn)
    mask = torch.ones_like(ids)
    mask[-1, max(1, length // 2) :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def _longest(model: Any) -> int:
    """Tokens of a row that the encoder takes; those of RoBERTa's positions count from its padding's."""
    offset = model.config.pad_token_id + 1 if "roberta" in model.config.model_type else 0
    return min(512, int(model.config.max_position_embeddings) - offset)


def _require_alike(model: Any, session: Any, batch: Batch) -> None:
    wanted = model(**batch).logits
    found = torch.from_numpy(session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})[0])
    if not (gap := (found - wanted).abs().max().item()) <= AGREEMENT:
        shape = tuple(batch["input_ids"].shape)
        raise ModelError(f"the ONNX file's logits are {gap:.1e} off at {shape}, wanted <= {AGREEMENT:g}: not exported")


def _quantise(whole: Path, file: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            str(whole), str(file), op_types_to_quantize=list(_SMALL), per_channel=True, weight_type=QuantType.QInt8
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters tell of libraries that are not there and of steps to come."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
