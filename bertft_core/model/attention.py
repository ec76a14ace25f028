"""Two steps of a layer where torch is slow on a CPU: dropout with 16 random bits a number, attention in bfloat16."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

_LANES = 4  # numbers of 16 bits in one random word of 64
_LEVELS = 1 << 16
_CHUNK_BYTES = 4_000_000  # of scores held at a time: they are read again at once, out of the cache


def dropout_add(hidden: torch.Tensor, residual: torch.Tensor, p: float) -> torch.Tensor:
    """``residual`` + ``hidden`` with a share ``p`` of its numbers set to 0 and the rest scaled by 1/(1-p).

    p is met to 1/65536. Random bits come from torch's generator, so that torch.manual_seed fixes them; they are not
    those that nn.Dropout draws, which cost six times as much on a CPU (measured). On a GPU the library's kernel runs.
    """
    if not p:
        return hidden + residual
    if hidden.device.type != "cpu":
        return functional.dropout(hidden, p) + residual
    result: torch.Tensor = _Dropout.apply(hidden, p)  # type: ignore[no-untyped-call]
    return result + residual


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, p: float) -> torch.Tensor:
        words = torch.empty(-(-hidden.numel() // _LANES), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
        lanes = words.view(torch.int16)[: hidden.numel()].view(hidden.shape)
        dropped = round(p * _LEVELS)
        keep = lanes >= dropped - _LEVELS // 2
        ctx.scale = _LEVELS / (_LEVELS - dropped)
        ctx.save_for_backward(keep)
        return (hidden * keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (keep,) = ctx.saved_tensors
        return (gradient * keep).mul_(ctx.scale), None


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
