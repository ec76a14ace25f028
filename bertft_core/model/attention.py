"""Self-attention of short heads in bfloat16 on a CPU: few rows at a time, so that the scores stay in the cache.

Exact softmax attention. torch's own kernel takes twice the time of this in bfloat16 (256 and 512 tokens, 12 heads of
32, forward and backward, measured); in float32 the two are alike, and the library's is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

_CHUNK_BYTES = 4_000_000  # of scores held at a time: they are read again at once, out of the cache


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, dropout: float = 0.0
) -> torch.Tensor:
    """softmax(query key^T / sqrt(D) + bias) value: [B, heads, T, D] of one type; keys and values [B, heads, S, D].

    ``bias`` [B, 1, 1, S] of the same type is added to the scores; None where nothing is masked. ``dropout`` is applied
    to the probabilities, by the library's slow path.
    """
    if dropout or query.dtype != torch.bfloat16 or query.device.type != "cpu" or query.shape[2] == 1:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
    result: torch.Tensor = _Chunked.apply(query, key, value, bias)  # type: ignore[no-untyped-call]
    return result


def _chunks(query: torch.Tensor, key: torch.Tensor) -> list[slice]:
    row_bytes = query.shape[1] * query.shape[2] * key.shape[2] * query.element_size()
    size = max(1, _CHUNK_BYTES // row_bytes)
    return [slice(i, i + size) for i in range(0, len(query), size)]


def _probabilities(query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, rows: slice) -> torch.Tensor:
    scores = torch.matmul(query[rows], key[rows].transpose(-1, -2))
    return torch.softmax(scores if bias is None else scores.add_(bias[rows]), -1)


class _Chunked(torch.autograd.Function):
    """The backward pass computes the probabilities again, so that memory does not grow with T * T."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            scaled = query * query.shape[-1] ** -0.5
            result = torch.empty_like(query)
            for rows in _chunks(query, key):
                result[rows] = torch.matmul(_probabilities(scaled, key, bias, rows), value[rows])
        ctx.save_for_backward(scaled, key, value, bias)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        scaled, key, value, bias = ctx.saved_tensors
        scale = scaled.shape[-1] ** -0.5
        queries, keys, values = torch.empty_like(scaled), torch.empty_like(key), torch.empty_like(value)
        for rows in _chunks(scaled, key):
            chunk, g = _probabilities(scaled, key, bias, rows), gradient[rows]
            values[rows] = torch.matmul(chunk.transpose(-1, -2), g)
            towards = torch.matmul(g, value[rows].transpose(-1, -2))
            scores = torch._softmax_backward_data(towards, chunk, -1, chunk.dtype)
            queries[rows] = torch.matmul(scores, key[rows]).mul_(scale)
            keys[rows] = torch.matmul(scores.transpose(-1, -2), scaled[rows])
        return queries, keys, values, None
