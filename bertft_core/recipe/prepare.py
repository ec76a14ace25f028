"""From a configuration to tokenized rows that a fit can read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bertft_core.adaptation.lineage import Adaptation, plan_adaptation
from bertft_core.adaptation.multi_task.lineage import MultiTask, Task, plan_multi_task
from bertft_core.base.errors import ConfigError
from bertft_core.base.files import MANIFEST
from bertft_core.base.hashes import encoder_fingerprint
from bertft_core.config.fit import class_weight_faults, target_faults
from bertft_core.config.multi_task import load_multi_task
from bertft_core.config.run import RunConfig
from bertft_core.config.search import values_of
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.splits import SPLITS
from bertft_core.data.tokens.tokenization import TokenizedSplits, tokenize_splits
from bertft_core.data.tokens.twins import without_twins
from bertft_core.evaluation.scores.extra import require_metrics
from bertft_core.model.pretrained import resolve_pretrained

OnProgress = Callable[[str, int, int | None], None]  # what, how many, of how many where that is known
MadeFirst = Adaptation | MultiTask  # an encoder that is made before the fits, of text or of several tasks


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything a fit needs to know of its data and encoder; small enough to pass between tasks.

    dataset: the rows of the splits, on disk
    tokens: their ids, on disk
    pretrained: the folder of the encoder that a fit begins with; as long as an adaptation is planned alone, of its base
    encoder: the fingerprint of its files; of one that is made first its key
    adaptation: what makes that, further pre-training or a training on several tasks; None where fits begin with the
    configured encoder
    """

    dataset: DatasetSplits
    tokens: TokenizedSplits
    pretrained: str
    encoder: str
    adaptation: MadeFirst | None = None

    @property
    def base_encoder(self) -> str:
        """The fingerprint of the configured encoder, whether fits begin with it or with an adapted one."""
        return self.adaptation.base_encoder if self.adaptation else self.encoder

    def standing_on(self, adaptation: MadeFirst | None) -> Prepared:
        """The same rows and tokens for another beginning: the adapted encoder, or the configured one (None)."""
        if adaptation is not None:
            folder = adaptation.folder or adaptation.base
            return replace(self, adaptation=adaptation, pretrained=folder, encoder=adaptation.key)
        mine = self.adaptation
        return self if mine is None else replace(self, adaptation=None, pretrained=mine.base, encoder=mine.base_encoder)


def ingest(config: RunConfig, home: Path, on_progress: OnProgress | None = None) -> DatasetSplits:
    """Read, gate and split the rows; content-addressed under home/data. Raises ConfigError as `require_targets`."""
    dataset = prepare_dataset(config.data, home / "data", config.base_dir, on_progress)
    require_targets(config, dataset)
    return dataset


def tokenize(config: RunConfig, dataset: DatasetSplits, home: Path, on_progress: OnProgress | None = None) -> Prepared:
    """Cut and tokenize each split once for the configured encoder; content-addressed under home/tokens.

    Rows of train and validation that this encoder cannot tell from a row nearer to test are left out, cut ones stay.
    """
    pretrained = resolve_pretrained(config)
    tokens = tokenize_splits(dataset, pretrained, config.tokenization, home / "tokens", on_progress)
    if any(tokens.twins[split] for split in SPLITS[:2]):
        encoder, limit = config.model.pretrained, config.data.max_faulty_share
        gated, dataset = dataset, without_twins(dataset, tokens.path, home / "data", encoder, limit)
        if dataset.path != gated.path:
            tokens = tokenize_splits(dataset, pretrained, config.tokenization, home / "tokens", on_progress)
    return Prepared(dataset=dataset, tokens=tokens, pretrained=str(pretrained), encoder=encoder_fingerprint(pretrained))


def prepare(config: RunConfig, home: Path, on_progress: OnProgress | None = None) -> Prepared:
    """Ingest and tokenize; looks for the encoder first, so that a wrong one costs no reading."""
    resolve_pretrained(config)
    return tokenize(config, ingest(config, home, on_progress), home, on_progress)


def planned(config: RunConfig, prepared: Prepared, home: Path, on_progress: OnProgress | None = None) -> Prepared:
    """`prepared` with the name of the encoder that is made first, by adaptation or on several tasks, where one is."""
    base = (Path(prepared.pretrained), prepared.encoder)
    if config.multi_task is not None:
        return prepared.standing_on(_planned_together(config, config.multi_task, prepared, home, on_progress))
    if not config.is_adapted:
        return prepared
    return prepared.standing_on(plan_adaptation(config, prepared.dataset, base, home, on_progress))


def _planned_together(
    config: RunConfig, file: str, prepared: Prepared, home: Path, on_progress: OnProgress | None
) -> MultiTask:
    multi, tasks = load_multi_task(config.base_dir / file), {}
    for name, task in multi.configurations().items():
        rows = prepare(task, home, on_progress)
        if rows.encoder != prepared.encoder:
            raise ConfigError(
                f"tasks.{name}: model.pretrained is {task.model.pretrained!r}, this run has "
                f"{config.model.pretrained!r}: tasks that share an encoder name the same"
            )
        tasks[name] = Task(config=task, dataset=rows.dataset, tokens=rows.tokens)
    base = (Path(prepared.pretrained), prepared.encoder)
    return plan_multi_task(multi, tasks, prepared.dataset, base, home)


def prepare_for(
    config: RunConfig, chosen: RunConfig, prepared: Prepared, home: Path, on_progress: OnProgress | None = None
) -> Prepared:
    """`prepared` for a configuration that differs from `config` in searched values: another encoder, other cuts."""
    is_same = chosen.model.pretrained == config.model.pretrained
    adaptation = prepared.adaptation if is_same and chosen.model.adapted else None
    if not is_same or chosen.tokenization != config.tokenization:
        prepared = tokenize(chosen, prepared.dataset, home, on_progress)
    else:
        prepared = at_hand(config, prepared, home)
    return prepared.standing_on(adaptation)


def at_hand(config: RunConfig, prepared: Prepared, home: Path) -> Prepared:
    """`prepared`, whose tokens are made again, or fetched, where somebody removed them since."""
    files = (MANIFEST, *(f"{split}.arrow" for split in SPLITS))
    if not all((prepared.tokens.path / file).is_file() for file in files):
        tokenize_splits(prepared.dataset, Path(prepared.pretrained), config.tokenization, home / "tokens")
    return prepared


def require_targets(config: RunConfig, dataset: DatasetSplits) -> None:
    """Raises ConfigError naming each key without a meaning for these labels, classes and metrics that are absent."""
    require_metrics(config.evaluation.extra_metrics)
    training, decision = config.training, config.decision
    weights = training.class_weights
    faults = target_faults(training.loss, config.evaluation.metric, multi_label=dataset.multi_label)
    if isinstance(weights, dict):
        faults += class_weight_faults(weights, dataset.classes)
    if dataset.multi_label:
        faults += [
            f"decision.{key} wants one class per row, this data is multi-label: leave it out"
            for key in ("thresholds", "costs", "abstain_accuracy")
            if getattr(decision, key) is not None
        ]
        space = config.search.space if config.search and config.search.trials else {}
        if "tau" in space:
            faults.append("search.space.tau has no effect on multi-label data: take it out")
        if "loss" in space and "logit_adjusted" in values_of(space["loss"]):
            faults.append("search.space.loss: logit_adjusted wants one class per row, this data is multi-label")
    if faults:
        raise ConfigError("\n".join(faults))
