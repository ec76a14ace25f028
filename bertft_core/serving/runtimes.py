"""What turns a padded batch of ids into logits: torch with the weights, or onnxruntime with an exported file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bertft_core.base.errors import ArtifactError, InputError, ModelError
from bertft_core.base.files import read_json
from bertft_core.serving.artifact import ONNX_FILE, ArtifactCard

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]


class Runtime(Protocol):
    """outputs: classes. tokens: padded tokens of a batch at most."""

    outputs: int
    pad_id: int
    tokens: int

    def read(self, ids: Ids, mask: Ids, types: Ids) -> Values:
        """[B, T] each to logits [B, C], or to what the head reads, [B, F]."""

    def means(self, ids: Ids, mask: Ids, types: Ids) -> Values:
        """[B, T] each to the mean over the tokens of the top layer, [B, H]. Raises InputError where it has none."""

    def answer(self, read: Values, counts: Ids) -> Values:
        """Logits [n, C] of n texts of so many chunks from what was read of all chunks."""


def open_runtime(folder: Path, card: ArtifactCard, device: str) -> Runtime:
    """The runtime that the card names. Raises ArtifactError where the folder's model cannot be loaded."""
    return TorchRuntime(folder, device) if card.runtime == "torch" else OnnxRuntime(folder, card)


class TorchRuntime:
    """The transformers folder in float32; CPU or GPU."""

    def __init__(self, folder: Path, device: str) -> None:
        import torch

        from bertft_core.model.classifier import load_saved
        from bertft_core.model.encoder_pass import inference_tokens, logits_of
        from bertft_core.model.features import FeatureClassifier

        try:
            model: Any = load_saved(folder)
        except ModelError as fault:
            raise ArtifactError(f"{folder}: the model cannot be loaded ({fault})") from fault
        self.model = model.to(torch.device(device))
        self._features = model if isinstance(model, FeatureClassifier) else None
        self._read: Any = model.vectors if self._features else logits_of(model)
        self.outputs = int(model.config.num_labels)
        self.pad_id = int(getattr(model.config, "pad_token_id", None) or 0)
        self.tokens = inference_tokens(model.device)

    def read(self, ids: Ids, mask: Ids, types: Ids) -> Values:
        """See `Runtime`."""
        return self._run(self._read, ids, mask, types)

    def means(self, ids: Ids, mask: Ids, types: Ids) -> Values:
        """See `Runtime`."""
        from bertft_core.model.features import masked_mean

        encoder = self.model.base_model
        return self._run(lambda b: masked_mean(encoder(**b).last_hidden_state, b["attention_mask"]), ids, mask, types)

    def answer(self, read: Values, counts: Ids) -> Values:
        """See `Runtime`."""
        return self._features.answer_all(read, counts) if self._features else read

    def _run(self, read: Any, ids: Ids, mask: Ids, types: Ids) -> Values:
        import torch

        from bertft_core.model.encoder_pass import batch_tensors

        with torch.inference_mode():
            found: Values = read(batch_tensors(self.model, ids, mask, types)).float().cpu().numpy()
        return found


class OnnxRuntime:
    """model.onnx on the CPU, without torch; threads as OMP_NUM_THREADS says.

    The int8 file is read row by row: its scale of activations is that of a whole batch, so that in batches a row's
    answer would depend on its neighbours.
    """

    tokens = 2048

    def __init__(self, folder: Path, card: ArtifactCard) -> None:
        try:
            import onnxruntime
        except ImportError:
            wanted = "pip install 'bertft[onnx]', or onnxruntime alone"
            raise ArtifactError(f"{folder} answers by onnxruntime, which is not installed: {wanted}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)  # 0: a thread a core
        options.log_severity_level = 3  # faults are raised anyway
        file = folder / ONNX_FILE
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as fault:  # its classes are those of a binding, one a kind of fault
            raise ArtifactError(f"{file}: cannot be loaded ({str(fault)[:200]}): export the version again") from None
        self._inputs = [one.name for one in self._session.get_inputs()]
        self._by_row = card.runtime == "onnx-int8"
        self.outputs = int(self._session.get_outputs()[0].shape[-1])
        self.pad_id = int(read_json(folder / "config.json").get("pad_token_id") or 0)

    def read(self, ids: Ids, mask: Ids, types: Ids) -> Values:
        """See `Runtime`."""
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        if not self._by_row:
            return self._run({name: given[name] for name in self._inputs})
        lengths = mask.sum(axis=1)
        rows = [self._run({name: given[name][i : i + 1, :n] for name in self._inputs}) for i, n in enumerate(lengths)]
        return np.concatenate(rows)

    def means(self, ids: Ids, mask: Ids, types: Ids) -> Values:
        """See `Runtime`."""
        raise InputError("an ONNX file has no hidden states to compare texts by: name the version it was exported from")

    def answer(self, read: Values, counts: Ids) -> Values:
        """See `Runtime`: only classifiers with a stock head are exported, a text of theirs is one row."""
        return read

    def _run(self, batch: dict[str, Ids]) -> Values:
        found: Values = self._session.run(None, batch)[0]
        return found
