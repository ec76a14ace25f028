"""How near a training step comes to the machine's limit: floating-point work done over time, over the matmul peak.

Work of one step on B rows of T tokens, all real, with L layers of width H and inner width I (a multiply-add is 2):
  linears     a weight costs 2 a token forward, 2 for its own gradient, 2 for its input's: 6 a weight and token.
              A layer has 4 H^2 + 2 H I weights. With the last layer at [CLS] alone, its keys and values (2 H^2) see
              T tokens a row, its query, output and feed-forward (2 H^2 + 2 H I) one.
  attention   scores and values: 4 T H a query forward, 8 T H backward. The last layer has one query a row.
              Kernels that compute the scores again in the backward pass do another 2 T H; `with_recomputation`.
  head        pooler H^2 and classifier H C weights, once a row.
Not counted: embeddings, norms, activations, softmax, dropout, the optimizer: they take time alone.
The peak is the fastest of several matrix shapes in this very process, before and after the steps.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

_SHAPES = ((2048, 2048, 2048), (4096, 384, 1536), (4096, 1536, 384))  # square, and MiniLM's own at 16 x 256
_REPEATS = 12


def step_flops(rows: int, tokens: int, config: dict[str, int], *, first_only: bool, recomputation: bool) -> float:
    """FLOPs of one full training step. config: layers, width, inner, classes."""
    layers, width, inner = config["layers"], config["width"], config["inner"]
    attention = (14 if recomputation else 12) * tokens * width  # of one query
    weights = 4 * width**2 + 2 * width * inner
    row = layers * tokens * (6 * weights + attention)
    if first_only:
        row -= (tokens - 1) * (6 * (weights - 2 * width**2) + attention)
    return rows * (row + 6 * (width**2 + width * config["classes"]))


def matmul_peak(precision: str) -> float:
    """FLOPs a second of the fastest matrix product known here, best of several repetitions."""
    import torch

    best = 0.0
    for m, k, n in _SHAPES:
        a, b = (torch.randn(shape).to(getattr(torch, precision)) for shape in ((m, k), (k, n)))
        out = torch.empty(m, n, dtype=a.dtype)
        for _ in range(_REPEATS):
            begun = time.perf_counter()
            torch.matmul(a, b, out=out)
            best = max(best, 2 * m * k * n / (time.perf_counter() - begun))
    return best


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the product's training steps and the matmul peak, by precision, in this process.

    job: specs {precision: (warm-up fit, fit)} of rows that all have `tokens` tokens, encoder's config, batch_size.
    """
    from bertft_core.training import loop
    from bertft_core.training.spec import FitSpec

    times: list[float] = []
    inner = loop._step

    def timed(run: Any, rows: Any) -> None:
        begun = time.perf_counter()
        inner(run, rows)
        times.append(time.perf_counter() - begun)

    loop._step = timed
    found = {}
    for precision, (warm, spec) in job["specs"].items():
        loop.fit(FitSpec.from_json(warm))
        peaks = [matmul_peak(precision)]
        times.clear()
        loop.fit(FitSpec.from_json(spec))
        seconds = statistics.median(times)
        peaks.append(matmul_peak(precision))
        found[precision] = {"step_seconds": seconds, "steps": len(times), **_shares(job, seconds, max(peaks))}
    return found


def _shares(job: dict[str, Any], seconds: float, peak: float) -> dict[str, float]:
    work = {
        again: step_flops(job["batch_size"], job["tokens"], job["config"], first_only=True, recomputation=again)
        for again in (False, True)
    }
    return {
        "peak_gflops": peak / 1e9,
        "step_gflops": work[False] / seconds / 1e9,
        "share": work[False] / seconds / peak,
        "share_with_recomputation": work[True] / seconds / peak,
    }
