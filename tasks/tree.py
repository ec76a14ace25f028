"""The MLflow tree of one run: pipeline run -> search run -> trial runs, and the final run. Written only here."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bertft_core.config import RunConfig
from bertft_core.mlflow_config import MlflowConfig
from bertft_core.recipe import Prepared
from bertft_core.runs import Run
from bertft_core.search.study import TrialResult
from bertft_core.state import mask_uri, write_json
from bertft_core.training.spec import TrainingResult
from tasks import tracking


class Tree:
    """Every method is idempotent: runs are found again by their tags, so a resumed command adds nothing twice."""

    def __init__(
        self, store: MlflowConfig, config: RunConfig, run: Run, prepared: Prepared, home: Path, prefect_run_id: Any
    ) -> None:
        self._config, self._run = config, run
        self.store = tracking.open_store(store, home)
        tags = {
            "bertft.name": config.name,
            "bertft.run_id": run.run_id,
            "bertft.rows": prepared.dataset.fingerprint,
            "bertft.encoder": prepared.encoder,
            "prefect.flow_run_id": str(prefect_run_id or ""),
            **tracking.git_tags(config.base_dir),
        }
        self.root = tracking.find_or_create_run(self.store, run.run_id, "pipeline", None, config.name, tags)
        self._search: str | None = None
        tracking.log_params(self.store, self.root, _flat(config.resolved()))
        tracking.log_dataset(self.store, self.root, prepared.dataset, mask_uri(config.data.source or config.data.train or ""))
        write_json(run.path / "config.json", config.resolved())
        tracking.log_files(self.store, self.root, [run.path / "config.json"], "config")

    def search_run(self, study: str) -> None:
        """Open the search run."""
        name = f"{self._config.name} search"
        self._search = tracking.find_or_create_run(
            self.store, self._run.run_id, "search", self.root, name, {"bertft.study": study}
        )

    def trial(self, result: TrialResult) -> None:
        """Mirror one finished trial; Optuna's storage stays the truth."""
        tags = {"bertft.slot": str(result.slot), "bertft.state": result.state, "bertft.reason": result.reason}
        run_id = tracking.find_or_create_run(
            self.store, self._run.run_id, f"trial-{result.slot}", self._search, f"trial {result.slot}", tags
        )
        if tracking.is_finished(self.store, run_id):
            return
        tracking.log_params(self.store, run_id, result.params)
        tracking.log_history(self.store, run_id, result.history)
        final = {"seconds": result.seconds, **({"score": result.score} if result.score is not None else {})}
        tracking.log_metrics(self.store, run_id, final)
        tracking.finish_run(self.store, run_id, failed=result.state == "fail")

    def search_done(self, best: TrialResult | None, picture: Path) -> None:
        """Close the search run with its best trial and picture."""
        if self._search is None:
            return
        if best is not None:
            tracking.log_params(self.store, self._search, {f"best.{k}": v for k, v in best.params.items()})
            tracking.log_metrics(self.store, self._search, {"best_score": best.score or 0.0, "best_slot": best.slot})
        tracking.log_files(self.store, self._search, [picture], "")
        tracking.finish_run(self.store, self._search)

    def final_run(self, fit: TrainingResult, params: dict[str, float]) -> str:
        """The final fit's run: parameters and per-epoch metrics. Returns its MLflow run id."""
        name = f"{self._config.name} final fit"
        run_id = tracking.find_or_create_run(self.store, self._run.run_id, "final", self.root, name, {})
        tracking.log_params(self.store, run_id, {**_flat({"training": self._config.training.model_dump()}), **params})
        tracking.log_history(self.store, run_id, [_plain(h) for h in fit.history])
        tracking.log_metrics(self.store, run_id, {"validation_score": fit.score, "seconds": fit.seconds})
        self.final = run_id
        return run_id

    def evaluation(self, report: Any, folder: Path) -> None:
        """Test scores, report and pictures on the final run."""
        scores = {f"test_{k}": getattr(report, k) for k in ("accuracy", "macro_f1", "log_loss", "floor_accuracy")}
        tracking.log_metrics(self.store, self.final, scores)
        names = ("evaluation.json", "report.md", "confusion.png", "learning.png")
        tracking.log_files(self.store, self.final, [folder / n for n in names], "evaluation")

    def finish(self, result: dict[str, Any]) -> None:
        """Close final and pipeline run."""
        write_json(self._run.path / "result.json", json.loads(json.dumps(result)))
        tracking.log_files(self.store, self.root, [self._run.path / "result.json"], "")
        tracking.finish_run(self.store, self.final)
        tracking.finish_run(self.store, self.root)


def _plain(epoch: Any) -> dict[str, Any]:
    return epoch if isinstance(epoch, dict) else asdict(epoch)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[prefix + key] = value
    return flat
