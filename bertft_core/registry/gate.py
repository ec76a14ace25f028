"""What the gate decides on: a candidate's files, and its rivals scored on the same rows by their own code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bertft_core.base.clock import Stamp
from bertft_core.base.errors import ArtifactError, InputError
from bertft_core.base.files import load_array
from bertft_core.config.promotion import PromotionRule
from bertft_core.config.store import MlflowConfig, Store
from bertft_core.evaluation.gate.checks import (
    TRAINING,
    Check,
    label_set_check,
    latency_check,
    seen_rows_check,
    size_check,
    uncompared_check,
)
from bertft_core.evaluation.gate.comparison import GateRows, Model
from bertft_core.evaluation.gate.decision import PromotionDecision, decide
from bertft_core.registry import aliases, artifacts, entries
from bertft_core.registry.answers import Answers, Scorer, require, score_in_fresh_process
from bertft_core.registry.evaluation_folder import EvaluationFolder
from bertft_core.registry.ledger import ModelView
from bertft_core.tracking.store import WEIGHTS

OTHER_BATCH = 7  # rows: another batch size than the evaluation's token budget gives
CHEAPER = 0.01  # of the deciding metric, that a cheaper form may be worse, where promotion.margin is null
PARITY = 1e-5  # largest difference between a served probability and the evaluation's


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A registered version and the folder with what the gate works on (see `write_gate_rows`)."""

    name: str
    version: str
    classes: tuple[str, ...]
    folder: EvaluationFolder
    metric: str
    weights_digest: str
    size_mb: float
    fault: str = ""  # why its fit says nothing (`TrainingResult.fault`)
    parent: str = ""  # the version that it is a cheaper form of

    def rule(self, config: MlflowConfig) -> PromotionRule:
        """The rule that it is judged by.

        A cheaper form of a version need not be better: it is promoted where it is shown not to be worse than the
        champion by promotion.margin, or by CHEAPER where that is null. All other conditions stay.
        """
        rule = config.promotion_rule(self.metric)
        if not self.parent or rule.test == "non_inferiority":
            return rule
        return replace(rule, test="non_inferiority", margin=CHEAPER, min_gain=0.0)

    @property
    def uri(self) -> str:
        """The version as MLflow names it."""
        return self.uri_of(self.version)

    def uri_of(self, version: str) -> str:
        """Another version of the same model, as MLflow names it."""
        return f"models:/{self.name}/{version}"


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A version that the candidate is compared with, on the same rows.

    answers: to the candidate's test rows. trained_on: fingerprints of the rows that it was trained on, uint64.
    """

    version: str
    answers: Answers
    trained_on: Any


def rival_versions(rule: PromotionRule, view: ModelView, champion: str | None) -> tuple[str | None, list[str]]:
    """(anchor, every version that a candidate is compared with); the anchor counts under non_inferiority alone."""
    anchor = entries.anchor(view.entries) if rule.test == "non_inferiority" and champion else None
    return anchor, [version for version in dict.fromkeys((champion, anchor)) if version]


def check_parity(candidate: Candidate, view: ModelView, scorer: Scorer) -> None:
    """Fresh process, downloaded artefact, another batch size: predictions must equal the evaluation's to 1e-5.

    The versions it will be compared with answer in the same go, which saves a start; their answers lie in the
    candidate's folder. Raises ArtifactError where the candidate fails or predicts otherwise.
    """
    folder, rule = candidate.folder, candidate.rule(view.store.config)
    _, rivals = rival_versions(rule, view, None if view.champion_fault else view.champion)
    outs = {candidate.uri_of(version): folder.answers(version) for version in (candidate.version, *rivals)}
    answers = scorer.answers(outs, folder.test_rows, OTHER_BATCH)
    served = require(answers[candidate.uri])
    evaluated = load_array(folder.probabilities)
    gap = float(np.abs(served.probabilities(candidate.classes) - evaluated).max())
    if not gap <= PARITY:
        raise ArtifactError(
            f"{candidate.uri} predicts other probabilities than its evaluation (largest difference {gap:.2e}, wanted "
            f"<= {PARITY:g}): not promoted; look at the served folder and the library versions"
        )


def judge(candidate: Candidate, view: ModelView, champion: str | None, fault: str = "") -> PromotionDecision:
    """Apply the rule to the candidate and the champion (None: there is none yet, or `fault` keeps it from being one).

    Answers of rivals that do not lie in the candidate's folder are computed. Raises InputError when the label sets
    differ or the champion has seen every row, ArtifactError when a rival does not load.
    """
    rule = candidate.rule(view.store.config)
    now, _ = entries.time_now(view.entries, Stamp.now())
    anchor, versions = rival_versions(rule, view, champion)
    rivals = {version: _rival(candidate, version, view.store) for version in versions}
    is_same = False
    if champion is not None:
        tags = aliases.get_version(view.store, view.name, champion).tags
        is_same = tags.get(WEIGHTS) == candidate.weights_digest
    return judge_against(
        candidate,
        rule,
        None if champion is None else rivals[champion],
        None if anchor is None else rivals[anchor],
        spent=entries.spent(view.entries, rule.allowed, now),
        same_weights=is_same,
        fault=fault,
    )


def judge_against(
    candidate: Candidate,
    rule: PromotionRule,
    champion: Rival | None,
    anchor: Rival | None,
    *,
    spent: int,
    same_weights: bool,
    fault: str = "",
) -> PromotionDecision:
    """Apply the rule on the rows that no rival was trained on. Raises InputError when no row is left.

    fault: why a champion that there is cannot be compared with.
    """
    folder, classes = candidate.folder, candidate.classes
    rivals = [rival for rival in (champion, anchor) if rival]
    rows = load_array(folder.test_fingerprints)
    unseen = ~np.isin(rows, np.concatenate([np.zeros(0, np.uint64), *(rival.trained_on for rival in rivals)]))
    if rivals and not unseen.any():
        raise InputError(
            f"version {rivals[0].version} was trained on all {len(rows)} test rows: no row is left to compare on"
        )
    own_checks = [uncompared_check(fault)] if fault else []
    if candidate.fault and rule.baseline != "off":
        own_checks.append(Check(name=TRAINING, passed=False, detail=candidate.fault))
    if rule.max_latency_ms is not None:  # as the parity check measured it, one row at a time
        own_checks.append(
            latency_check(Answers.read(folder.answers(candidate.version)).latency_ms, rule.max_latency_ms)
        )
    if rule.max_size_mb is not None:
        own_checks.append(size_check(candidate.size_mb, rule.max_size_mb))
    if rivals:
        own_checks.append(seen_rows_check(int((~unseen).sum()), len(rows)))

    def own(file: Path) -> Any:
        return load_array(file)[unseen] if file.exists() else None

    def model_of(rival: Rival | None) -> Model | None:
        if rival is None:
            return None
        p, predicted = rival.answers.probabilities(classes), rival.answers.predicted(classes)
        return Model(name=f"version {rival.version}", p=p[unseen], predicted=predicted[unseen])

    with load_array(folder.slices) as stored:
        slices = {name: stored[name][unseen] for name in stored.files}
    return decide(
        rule,
        GateRows(
            labels=own(folder.labels),
            classes=classes,
            weights=own(folder.weights),
            groups=own(folder.groups),
            slices=slices,
            baseline=own(folder.baseline),
            shares=load_array(folder.shares) if folder.shares.exists() else None,
        ),
        Model(name=f"version {candidate.version}", p=own(folder.probabilities), predicted=own(folder.predicted)),
        model_of(champion),
        model_of(anchor),
        spent=spent,
        same_weights=same_weights,
        own_checks=own_checks,
    )


def _rival(candidate: Candidate, version: str, store: Store) -> Rival:
    """A version with its answers and training rows. Raises InputError when it knows other classes."""
    file, rows = candidate.folder.answers(version), candidate.folder.test_rows
    answers = Answers.known(file) or score_in_fresh_process(candidate.uri_of(version), rows, file, OTHER_BATCH, store)
    check = label_set_check(candidate.classes, answers.classes)
    if not check.passed:
        raise InputError(f"version {version}: {check.detail}")
    known = artifacts.trained_on(store, candidate.name, version)
    trained_on = np.zeros(0, dtype=np.uint64) if known is None else known
    return Rival(version=version, answers=answers, trained_on=trained_on)
