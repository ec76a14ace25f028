"""Scoring a file as a flow: what the command runs plainly, and a deployment on a schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from bertft_core.base.errors import telling_no_secrets
from bertft_core.config.store import load_mlflow_config
from bertft_core.recipe.predict import predict_file
from bertft_core.serving.tables import TableSettings
from bertft_core.tracking.store import open_store
from flows.signals import end_after_sigterm
from flows.terminal.progress import Reporter


@flow(name="bertft-predict")
@telling_no_secrets
def predict(
    model: str,
    input: str,
    output: str,
    home: str = ".bertft",
    mlflow_file: str | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    encoding: str | None = None,
) -> dict[str, Any]:
    """Score a file with a registered version (models:/NAME@champion) or a model folder; input and output are paths."""
    end_after_sigterm()
    store, report = load_mlflow_config(mlflow_file, Path.cwd(), Path.cwd()), Reporter()
    with report.stage("predict"):
        return predict_file(
            model,
            Path(input),
            Path(output),
            open_store(store, Path(home)),
            TableSettings(text=text, text_pair=text_pair, encoding=encoding),
            on_rows=lambda count: report.rows("scored", count),
        )
