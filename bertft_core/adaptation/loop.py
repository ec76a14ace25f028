"""Masked language modelling on a corpus: the head first, then everything; best weights kept, bitwise resumable.

Random numbers depend on (seed, step), masks on (seed, epoch, block), the order of blocks on (seed, epoch): killed
anywhere and started again it ends in the same bits.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bertft_core.adaptation.corpus import Ints, blocks_of, choose_documents
from bertft_core.adaptation.masking import Masking
from bertft_core.adaptation.model import MaskedModel
from bertft_core.adaptation.results import AdaptationResult, AdaptationSpec, FinishedAdaptation
from bertft_core.base.files import write_json
from bertft_core.base.records import read_or_set_aside
from bertft_core.data.tokens.encoder_fit import check_max_length
from bertft_core.model.classifier import weights_digest
from bertft_core.model.layers import LayerRates, set_depth
from bertft_core.training.checkpoint import (
    load_best,
    load_checkpoint,
    next_checkpoint,
    remove_best,
    remove_checkpoint,
    save_best,
    save_checkpoint,
)
from bertft_core.training.machine import pick_device, runtime
from bertft_core.training.optimizer import (
    batch_gradient,
    build_optimizer,
    memory_faults,
    parameter_groups,
    set_rates,
    take_step,
)
from bertft_core.training.schedules import RateCurve, RatePlan, UnfreezeSchedule, first_step

ENCODER = "encoder"  # the adapted encoder's folder in the output
_HEAD_SHARE = 0.1  # of the updates: the head alone
_EVERYTHING = 2  # depth at which layers and embeddings train too
_SCORINGS = 8  # of the held-out blocks after the first, evenly over the updates
_HELD_BLOCKS = 256  # at most: 5,000 masked tokens of 128, on which a mean loss is good to 0.03 nats
_HELD_EPOCH = 2**31  # of the masks of held-out blocks, which are the same at each scoring
_WEIGHT_DECAY, _MAX_NORM = 0.01, 1.0  # as in fits
_CLEAR = 0.9  # of the loss of frequencies alone: above it nothing was learnt that they do not say
_BEAT_SECONDS, _TIMED_STEPS = 1.0, 3

OnProgress = Callable[[float, dict[str, Any]], None]


@dataclass(kw_only=True)
class AdaptationState:
    """What is remembered besides tensors. total: updates in all; best: step, loss, digest; curve: (step, loss)."""

    step: int = 0
    total: int = 0
    seconds: float = 0.0
    depth: int = -1
    best: tuple[int, float, str] | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)
    micro_batch: int | None = None


@dataclass(kw_only=True)
class _Run:
    spec: AdaptationSpec
    output: Path
    masked: MaskedModel
    masking: Masking
    blocks: NDArray[np.int32]
    held: NDArray[np.int32]
    unigram_loss: float
    optimizer: torch.optim.AdamW
    schedule: UnfreezeSchedule
    on_progress: OnProgress | None
    state: AdaptationState = field(default_factory=AdaptationState)
    started: float = field(default_factory=time.monotonic)
    last_beat: float = 0.0
    next_checkpoint: float = 0.0

    def seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self.started


def adapt(spec: AdaptationSpec, on_progress: OnProgress | None = None) -> AdaptationResult:
    """Train an encoder further on a corpus; `spec.output`/encoder is the adapted one, where it learnt.

    It learnt where its loss on held-out text fell below what a fitted head alone gets of the encoder as it was, and
    well below what the frequencies of tokens alone get. ``on_progress(fraction, facts)`` about once a second. Goes on
    from a checkpoint of the same key in `spec.output`; a finished result there is returned at once.

    Raises: TrialPruned when loss or gradient are not finite ("nonfinite ...") or memory does not hold one block
    ("oom ..."); ModelError when the encoder cannot be used; ConfigError when a block is longer than it reads.
    """
    output = Path(spec.output)
    output.mkdir(parents=True, exist_ok=True)
    finished = _read_result(output, spec.key)
    if finished is not None:
        return finished
    with memory_faults(), runtime(spec.threads, spec.device):
        check_max_length(Path(spec.pretrained), spec.config.max_length, "adaptation.max_length")
        result = _adapted(spec, output, on_progress)
    write_json(output / "result.json", asdict(FinishedAdaptation(key=spec.key, result=result)))
    remove_checkpoint(output)
    remove_best(output)
    return result


def _read_result(output: Path, key: str) -> AdaptationResult | None:
    stored = read_or_set_aside(output / "result.json", FinishedAdaptation, "the adaptation is made again")
    if stored is None:
        return None
    is_whole = stored.key == key and (not stored.result.is_adapted or (output / ENCODER).is_dir())
    return stored.result if is_whole else None


def _adapted(spec: AdaptationSpec, output: Path, on_progress: OnProgress | None) -> AdaptationResult:
    corpus, pretrained = Path(spec.corpus), Path(spec.pretrained)
    masking = Masking.of(pretrained, spec.config.mask, spec.seed)
    known = np.load(spec.known, allow_pickle=False) if spec.known else None
    chosen = choose_documents(corpus, known)
    blocks, held = (
        blocks_of(corpus, places, masking.marks, spec.config.max_length) for places in (chosen.train, chosen.held_out)
    )
    if not len(held) or not len(blocks):
        return AdaptationResult(reason="the corpus has too few documents: one is held out, one at least trains")
    held = held[np.unique(np.linspace(0, len(held) - 1, _HELD_BLOCKS).astype(np.int64))]
    for part, name in ((blocks, "trained on"), (held, "held out")):
        if not masking.is_word(part).any():
            what = f"no token of the documents that are {name} is one that the encoder's tokenizer knows"
            return AdaptationResult(reason=what)
    run = _prepare(spec, masking, blocks, held, chosen.share, on_progress)
    _train(run)
    return _finish(run)


def _prepare(
    spec: AdaptationSpec,
    masking: Masking,
    blocks: NDArray[np.int32],
    held: NDArray[np.int32],
    share: float,
    on_progress: OnProgress | None,
) -> _Run:
    masked = MaskedModel.load(spec.pretrained, pick_device(spec.device), spec.seed)
    batch = masking.batch(held, np.arange(len(held)), _HELD_EPOCH)
    unigram, log_shares = masking.unigram_loss(blocks, batch.targets, masked.model.config.vocab_size)
    if not masked.has_head:
        few = masking.batch(held, np.arange(min(len(held), spec.config.batch_size)), _HELD_EPOCH)
        masked.start_head(log_shares, few)
    lr = spec.config.lr
    rates = LayerRates(head=lr, layers=(lr,), embeddings=lr)
    optimizer = build_optimizer(parameter_groups(masked.model, masked.levels, rates, _WEIGHT_DECAY))
    run = _Run(
        spec=spec,
        output=Path(spec.output),
        masked=masked,
        masking=masking,
        blocks=blocks,
        held=held,
        unigram_loss=unigram,
        optimizer=optimizer,
        schedule=UnfreezeSchedule(n_layers=1, starts=((0.0, 0), (_HEAD_SHARE, _EVERYTHING))),
        on_progress=on_progress,
    )
    restored = load_checkpoint(run.output, spec.key, masked.model, optimizer, AdaptationState)
    if restored is not None:
        run.state = restored
        set_depth(masked.model, masked.levels, restored.depth)
    else:
        run.state.total = _updates(run, share)
    run.started = time.monotonic()
    run.next_checkpoint = run.started + spec.checkpoint_seconds
    return run


def _updates(run: _Run, share: float) -> int:
    """How many updates are made: of some documents of a corpus, their share of what the whole would get."""
    config, per_epoch = run.spec.config, math.ceil(len(run.blocks) / run.spec.config.batch_size)
    if config.epochs is not None:
        return config.epochs * per_epoch
    if config.steps is not None:
        return max(2, round(config.steps * share))
    assert config.minutes is not None, "exactly one of the three is given"
    seconds = min(_timed_step(run) for _ in range(_TIMED_STEPS))
    return max(2, int(60 * config.minutes * share / seconds))


def _timed_step(run: _Run) -> float:
    set_depth(run.masked.model, run.masked.levels, _EVERYTHING)
    begun = time.monotonic()
    _gradient(run, np.arange(min(len(run.blocks), run.spec.config.batch_size)), epoch=0)
    run.optimizer.zero_grad(set_to_none=True)
    return time.monotonic() - begun


def _gradient(run: _Run, chosen: Ints, epoch: int) -> tuple[float, int]:
    """(mean loss of a masked token, blocks at a time) of a batch, whose gradient is left in the parameters."""
    spec, state, batch = run.spec, run.state, run.masking.batch(run.blocks, chosen, epoch)
    count = max(1, int((batch.targets >= 0).sum()))

    def loss(part: Ints) -> torch.Tensor:  # a part's mean is weighted by its blocks: so that the sum is the batch's
        with torch.autocast(spec.device, dtype=torch.bfloat16, enabled=spec.precision == "bfloat16"):
            return run.masked.loss(batch.at_blocks(part)) * (len(chosen) / len(part) / count)

    size = state.micro_batch or spec.config.batch_size
    seed = (spec.seed << 32) + state.step
    return batch_gradient(loss, np.arange(len(chosen)), size, run.optimizer, seed, run.masked.model.device)


def _train(run: _Run) -> None:
    spec, state, plan = run.spec, run.state, RatePlan(curve=RateCurve(), unfreezing=run.schedule, total=run.state.total)
    per_epoch = math.ceil(len(run.blocks) / spec.config.batch_size)
    head_steps = first_step(_HEAD_SHARE, run.state.total)
    scorings = {0, head_steps, *(round(run.state.total * i / _SCORINGS) for i in range(1, _SCORINGS + 1))}
    if not state.curve:
        _score(run)
    while state.step < run.state.total:
        epoch, done = divmod(state.step, per_epoch)
        order = np.random.default_rng([spec.seed, epoch]).permutation(len(run.blocks))
        for start in range(done * spec.config.batch_size, len(order), spec.config.batch_size):
            depth = run.schedule.depth_at(state.step / run.state.total)
            if depth != state.depth:
                state.depth = depth
                set_depth(run.masked.model, run.masked.levels, depth)
            set_rates(run.optimizer, plan.factors(state.step))
            value, held = _gradient(run, order[start : start + spec.config.batch_size], epoch)
            if held < spec.config.batch_size:
                state.micro_batch = held
            state.step += 1
            where = f"step {state.step}: lower adaptation.lr"
            take_step(run.masked.model, run.optimizer, value, _MAX_NORM, where)
            _beat(run, {"loss": value})
            is_scored = state.step in scorings
            if is_scored:
                _score(run)
            _checkpoint(run, is_forced=is_scored)
            if state.step == run.state.total:
                return


def _score(run: _Run) -> None:
    """The mean loss on the held-out blocks now; the best weights since the encoder trains are kept."""
    state, size, model = run.state, run.spec.config.batch_size, run.masked.model
    total, count = 0.0, 0
    model.eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for start in range(0, len(run.held), size):
            batch = run.masking.batch(run.held, np.arange(start, min(start + size, len(run.held))), _HELD_EPOCH)
            with torch.autocast(run.spec.device, torch.bfloat16, enabled=run.spec.precision == "bfloat16"):
                total += float(run.masked.loss(batch).item())
            count += int((batch.targets >= 0).sum())
            _beat(run, {"scoring": start / len(run.held)})
    set_depth(model, run.masked.levels, state.depth)
    loss = total / max(1, count)
    state.curve.append((state.step, loss))
    if state.depth == _EVERYTHING and (state.best is None or loss < state.best[1]):
        state.best = (state.step, loss, weights_digest(model))
        save_best(run.output, run.spec.key, model)
    _beat(run, {"held_out_loss": loss}, is_forced=True)


def _beat(run: _Run, facts: dict[str, Any], *, is_forced: bool = False) -> None:
    now = time.monotonic()
    if run.on_progress and (is_forced or now - run.last_beat >= _BEAT_SECONDS):
        run.last_beat = now
        common = {"step": run.state.step, "total_steps": run.state.total, "seconds": run.seconds()}
        run.on_progress(run.state.step / run.state.total, {**common, **facts})


def _checkpoint(run: _Run, *, is_forced: bool) -> None:
    begun = time.monotonic()
    if run.state.step == run.state.total or (not is_forced and begun < run.next_checkpoint):
        return
    run.state.seconds, run.started = run.seconds(), begun
    save_checkpoint(run.output, run.spec.key, run.state, run.masked.model, run.optimizer)
    run.next_checkpoint = next_checkpoint(begun, run.spec.checkpoint_seconds)


def _finish(run: _Run) -> AdaptationResult:
    state = run.state
    assert state.best is not None, "the last update is scored"
    step, loss, digest = state.best
    head_step = first_step(_HEAD_SHARE, run.state.total)
    head_loss = min(value for at, value in state.curve if at <= head_step)
    reason = ""
    if loss >= head_loss:
        reason = "its training made no held-out text easier to guess"
    elif loss >= _CLEAR * run.unigram_loss:
        reason = "what it learnt is no more than the frequencies of tokens"
    target = run.output / ENCODER
    shutil.rmtree(target, ignore_errors=True)
    if not reason:
        load_best(run.output, run.masked.model, digest)
        run.masked.save(Path(run.spec.pretrained), target)
    per_epoch = math.ceil(len(run.blocks) / run.spec.config.batch_size)
    epochs, rest = divmod(state.step, per_epoch)
    blocks = epochs * len(run.blocks) + rest * run.spec.config.batch_size
    return AdaptationResult(
        reason=reason,
        unigram_loss=run.unigram_loss,
        first_loss=state.curve[0][1],
        head_loss=head_loss,
        best_loss=loss,
        best_step=step,
        steps=state.step,
        tokens=blocks * run.blocks.shape[1],
        seconds=run.seconds(),
        had_head=run.masked.has_head,
        micro_batch=state.micro_batch,
        curve=tuple(state.curve),
    )
