"""One model as the board shows it: from its ledger and aliases, its log of nights and the results of its runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertft_core.base.clock import Stamp
from bertft_core.base.errors import DamagedFile, LostError, fault_text
from bertft_core.base.text import rows_text
from bertft_core.config.metrics import METRICS, as_score, metric_title
from bertft_core.config.promotion import PromotionRule
from bertft_core.config.store import Store
from bertft_core.evaluation.gate.comparison import least_shown, standard_error
from bertft_core.recipe.nights.log import Night, NightLog
from bertft_core.recipe.runs import RunFolder, run_at
from bertft_core.registry import entries, ledger, overrides, remembered
from bertft_core.registry.entries import LedgerEntry
from bertft_core.registry.ledger import ModelView
from bertft_core.reporting.board.page import Champion, Decision, Drift, Interval, ModelCard, NightMark, Notice, Power

_TARGET = 0.02  # a gain that people ask for
_HOW = {  # how a version became champion
    entries.PROMOTED: "a promotion",
    entries.FORCED: "a forced promotion",
    entries.APPROVED: "an approved promotion",
    entries.ROLLED_BACK: "a rollback",
    entries.NOTICED: "a change outside bertft",
    entries.ADOPTED: "adopting the registry",
}
Results = dict[tuple[str, str], tuple[RunFolder, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Witnesses:
    """What a home has of a model. results: of its registered runs, by registered model and version."""

    logs: tuple[NightLog, ...]
    results: Results


def results_of(home: Path) -> Results:
    """The results of the runs of a home that were registered; one that cannot be read is left to `bertft doctor`."""
    found: Results = {}
    for path in (home / "runs").glob("[!.]*/"):
        try:
            result = run_at(path).result or {}
        except (OSError, DamagedFile):
            continue
        if result.get("registered_model") and result.get("version"):
            found[str(result["registered_model"]), str(result["version"])] = RunFolder(path), result
    return found


def seen(store: Store, name: str, home: Witnesses, *, is_asked: bool) -> ModelCard:
    """All about one model. is_asked: whether its registry is; else what the home knows of it alone."""
    waiting: list[Notice] = []
    notes: list[str] = []
    view: ModelView | None = None
    if is_asked:
        try:
            view = ledger.view_model(store, name)
            waiting += _waiting(view)
        except Exception as fault:  # whatever the registry's client raises: the other models are shown all the same
            waiting.append(
                Notice(text=f"cannot be read: {fault_text(fault)}", command=f"bertft history {shlex.quote(name)}")
            )
    elif known := [one for one in remembered.recall(store, name) if one.version]:
        notes.append(f"as this home remembers it, {known[-1]} is champion")
    waiting += [notice for log in home.logs for notice in _nights_waiting(log)]
    decided = entries.carried_out(view.entries) if view else ()
    scored = [entry for entry in decided if entry.numbers.get("metric") in METRICS]
    metric = str(scored[-1].numbers["metric"]) if scored else ""
    if barred := sorted(entries.rolled_back(decided), key=int):
        which = f"version {barred[0]} was" if len(barred) == 1 else f"versions {', '.join(barred)} were"
        command = f'bertft promote {shlex.quote(name)} VERSION --force --reason "…"'
        notes.append(f"{which} rolled back; only `{command}` promotes again")
    nights = sorted(((night, log) for log in home.logs for night in log.nights()), key=lambda pair: pair[0].began)
    return ModelCard(
        name=name,
        champion=_champion(view, metric, home) if view else None,
        is_read=view is not None or not is_asked,
        metric=metric_title(metric) if metric else "",
        nights=tuple(
            NightMark(
                night=night.night,
                outcome=night.outcome,
                reason=night.reason,
                version=night.version,
                name=log.file.stem if len(home.logs) > 1 else "",
            )
            for night, log in nights
        ),
        decisions=tuple(_decision(name, entry, metric, home) for entry in decided),
        power=_power(store.config.promotion_rule(metric), scored) if scored else None,
        drift=_drift([night for night, _ in nights]),
        at_work=tuple(work[0].started for log in home.logs if (work := log.at_work(Stamp.now()))),
        night_page=_night_page(nights[-1][1], Path(store.home)) if nights else "",
        waiting=tuple(waiting),
        notes=(*notes, *(f"not read: {fault}" for log in home.logs for fault in log.faults())),
    )


def _waiting(view: ModelView) -> Iterator[Notice]:
    """What of a registered model a person has to decide."""
    store, name = view.store, shlex.quote(view.name)
    try:
        remembered.require_explained(store, view.name, view.entries)
    except LostError as fault:
        yield Notice(text=str(fault), command=f"bertft adopt {name}")
        return
    if view.champion_fault:
        yield Notice(
            text=f"the champion cannot be compared with: {view.champion_fault}; restore it, or return to another",
            command=f'bertft rollback {name} --reason "…"',
        )
    for version, entry in overrides.awaited(view).items():
        reason = entry.reason.partition("; finish with")[0].removeprefix("awaiting approval: ")
        yield Notice(
            text=f"version {version} awaits approval: {reason}", command=f"bertft promote {name} {version} --approve"
        )
    if hold := entries.hold(view.entries):
        yield Notice(text=f"nothing is promoted, on hold: {hold}", command=f'bertft resume {name} --reason "…"')
    for entry in view.entries:
        if entry.state == entries.PENDING:
            text = f"decision {entry.number} ({entry.action} version {entry.version}) was announced and not carried out"
            yield Notice(text=f"{text}; looking at it finishes it", command=f"bertft history {name}")


def _nights_waiting(log: NightLog) -> Iterator[Notice]:
    """What of the last night of a configuration a person has to look at."""
    if not (nights := log.nights()) or not (last := nights[-1]).is_to_be_told:
        return
    yield Notice(text=f"night {last}", command=f"bertft nights {shlex.quote(log.file.stem)}")


def _night_page(log: NightLog, home: Path) -> str:
    page = log.file.with_suffix(".html")
    return str(page.relative_to(home)) if page.is_file() else ""


def _champion(view: ModelView, metric: str, home: Witnesses) -> Champion | None:
    version = view.champion
    if version is None:
        return None
    entry = entries.champion_entry(view.entries, version)
    folder, result = home.results.get((view.name, version), (None, {}))
    about = [e for e in entries.carried_out(view.entries) if e.version == version and e.numbers.get("metric") == metric]
    own = _own_direction(metric, about[-1], "challenger_score") if about else None
    page = folder.evaluation.page if folder else None
    return Champion(
        version=version,
        since=entry.at if entry else "",
        how=_HOW[entry.action] if entry else "",
        by=entry.by if entry else "",
        score=own,
        interval=_interval(result, metric),
        report=str(page.relative_to(view.store.home)) if page and page.is_file() else "",
    )


def _decision(name: str, entry: LedgerEntry, metric: str, home: Witnesses) -> Decision:
    is_scored = bool(metric) and entry.numbers.get("metric") == metric
    return Decision(
        number=entry.number,
        at=entry.at,
        action=entry.action.replace("_", " ") + (" (not carried out yet)" if entry.state == entries.PENDING else ""),
        version=entry.version,
        champion=entry.to_version,
        by=entry.by,
        reason=entry.reason,
        score=_own_direction(metric, entry, "challenger_score") if is_scored else None,
        interval=_interval(home.results.get((name, entry.version), (None, {}))[1], metric) if is_scored else None,
        champion_score=_own_direction(metric, entry, "champion_score") if is_scored else None,
        is_promotion=entry.action in entries.PROMOTIONS,
        is_rollback=entry.action == entries.ROLLED_BACK,
    )


def _own_direction(metric: str, entry: LedgerEntry, key: str) -> float | None:
    """A score of the ledger, where higher is better, as its metric has it."""
    value = entry.numbers.get(key)
    return as_score(metric, float(value)) if isinstance(value, int | float) else None


def _interval(result: dict[str, Any], metric: str) -> Interval | None:
    pair = result.get("test", {}).get(f"{metric}_interval")
    return (float(pair[0]), float(pair[1])) if pair else None


def _power(rule: PromotionRule, scored: Sequence[LedgerEntry]) -> Power:
    """What the test rows of the last comparison can show under today's rule."""
    compared = [e.numbers for e in scored if e.numbers.get("interval") and e.numbers.get("alpha") == rule.alpha]
    numbers = compared[-1] if compared else scored[-1].numbers
    n, groups = int(numbers.get("n", 0)), numbers.get("groups")
    on = f"On {rows_text(n, groups)} for the gate"
    if not compared:
        return Power(n=n, groups=groups, sentence=f"{on}; no two versions were compared on them under today's rule.")
    low, high = numbers["interval"]
    least = least_shown(rule, standard_error((low, high), rule.level), groups or n)
    title = metric_title(rule.metric)
    if rule.test == "non_inferiority":
        said = f"an equal model is shown not to be worse by a margin of about {least:.3f} in {title}"
    else:
        least += rule.min_gain
        said = f"a version is shown to be better from about {least:.3f} in {title}"
    said = f"{on} {said} (80 % power, {rule.allowed} decisions a {rule.per})"
    if rule.metric != "log_loss" and least > _TARGET:
        needed = round(n * (least / _TARGET) ** 2, -2)
        said += f"; {_TARGET:g} would take about {needed:,.0f} rows"
    return Power(n=n, groups=groups, least=least, sentence=f"{said}.")


def _drift(nights: Sequence[Night]) -> tuple[Drift, ...]:
    """What was measured last of each kind of drift, and when."""
    kinds: dict[str, tuple[str, Callable[[float], str]]] = {
        "text_auroc": ("text drift", lambda v: f"AUROC {v:.2f}"),
        "label_distance": ("class shares", lambda v: f"differ by {v:.2f}"),
        "champion_on_new": ("champion on new rows", lambda v: f"{100 * v:.1f} % right"),
    }
    found = []
    for key, (name, written) in kinds.items():
        measured = [night for night in nights if isinstance(night.facts.get(key), int | float)]
        if measured:
            last = measured[-1]
            found.append(Drift(name=name, value=written(last.facts[key]), night=last.night))
    return tuple(found)
