"""Frozen features against a plain mean over transformers' hidden states, one row at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from bertft_core.base.errors import ModelError
from bertft_core.data.tokens.tokenization import open_split
from bertft_core.training.scoring import features
from bertft_core.training.spec import MachineSettings

ONE_THREAD = MachineSettings(precision="float32", device="cpu", threads=1)


def test_features_equal_a_plain_mean_over_each_rows_hidden_states(encoder: Path, tokens: Path) -> None:
    model = AutoModel.from_pretrained(str(encoder)).eval()
    rows = open_split(tokens, "test")
    plain = []
    for start, end in zip(rows.offsets[:-1], rows.offsets[1:], strict=True):
        ids = torch.from_numpy(rows.ids[start:end].astype(np.int64))[None]
        with torch.inference_mode():
            plain.append(model(input_ids=ids).last_hidden_state[0].mean(dim=0).numpy())
    found = features(encoder, tokens, "test", ONE_THREAD)
    assert found.dtype == np.float32 and found.shape == (32, 16)
    np.testing.assert_allclose(found, np.stack(plain), atol=1e-5)


def test_features_leave_the_random_state_alone(encoder: Path, tokens: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    features(encoder, tokens, "test", ONE_THREAD)
    assert torch.equal(before, torch.get_rng_state())


def test_features_of_a_folder_without_encoder_are_refused(tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no encoder"):
        features(tmp_path, tokens, "test", ONE_THREAD)
