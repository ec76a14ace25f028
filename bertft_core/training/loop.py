"""One fit: gradual unfreezing, layer-wise rates, best epoch on validation, bitwise resumable.

A frozen level is in eval mode and has no gradient. Random numbers depend on (seed, step) alone, batches on
(seed, epoch) alone, so that a fit killed anywhere and started again ends in the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bertft_core.base.errors import ConfigError, DataError, ModelError
from bertft_core.base.files import write_json
from bertft_core.base.records import read_or_set_aside
from bertft_core.base.text import counted
from bertft_core.config.fit import PROBE, number
from bertft_core.config.metrics import as_score
from bertft_core.data.tokens.batching import epoch_batches, sample_rows, unit_rows
from bertft_core.model.classifier import level_digests, load_classifier, save_classifier, weights_digest
from bertft_core.model.features import Classifier, level_map
from bertft_core.model.layers import LayerMap, set_depth
from bertft_core.model.prefix.cache import PrefixCache
from bertft_core.model.prefix.frozen import PrefixFigures, figures, open_prefixes
from bertft_core.model.ranks import ALONE, Ranks
from bertft_core.model.weights import prefix_of
from bertft_core.training.checkpoint import (
    CHECKPOINT,
    FitState,
    load_best,
    load_checkpoint,
    next_checkpoint,
    remove_best,
    remove_checkpoint,
    save_best,
    save_checkpoint,
)
from bertft_core.training.forward import FeatureForward, Forward, open_forward
from bertft_core.training.linear_probe import train_head
from bertft_core.training.losses import TrainingLoss, chance_loss, validation_scores
from bertft_core.training.machine import one_row_milliseconds, pick_device, runtime, weight_bytes
from bertft_core.training.optimizer import (
    batch_gradient,
    build_optimizer,
    memory_faults,
    parameter_groups,
    set_rates,
    take_step,
)
from bertft_core.training.results import EpochResult, FinishedFit, TrainingResult
from bertft_core.training.schedules import RUNGS, RateCurve, RatePlan, UnfreezeSchedule, peak_rates, usable_cuts
from bertft_core.training.scoring import score
from bertft_core.training.spec import FitSpec

if TYPE_CHECKING:
    from bertft_core.data.tokens.tokenization import TokenArrays


__all__ = ["EpochResult", "FitSpec", "TrainingResult", "fit", "score"]

OnProgress = Callable[[float, dict[str, Any]], None]
OnRung = Callable[[float, float], bool]
_BEAT_SECONDS = 1.0
_NOTHING = 1e-4  # nats: rows of one class, or all with the same soft label, have nothing to tell apart


@dataclass(kw_only=True)
class _Fit:
    """The moving parts of one fit."""

    spec: FitSpec
    key: str
    output: Path
    forward: Forward | FeatureForward
    model: Classifier
    layers: LayerMap
    optimizer: torch.optim.AdamW
    schedule: UnfreezeSchedule
    train: TokenArrays
    validation: TokenArrays
    rows: np.ndarray[Any, Any]
    loss: TrainingLoss
    on_progress: OnProgress | None
    on_rung: OnRung | None
    ranks: Ranks
    state: FitState = field(default_factory=FitState)
    started: float = field(default_factory=time.monotonic)
    last_beat: float = 0.0
    next_checkpoint: float = 0.0
    strength: float | None = None

    @property
    def is_probe(self) -> bool:
        return self.spec.training.unfreezing == PROBE

    @property
    def steps_per_epoch(self) -> int:
        return 1 if self.is_probe else math.ceil(len(self.rows) / self.spec.training.batch_size)

    @property
    def total(self) -> int:
        return 1 if self.is_probe else self.steps_per_epoch * number(self.spec.training.epochs)

    @property
    def rates(self) -> RatePlan:
        spec = self.spec
        return RatePlan(
            curve=RateCurve.of(spec.training),
            unfreezing=self.schedule,
            total=self.total,
            phase_restart=spec.training.phase_restart,
        )

    def seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self.started


def fit(
    spec: FitSpec, on_progress: OnProgress | None = None, on_rung: OnRung | None = None, ranks: Ranks = ALONE
) -> TrainingResult:
    """Fine-tune one classifier and return its best epoch's validation scores.

    ``on_progress(fraction, facts)`` is called about once a second and after each epoch; ``on_rung(fraction,
    score)`` at a quarter, half and three quarters of the fit, and True ends it as pruned. If ``spec.output``
    holds a checkpoint of the same fit it goes on from there; a finished result there is returned at once.

    A step that memory does not hold goes on in micro-batches of half as many rows, with the same effective batch
    (`EpochResult.micro_batch`).

    ``ranks``: one of the spec.training.processes processes that fit together; all of them call this, with callbacks of
    which the first one's are asked. It alone writes; all return its result.

    Raises: TrialPruned when loss or gradient are not finite (reason "nonfinite ...") or memory runs out even so ("oom
    ..."); DataError when a split is empty; ModelError when the encoder cannot be used or a frozen weight
    moved.
    """
    if (wanted := spec.training.processes) != ranks.world:
        raise ConfigError(f"training.processes is {wanted}, but this fit was started in {_processes(ranks.world)}")
    output = Path(spec.output)
    finished = _told(ranks, finished_fit(spec) if ranks.is_first else None)
    if finished is not None:
        return finished
    with memory_faults(), runtime(spec.training.threads, spec.training.device):
        run = _prepare(spec, ranks, on_progress, on_rung)
        _beat(run, {}, is_forced=True)  # says where it goes on from
        _build_prefixes(run)
        reason = _train_head(run) if run.is_probe else _train(run)
        result = _finish(run, reason) if ranks.is_first else None
    if result is not None:
        write_json(output / "result.json", asdict(FinishedFit(key=run.key, result=result)))
        remove_checkpoint(output)
        remove_best(output)
    result = _told(ranks, result)
    assert result is not None, "the first process has one"
    return result


def _processes(count: int) -> str:
    return counted(count, "process", "processes")


def _told(ranks: Ranks, result: TrainingResult | None) -> TrainingResult | None:
    value = ranks.tell(result.to_json() if result else None)
    return result if ranks.is_first or value is None else TrainingResult.from_json(value)


def finished_fit(spec: FitSpec) -> TrainingResult | None:
    """The result that this fit left in its folder when it finished, None before."""
    output = Path(spec.output)
    output.mkdir(parents=True, exist_ok=True)
    stored = read_or_set_aside(output / "result.json", FinishedFit, "the fit is made again")
    if stored is None or stored.key != spec.key() or stored.result.processes != spec.training.processes:
        return None
    result = stored.result
    if result.model_dir:
        result = replace(result, model_dir=str(output / "model"))  # the folder may have been moved since
    if spec.measure_latency and result.latency_ms is None:
        return None
    has_model = not spec.keep_model or (Path(result.model_dir) / "model.safetensors").is_file()
    return result if has_model or result.state == "pruned" else None


def _prepare(spec: FitSpec, ranks: Ranks, on_progress: OnProgress | None, on_rung: OnRung | None) -> _Fit:
    from bertft_core.data.tokens.tokenization import open_split

    train, validation = (open_split(Path(spec.tokens), name) for name in ("train", "validation"))
    for name, arrays in (("train", train), ("validation", validation)):
        if len(arrays.labels) == 0:
            raise DataError(f"the {name} split is empty: raise data.split or add rows")
    device = pick_device(spec.training.device)
    model = load_classifier(
        spec.pretrained,
        spec.classes,
        spec.training.seed,
        spec.training.dropout,
        attention_dropout=spec.training.attention_dropout,
        multi_label=spec.multi_label,
        plan=spec.features,
    )
    model.to(device)  # type: ignore[arg-type]
    layers = level_map(model)
    rates = peak_rates(spec.training, len(layers.layers))
    optimizer = build_optimizer(parameter_groups(model, layers, rates, spec.training.weight_decay))
    schedule = UnfreezeSchedule.of(spec.training.unfreezing, len(layers.layers), number(spec.training.epochs))
    rows = sample_rows(train, spec.rows)
    run = _Fit(
        spec=spec,
        key=spec.key(),
        output=Path(spec.output),
        forward=open_forward(model, device, spec.training.precision, ranks),
        model=model,
        layers=layers,
        optimizer=optimizer,
        schedule=schedule,
        train=train,
        validation=validation,
        rows=rows,
        loss=_loss(spec, train, rows, device),
        on_progress=on_progress if ranks.is_first else None,
        on_rung=on_rung,
        ranks=ranks,
        state=FitState(processes=ranks.world),
    )
    _restore(run)
    run.next_checkpoint = time.monotonic() + spec.checkpoint_seconds
    return run


def _restore(run: _Fit) -> None:
    """Go on from this fit's checkpoint, if there is one. Raises ConfigError for one of another number of processes."""
    if not run.ranks.is_first:
        run.ranks.wait()  # the first one moves a damaged checkpoint aside
    restored = load_checkpoint(run.output, run.key, run.model, run.optimizer, FitState)
    if run.ranks.is_first:
        run.ranks.wait()
    if restored is None:
        return
    if restored.processes != run.ranks.world:
        raise ConfigError(
            f"{run.output / CHECKPOINT} was written by {_processes(restored.processes)}, this fit has "
            f"{run.ranks.world} and comes to other weights: go on with as many (training.processes; 1 for trials where "
            "search.workers is above 1), or remove the file to begin anew"
        )
    run.state = restored
    set_depth(run.model, run.layers, restored.depth)


def _build_prefixes(run: _Fit) -> None:
    """Have the hidden states ready at every cut that a phase still to come reads."""
    spec, passes = run.spec, run.forward.passes
    deepest = len(run.layers.layers) - max(run.state.depth, 0)
    cuts = [cut for cut in usable_cuts(run.schedule, spec.features) if cut <= deepest]
    if spec.training.prefix_cache == "off" or passes is None or not cuts:
        return  # stock modules have no cut to go on from
    run.model.eval()
    cache = PrefixCache(Path(spec.prefix_root), int(spec.training.prefix_cache_gb * 1e9))
    every = np.arange(len(run.validation.labels))
    splits = [
        (arrays.units, unit_rows(arrays, rows)) for arrays, rows in ((run.train, run.rows), (run.validation, every))
    ]
    settings = (run.forward.padding, spec.training.precision, spec.training.prefix_cache)
    for prefix in open_prefixes(passes, run.layers, cuts, splits, cache, *settings):
        prefix.build(lambda fraction: _beat(run, {"prefix": fraction}), run.ranks)
        run.forward.prefixes[id(prefix.arrays)] = prefix
        if prefix.figures.reason:
            _beat(run, {"prefix_reason": prefix.figures.reason}, is_forced=True)
    set_depth(run.model, run.layers, run.state.depth)


def _loss(spec: FitSpec, train: TokenArrays, rows: np.ndarray[Any, Any], device: torch.device) -> TrainingLoss:
    targets = (train.labels if train.weights is None else train.weights)[rows]
    return TrainingLoss.of(spec.training, spec.classes, targets, device, multi_label=spec.multi_label)


def _train(run: _Fit) -> str:
    """Run what is left of the fit; return "" when it completed, else why it was pruned."""
    lengths, labels = run.train.lengths[run.rows], run.train.labels[run.rows]
    training = run.spec.training
    while run.state.step < run.total:
        epoch, done = divmod(run.state.step, run.steps_per_epoch)
        batches = epoch_batches(lengths, labels, training.batch_size, training.seed, epoch)
        for chosen in batches[done:]:
            _enter_phase(run)
            _step(run, run.rows[chosen])
            is_epoch_end = run.state.step % run.steps_per_epoch == 0
            scores = _end_epoch(run) if is_epoch_end else None
            if _should_stop(run, scores):
                return f"stopped at {run.state.rungs[-1][0]:.0%} of the fit"
            if is_epoch_end and _is_stale(run):
                _check_phase(run)
                return ""
            _checkpoint(run, is_forced=is_epoch_end)
    _check_phase(run)
    return ""


def _train_head(run: _Fit) -> str:
    """The head in one step, by logistic regression; what a kill leaves of it is nothing, it takes one pass."""
    _enter_phase(run)
    seed = run.spec.training.seed
    head = train_head(
        run.model, run.forward, run.train, run.rows, run.loss, seed, lambda share: _beat(run, {"features": share})
    )
    state, run.strength = run.state, head.strength
    state.step, state.loss_sum, state.loss_rows = 1, head.loss * len(run.rows), len(run.rows)
    _end_epoch(run)
    _check_phase(run)
    return ""


def _is_stale(run: _Fit) -> bool:
    """Whether training.patience epochs of the last phase passed without a better score; earlier ones count not."""
    patience, deepest = run.spec.training.patience, run.schedule.starts[-1][1]
    if patience is None or run.state.best is None:
        return False
    since = [h.epoch for h in run.state.history if h.depth == deepest and h.epoch > run.state.best[0]]
    return len(since) >= patience


def _step(run: _Fit, rows: np.ndarray[Any, Any]) -> None:
    """One update on exactly these rows."""
    spec, state = run.spec, run.state
    set_rates(run.optimizer, run.rates.factors(state.step))
    before = state.micro_batch
    size = before or spec.training.batch_size
    value, held = batch_gradient(
        lambda part: run.loss(*run.forward.logits(run.train, part, state.depth)),
        rows,
        size,
        run.optimizer,
        (spec.training.seed << 32) + state.step,
        run.forward.device,
        run.ranks,
    )
    if held != size:
        state.micro_batch = held
    state.step += 1
    take_step(run.model, run.optimizer, value, spec.training.max_grad_norm, f"step {state.step}: lower training.lr")
    state.loss_sum += value * len(rows)
    state.loss_rows += len(rows)
    _beat(run, {"loss": value})
    if state.micro_batch != before:
        _beat(run, {"micro_batch": state.micro_batch, "batch": len(rows)}, is_forced=True)


def _beat(run: _Fit, facts: dict[str, Any], *, is_forced: bool = False) -> None:
    now = time.monotonic()
    if run.on_progress and (is_forced or now - run.last_beat >= _BEAT_SECONDS):
        run.last_beat = now
        common = {"step": run.state.step, "total_steps": run.total, "depth": run.state.depth, "seconds": run.seconds()}
        run.on_progress(run.state.step / run.total, {**common, **facts})


def _enter_phase(run: _Fit) -> None:
    """Thaw what the schedule thaws at this step; check the phase that ends."""
    depth = run.schedule.depth_at(run.state.step / run.total)
    if depth == run.state.depth:
        return
    _check_phase(run)
    run.state.depth, run.state.phase_step = depth, run.state.step
    run.state.phase_digests = level_digests(run.model, run.layers)
    run.optimizer.zero_grad(set_to_none=True)
    set_depth(run.model, run.layers, depth)


def _check_phase(run: _Fit) -> None:
    """What was thawed has moved and what was frozen has not, in all processes alike, bit for bit; else ModelError."""
    state = run.state
    if state.depth < 0 or state.step == state.phase_step:
        return
    names, digests = [name for name, _ in run.layers.by_level()], level_digests(run.model, run.layers)
    run.ranks.require_equal(digests, names, f"after step {state.step}")
    for level, (name, before, now) in enumerate(zip(names, state.phase_digests, digests, strict=True)):
        if (before != now) is not (level <= state.depth):
            what = "frozen but moved" if level > state.depth else "thawed but did not move (is training.lr too small?)"
            raise ModelError(f"{name} was {what} in steps {state.phase_step}..{state.step} at depth {state.depth}")


def _validate(run: _Fit) -> dict[str, float]:
    # in training precision: bfloat16 halves the cost of a rung; saved models are always scored in float32
    def beat(fraction: float) -> None:
        _beat(run, {"validating": fraction})

    logits = run.forward.predict(run.validation, run.state.depth, beat)
    set_depth(run.model, run.layers, run.state.depth)
    labels, weights = run.validation.labels, run.validation.weights
    return run.ranks.tell(validation_scores(logits, labels, weights, multi_label=run.spec.multi_label))


def _end_epoch(run: _Fit) -> dict[str, float]:
    state, scores = run.state, _validate(run)
    epoch = EpochResult(
        epoch=state.step // run.steps_per_epoch,
        step=state.step,
        train_loss=state.loss_sum / state.loss_rows,
        validation_loss=scores["log_loss"],
        accuracy=scores["accuracy"],
        macro_f1=scores["macro_f1"],
        micro_f1=scores.get("micro_f1"),
        depth=state.depth,
        seconds=run.seconds(),
        micro_batch=state.micro_batch,
    )
    state.loss_sum, state.loss_rows = 0.0, 0
    state.history.append(epoch)
    value = as_score(run.spec.metric, scores[run.spec.metric])
    if state.best is None or (value, -scores["log_loss"]) > (state.best[1], -state.best[2]):
        state.best = (epoch.epoch, value, scores["log_loss"], weights_digest(run.model))
        if run.spec.keep_model and run.ranks.is_first:
            save_best(run.output, run.key, run.model)
    _beat(run, {"epoch": epoch.epoch, "score": value, "validation_loss": scores["log_loss"]}, is_forced=True)
    return scores


def _should_stop(run: _Fit, scores: dict[str, float] | None) -> bool:
    """Report the validation score at each rung that this step reached; whether the fit shall stop."""
    for fraction in RUNGS:
        is_reached = math.ceil(fraction * run.total) == run.state.step < run.total
        if run.on_rung is None or not is_reached:
            continue
        scores = scores or _validate(run)
        value = as_score(run.spec.metric, scores[run.spec.metric])
        run.state.rungs.append((fraction, value))
        if run.ranks.tell(run.ranks.is_first and run.on_rung(fraction, value)):
            run.state.best = run.state.best or (0, value, scores["log_loss"], "")
            return True
    return False


def _checkpoint(run: _Fit, *, is_forced: bool) -> None:
    begun = time.monotonic()
    if not is_forced and begun < run.next_checkpoint:
        return
    if run.state.step == run.total or not run.ranks.is_first:
        return
    run.state.seconds, run.started = run.seconds(), begun
    save_checkpoint(run.output, run.key, run.state, run.model, run.optimizer)
    run.next_checkpoint = next_checkpoint(begun, run.spec.checkpoint_seconds)


def _finish(run: _Fit, reason: str) -> TrainingResult:
    assert run.state.best is not None, "a fit ends with an epoch or a rung"
    epoch, value, log_loss, digest = run.state.best
    folder = ""
    if run.spec.keep_model and not reason:
        load_best(run.output, run.model, digest)
        folder = str(save_classifier(run.model, run.spec.pretrained, run.output / "model", run.spec.classes))
    latency = one_row_milliseconds(run.model, run.validation, run.forward.device) if run.spec.measure_latency else None
    chance, learnt = _learnt(run)
    return TrainingResult(
        state="pruned" if reason else "complete",
        reason=reason,
        score=value,
        log_loss=log_loss,
        best_epoch=epoch,
        steps=run.state.step,
        history=tuple(run.state.history),
        rungs=tuple(run.state.rungs),
        weights_digest=digest,
        model_dir=folder,
        seconds=run.seconds(),
        latency_ms=latency,
        size_bytes=weight_bytes(run.model),
        prefix=_prefix_figures(run),
        chance_loss=chance,
        learnt=learnt,
        wrapper=prefix_of(run.model, run.spec.pretrained),
        strength=run.strength,
        processes=run.ranks.world,
    )


def _learnt(run: _Fit) -> tuple[float | None, float | None]:
    """`TrainingResult.chance_loss` and `learnt`."""
    history, n_classes = run.state.history, len(run.spec.classes)
    if not history:
        return None, None
    plain = TrainingLoss(multi_label=run.spec.multi_label)
    train, validation = (
        arrays.labels if arrays.weights is None else arrays.weights for arrays in (run.train, run.validation)
    )
    chance, least = chance_loss(run.loss, train[run.rows], n_classes)
    seen, seen_least = chance_loss(plain, validation, n_classes)
    losses = [
        (chance, least, min(h.train_loss for h in history)),
        (seen, seen_least, min(h.validation_loss for h in history)),
    ]
    shares = [(top - lowest) / (top - floor) for top, floor, lowest in losses if top - floor > _NOTHING]
    return chance, max(shares, default=None)


def _prefix_figures(run: _Fit) -> dict[str, Any] | None:
    cuts = usable_cuts(run.schedule, run.spec.features)
    if run.spec.training.prefix_cache != "off" and cuts and run.forward.passes is None:
        return asdict(PrefixFigures(reason=f"{type(run.model).__name__} has layers of another structure than BERT's"))
    return figures(list(run.forward.prefixes.values()))
