"""A night as MLflow and a person read it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bertft_core.base.files import write_json, write_text
from bertft_core.base.names import file_name
from bertft_core.base.text import plain
from bertft_core.config.store import Store
from bertft_core.evaluation.drift.report import DriftReport, draw_drift
from bertft_core.recipe.nights.log import FAILED, REJECTED, SKIPPED, Night
from bertft_core.registry import artifacts
from bertft_core.reporting.html.values import duration
from bertft_core.reporting.night.document import NightPage, night_html
from bertft_core.tracking import store as tracking

_OF_ROWS = {"new", "deleted", "relabelled"}


def log_night(night: Night, name: str, store: Store, prefect_run: str, drift: DriftReport | None) -> str:
    """Write the night's page, home/nights/NAME.html for the latest one, and its MLflow run, once; the run's id."""
    page = Path(store.home) / "nights" / f"{file_name(name)}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, night_html(_page(night, name, drift)))
    tags = {
        "bertft.name": name,
        "bertft.night": night.night,
        "bertft.outcome": night.outcome,
        "bertft.reason": night.reason[:5000],
        "bertft.pipeline_run": night.run_id or "",
        "bertft.version": night.version or "",
        "prefect.flow_run_id": prefect_run,
        tracking.NOTE: f"{night.outcome}: {plain(night.reason)}"[:5000],
    }
    key = f"{name} {night.started}"
    run_id = tracking.find_or_create_run(store, key, "night", name=f"{name} night {night.night}", tags=tags)
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
    tracking.finish_run(store, run_id, failed=night.outcome in (FAILED, REJECTED))
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
