"""What the gate decides on: a candidate's files, and its rivals scored on the same rows by their own code."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertft_core.base.errors import ArtifactError, InputError
from bertft_core.base.files import read_json
from bertft_core.config.promotion import PromotionRule
from bertft_core.config.store import Store
from bertft_core.evaluation.gate.checks import Check, label_set_check, latency_check, seen_rows_check, size_check
from bertft_core.evaluation.gate.decision import PromotionDecision, decide
from bertft_core.registry import aliases, artifacts, entries, ledger
from bertft_core.registry.answers import NOTHING_SCORED, Answers, Scored, score_in_fresh_process
from bertft_core.registry.entries import Entries
from bertft_core.registry.evaluation_folder import TRAIN_ROWS, EvaluationFolder

OTHER_BATCH = 7  # rows: another batch size than the evaluation's token budget gives


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

    @property
    def uri(self) -> str:
        """The version as MLflow names it."""
        return self.uri_of(self.version)

    def uri_of(self, version: str) -> str:
        """Another version of the same model, as MLflow names it."""
        return f"models:/{self.name}/{version}"


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """Whom the candidate is compared with: answers by version, fingerprints of the rows those were trained on.

    champion: None where there is none yet. anchor: the last version promoted by superiority, None where the rule
    does not ask for it.
    """

    champion: str | None
    anchor: str | None
    answers: dict[str, Answers]
    trained_on: Any

    @property
    def is_empty(self) -> bool:
        """Nobody to compare with."""
        return not self.answers

    def of(self, version: str | None, classes: tuple[str, ...], kept: Any) -> tuple[Any, Any]:
        """(probabilities, decisions) on the rows kept; (None, None) for nobody."""
        if version is None:
            return None, None
        found = self.answers[version]
        return found.probabilities(classes)[kept], found.predicted(classes)[kept]


def rival_versions(rule: PromotionRule, known: Entries, champion: str | None) -> tuple[str | None, list[str]]:
    """(anchor, every version that a candidate is compared with); see `Rivals`."""
    anchor = entries.anchor(known) if rule.test == "non_inferiority" and champion else None
    return anchor, [version for version in dict.fromkeys((champion, anchor)) if version]


def judge(
    candidate: Candidate, champion: str | None, store: Store, scored: Scored = NOTHING_SCORED
) -> PromotionDecision:
    """Apply the rule to the candidate and the champion (None: there is none yet).

    scored: answers of rivals; those that are missing are computed. Raises InputError when the label sets
    differ or the champion has seen every row, ArtifactError when a rival does not load.
    """
    rule, known = store.config.promotion_rule(candidate.metric), ledger.read(store, candidate.name)
    anchor, versions = rival_versions(rule, known, champion)
    rivals = Rivals(
        champion=champion,
        anchor=anchor,
        answers={version: _answers(candidate, version, store, scored) for version in versions},
        trained_on=np.concatenate([np.zeros(0, np.uint64), *(_trained_on(candidate, v, store) for v in versions)]),
    )
    same = champion is not None and _weights(candidate.name, champion, store) == candidate.weights_digest
    return judge_against(
        candidate, rivals, rule, spent=entries.spent(known, rule.allowed, time.time()), same_weights=same
    )


def judge_against(
    candidate: Candidate, rivals: Rivals, rule: PromotionRule, *, spent: int, same_weights: bool
) -> PromotionDecision:
    """Apply the rule on the rows that no rival was trained on. Raises InputError when no row is left."""
    folder, classes = candidate.folder, candidate.classes
    rows = np.load(folder.test_fingerprints, allow_pickle=False)
    kept = ~np.isin(rows, rivals.trained_on)
    if not kept.any():
        raise InputError(
            f"version {rivals.champion} was trained on all {len(rows)} test rows: no row is left to compare on"
        )
    given = _measured(candidate, rule)
    given += [] if rivals.is_empty else [seen_rows_check(int((~kept).sum()), len(rows))]

    def own(file: Path) -> Any:
        return np.load(file, allow_pickle=False)[kept] if file.exists() else None

    p_champion, champion_says = rivals.of(rivals.champion, classes, kept)
    p_anchor, anchor_says = rivals.of(rivals.anchor, classes, kept)
    with np.load(folder.slices, allow_pickle=False) as stored:
        slices = {name: stored[name][kept] for name in stored.files}
    return decide(
        rule,
        own(folder.labels),
        own(folder.probabilities),
        p_champion,
        classes,
        weights=own(folder.weights),
        same_weights=same_weights,
        challenger_name=f"version {candidate.version}",
        champion_name=f"version {rivals.champion}",
        anchor_name=f"version {rivals.anchor}",
        p_anchor=p_anchor,
        predicted_challenger=own(folder.predicted),
        predicted_champion=champion_says,
        predicted_anchor=anchor_says,
        slices=slices,
        spent=spent,
        given=given,
    )


def _answers(candidate: Candidate, version: str, store: Store, scored: Scored) -> Answers:
    """What a rival answers on the candidate's test rows. Raises InputError when it knows other classes."""
    found = scored.answers.get(version) or score_in_fresh_process(
        candidate.uri_of(version), candidate.folder.test_rows, candidate.folder.answers(version), OTHER_BATCH, store
    )
    check = label_set_check(candidate.classes, found.classes)
    if not check.passed:
        raise InputError(f"version {version}: {check.detail}")
    return found


def _trained_on(candidate: Candidate, version: str, store: Store) -> Any:
    """Fingerprints of the rows that a version was trained on; none when its evidence does not say."""
    try:
        return np.load(artifacts.download_evidence(store, candidate.name, version, TRAIN_ROWS), allow_pickle=False)
    except ArtifactError:
        return np.zeros(0, dtype=np.uint64)


def _weights(name: str, version: str, store: Store) -> str | None:
    return aliases.version_tags(store, name, version).get("bertft.weights")


def _measured(candidate: Candidate, rule: PromotionRule) -> list[Check]:
    """Latency and size, where the rule asks for them; latency is the parity check's, one row at a time."""
    checks = []
    if rule.max_latency_ms is not None:
        facts = read_json(f"{candidate.folder.answers(candidate.version)}.json")
        checks.append(latency_check(facts["latency_ms"], rule.max_latency_ms))
    if rule.max_size_mb is not None:
        checks.append(size_check(candidate.size_mb, rule.max_size_mb))
    return checks
