"""A night as MLflow and a person read it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from bertft_core.base.files import write_json, write_text
from bertft_core.base.names import file_name
from bertft_core.base.text import plain
from bertft_core.config.store import Store
from bertft_core.evaluation.drift.report import DriftReport, draw_drift
from bertft_core.recipe.nights.log import CANCELLED, FAILED, FORMER, OUTCOMES, REJECTED, SKIPPED, Night, seconds_of
from bertft_core.registry import artifacts
from bertft_core.reporting.html.values import duration
from bertft_core.reporting.night.document import NightPage, night_html
from bertft_core.tracking import store as tracking

_OF_ROWS = {"new", "deleted", "relabelled"}
_NIGHT = "night"  # the role of its run
_FORMER = "bertft.night_facts"  # as an earlier release has it
_MORE = f"{tracking.HIDDEN}{_FORMER}"  # a tag: what of a night no other tag and no metric says, as JSON
_MOST = 8000  # signs that MLflow keeps of a tag


def night_run(store: Store, name: str, night: str, started: str, tags: dict[str, str] | None = None) -> str:
    """The MLflow run of the night that stands for `night` and began at `started` (ISO 8601), made when missing."""
    began, key = seconds_of(started), f"{name} {started}"
    known = {tracking.NAME: name, "bertft.night": night, **(tags or {})}
    return tracking.find_or_create_run(
        store, key, _NIGHT, name=f"{name} night {night}", tags=known, started=began or None
    )


def cancel_night(store: Store, run_id: str) -> None:
    """End the MLflow run of a cancelled night, in few requests: its process has seconds left."""
    tags = {"bertft.outcome": FAILED, "bertft.reason": CANCELLED, tracking.NOTE: f"{FAILED}: {CANCELLED}"}
    tracking.set_tags(store, run_id, tags)
    tracking.finish_run(store, run_id, killed=True)


def night_runs(store: Store, name: str, since: float = 0.0) -> list[Any]:
    """The MLflow runs of the nights of `name` that began at `since` (seconds since 1970) or later."""
    return tracking.find_runs(store, {tracking.ROLE: _NIGHT, tracking.NAME: name}, since)


def nights_in(store: Store, name: str, since: float = 0.0) -> list[Night]:
    """The nights that `night_runs` finds and that ended in an outcome."""
    return nights_of(night_runs(store, name, since), name)


def nights_of(runs: list[Any], name: str) -> list[Night]:
    """The nights of these MLflow runs that ended in an outcome."""
    return [_night_of(run, name) for run in runs if run.data.tags.get("bertft.outcome") in {*OUTCOMES, *FORMER}]


def end_killed_nights(store: Store, runs: list[Any], name: str, tonight: str) -> dict[str, float]:
    """End in MLflow the nights of `runs` that were killed at work, with what lies below them; all but `tonight`.

    Returns, by their beginnings, when they are known to have ended, in seconds since 1970.
    """
    running = {_began(run, name): run for run in runs if run.info.status == "RUNNING"}
    return {began: tracking.end_killed(store, run) for began, run in running.items() if began != tonight}


def _began(run: Any, name: str) -> str:
    return str(run.data.tags.get(tracking.RUN_KEY, "")).removeprefix(f"{name} ")


def _night_of(run: Any, name: str) -> Night:
    tags, numbers = run.data.tags, dict(run.data.metrics)
    seconds = numbers.pop("seconds", 0.0)
    try:
        more = json.loads(tags.get(_MORE, tags.get(_FORMER, "")))
    except ValueError:  # written by an earlier release, or cut: the numbers tell most of it
        more = {"facts": numbers}
    return Night(
        night=tags.get("bertft.night", ""),
        started=_began(run, name),
        outcome=FORMER.get(tags["bertft.outcome"], tags["bertft.outcome"]),
        reason=tags.get("bertft.reason", ""),
        seconds=seconds,
        run_id=tags.get("bertft.pipeline_run") or None,
        version=tags.get("bertft.version") or None,
        facts=more.get("facts") or {},
        clock=str(more.get("clock") or ""),
    )


def log_night(night: Night, name: str, store: Store, prefect_run: str, drift: DriftReport | None) -> str:
    """Write the night's page, home/nights/NAME.html for the latest one, and its MLflow run, once; the run's id."""
    page = Path(store.home) / "nights" / f"{file_name(name)}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, night_html(_page(night, name, drift)))
    more = json.dumps({"facts": night.facts, "clock": night.clock}, ensure_ascii=False, default=str)
    tags = {
        "bertft.outcome": night.outcome,
        "bertft.reason": night.reason[:5000],
        "bertft.pipeline_run": night.run_id or "",
        "bertft.version": night.version or "",
        "prefect.flow_run_id": prefect_run,
        tracking.NOTE: f"{night.outcome}: {plain(night.reason)}"[:5000],
        _MORE: more[:_MOST],
    }
    run_id = night_run(store, name, night.night, night.started, tags)
    numbers = {k: float(v) for k, v in night.facts.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    tracking.log_metrics(store, run_id, {"seconds": night.seconds, **numbers})
    tracking.log_files(store, run_id, [page])
    if drift is not None:
        with tempfile.TemporaryDirectory(dir=store.home, prefix=artifacts.SCRATCH) as scratch:
            folder = Path(scratch)
            write_json(folder / "drift.json", drift.to_json())
            write_text(folder / "drift.md", drift.to_markdown() + "\n![](drift.png)\n")
            draw_drift(drift).savefig(folder / "drift.png")
            tracking.log_files(store, run_id, [folder], "drift")
    ended = night.began + night.seconds if night.began else None
    tracking.finish_run(store, run_id, failed=night.outcome in (FAILED, REJECTED), ended=ended)
    return run_id


def as_markdown(night: Night, name: str, board: str) -> str:
    """What a person reads in Prefect. board: where the page over all models is, an address or a file."""
    facts = [*_trained(night), *_numbers(night), ("seconds", _shown(night.seconds))]
    rows = "".join(f"| {key} | {plain(value)} |\n" for key, value in facts)
    title = f"# {plain(name)}, night {night.night}: {night.outcome}"
    all_models = f"[All models]({board})" if board.startswith("http") else f"All models: {plain(board)}"
    return f"{title}\n\n{plain(night.reason)}\n\n| fact | value |\n|---|---:|\n{rows}\n{all_models}\n"


def _page(night: Night, name: str, drift: DriftReport | None) -> NightPage:
    """What a person reads in a browser."""
    return NightPage(
        title=name,
        night=night.night,
        outcome=night.outcome,
        reason=night.reason,
        is_good=False if night.is_to_be_told else None if night.outcome == SKIPPED else True,
        facts=(
            ("began", f"{night.started[:16].replace('T', ' ')} UTC"),
            ("took", duration(night.seconds)),
            *_trained(night),
        ),
        numbers=tuple(
            (f"{stage} took", duration(value))
            if (stage := key.removeprefix("seconds_")) != key
            else (f"{key} rows" if key in _OF_ROWS else key.replace("_", " "), _shown(value))
            for key, value in night.facts.items()
        ),
        drift=drift,
    )


def _trained(night: Night) -> list[tuple[str, str]]:
    return [] if night.version is None else [("version", night.version), ("run", str(night.run_id))]


def _numbers(night: Night) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), _shown(value)) for key, value in night.facts.items()]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
