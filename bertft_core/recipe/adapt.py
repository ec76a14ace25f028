"""The stage between tokens and search: the encoder trained further on text without labels, or on several tasks at once;
what the former bought.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bertft_core.adaptation.lineage import AdaptedEncoder, carry_out
from bertft_core.adaptation.multi_task.lineage import MultiTask, SharedEncoder, carry_out_together
from bertft_core.adaptation.multi_task.results import MultiTaskResult, MultiTaskSpec
from bertft_core.adaptation.results import AdaptationResult, AdaptationSpec
from bertft_core.base.errors import InputError, TrialPruned
from bertft_core.base.text import counted
from bertft_core.config.fit import ADAPTED, BASE
from bertft_core.config.metrics import metric_title
from bertft_core.config.run import RunConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.evaluation import labels_of_split
from bertft_core.recipe.fit import fit_spec, machine_settings, settled_for
from bertft_core.recipe.prepare import MadeFirst

_ENCODER = "model.pretrained"


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """An encoder that was made first: where it lies and what it stands on, and what became of it."""

    adaptation: MadeFirst
    encoder: AdaptedEncoder | SharedEncoder

    def __str__(self) -> str:
        return str(self.encoder.result)

    def document(self) -> dict[str, Any]:
        """The `adaptation` part of the result document."""
        result = asdict(self.encoder.result)
        del result["curve"]
        lineage = {"encoder": self.encoder.key, "base": self.encoder.base_encoder, "chain": list(self.encoder.chain)}
        facts = {**self.encoder.facts(), "why": self.adaptation.why, "text": str(self)}
        return {**lineage, **facts, **result}


def adapt(
    context: RunContext,
    on_progress: Callable[[float, dict[str, Any]], None] | None = None,
    doing: Callable[[str], None] = lambda text: None,
) -> Adapted | None:
    """Make the encoder that the run's fits begin with, or read it back; None where that is the configured one.

    Raises InputError where it diverges or memory does not hold a single block.
    """
    planned = context.prepared.adaptation
    if planned is None:
        return None
    settings = machine_settings(context, doing)
    machine = (settings.precision, settings.device, settings.threads)

    def train(spec: AdaptationSpec) -> AdaptationResult:
        return context.trainer.adapt(spec, on_progress)

    def train_together(spec: MultiTaskSpec) -> MultiTaskResult:
        return context.trainer.fit_together(spec, on_progress)

    made: AdaptedEncoder | SharedEncoder
    try:
        if isinstance(planned, MultiTask):
            made = carry_out_together(planned, context.home, machine, train_together)
        else:
            made = carry_out(planned, context.config, context.home, machine, train)
    except TrialPruned as fault:
        what, cut = "adaptation", "adaptation.max_length"
        if isinstance(planned, MultiTask):
            what, cut = f"training of {planned.config.name}", "the tasks' tokenization.max_length"
        raise InputError(
            f"the {what} ended early ({fault.reason}): lower {'adaptation' if what == 'adaptation' else 'training'}.lr "
            f"where it diverged, {cut} where memory ran out"
        ) from None
    return Adapted(adaptation=planned.with_folder(context.home), encoder=made)


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What an adaptation bought: the same fit from both encoders, on the same validation rows.

    difference: score with the adapted encoder minus score with the configured one, higher is better; low, high: its
    paired interval, equal where it is the same on every row.
    """

    metric: str
    difference: float
    low: float
    high: float
    rows: int

    @property
    def chosen(self) -> str:
        """The word of search.space for the encoder that is better on these rows: `adapted` or `base`."""
        return ADAPTED if self.difference > 0 else BASE

    def __str__(self) -> str:
        on = f"{metric_title(self.metric)} on {counted(self.rows, 'validation row')}"
        spread = f" [{self.low:+.4f}, {self.high:+.4f}]" if self.high > self.low else ""
        shown = "" if self.low > 0 or self.high < 0 else ", no measurable difference"
        encoder = "the adapted encoder" if self.chosen == ADAPTED else "the encoder as it was"
        return f"{on}, adapted minus base: {self.difference:+.4f}{spread}{shown}; {encoder} is taken"


@dataclass(frozen=True, kw_only=True)
class EncoderChoice:
    """The configuration of the final fit, and the gain that decided; None where nothing was to be chosen."""

    config: RunConfig
    gain: Gain | None = None


def choose_encoder(
    context: RunContext, winner: RunConfig, on_progress: Callable[[float, dict[str, Any]], None] | None = None
) -> EncoderChoice:
    """Fit the search's winner on both encoders where the search had both, and take the better one on validation.

    winner: context.config with the winner's values. The fit of the one that is taken becomes the final fit: what this
    costs is one fit more. Where one of the two diverges the search's choice stays.
    """
    searched = set(context.config.possible(_ENCODER)[1:]) if context.config.is_searched else set()
    is_other = winner.model.pretrained != context.config.model.pretrained
    if not {BASE, ADAPTED} <= searched or is_other or context.prepared.adaptation is None:
        return EncoderChoice(config=winner)
    run = context.run
    stored = run.state().get("gain")
    if stored:
        return _taken(winner, Gain(**stored))
    settings, folder, answers = machine_settings(context), run.path / "encoders", dict[str, Any]()
    dataset = context.prepared.dataset
    for word in (BASE, ADAPTED):
        own = context.with_config(winner.with_values({_ENCODER: word}))
        config, seed, dataset = settled_for(own.config, own.prepared), winner.training.seed, own.prepared.dataset
        spec = fit_spec(config, own.prepared, settings, own.home, folder / word, seed=seed, rows=None, keep_model=True)
        fit = context.trainer.fit(spec, on_progress)
        if fit.state != "complete":
            return EncoderChoice(config=winner)
        file, machine = folder / f"{word}.npy", (settings.device, settings.threads)
        context.trainer.score(fit.model_dir, own.tokens, "validation", file, *machine)
        answers[word] = np.load(file, allow_pickle=False)
    gain = _gain(dataset, winner, answers)
    run.update(gain=asdict(gain))
    shutil.rmtree(run.folder.fit, ignore_errors=True)
    os.replace(folder / gain.chosen, run.folder.fit)  # the final fit finds it finished
    shutil.rmtree(folder, ignore_errors=True)
    return _taken(winner, gain)


def _taken(winner: RunConfig, gain: Gain) -> EncoderChoice:
    return EncoderChoice(config=winner.with_values({_ENCODER: gain.chosen}), gain=gain)


def _gain(dataset: DatasetSplits, config: RunConfig, answers: dict[str, Any]) -> Gain:
    from bertft_core.evaluation.scores.intervals import Bootstrap, paired_difference

    labels, wanted = labels_of_split(dataset, "validation"), config.evaluation
    base, adapted = (labels.predictions(answers[word]) for word in (BASE, ADAPTED))
    how = Bootstrap(level=wanted.level, resamples=wanted.resamples, seed=config.training.seed)
    found = paired_difference(labels, adapted, base, wanted.metric, how)
    return Gain(metric=wanted.metric, difference=found.difference, low=found.low, high=found.high, rows=found.n)
