"""Scoring as a flow: what the command runs plainly, and a deployment on a schedule. A folder is one task a shard."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, unmapped
from prefect.client.orchestration import get_client
from prefect.runtime import deployment, flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from bertft_core.base.errors import InputError
from bertft_core.base.locks import work_in
from bertft_core.config.store import load_mlflow_config
from bertft_core.recipe.predict import is_sharded, predict_file, scoring
from bertft_core.serving.shards import RECORDS, find_inputs
from bertft_core.serving.tables import TableSettings
from bertft_core.tracking.store import open_store
from flows.hosting import at_home
from flows.parameters import home_of
from flows.terminal.progress import Reporter
from tasks.scoring import score_shard

FOLDERS = "BERTFT_FILES"  # of a deployment's environment: what `predict` may read and write below


_ONE_BY_ONE: Any = ThreadPoolTaskRunner(max_workers=1)  # one shard has all cores; a runner's type says no future's


@flow(name="bertft-predict", task_runner=_ONE_BY_ONE)
@at_home
def predict(
    model: str,
    input: str,
    output: str,
    home: str | None = None,
    mlflow_file: str | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    encoding: str | None = None,
) -> dict[str, Any]:
    """Score a file, or a folder of files in shards, with a registered version or a model folder.

    Args:
        model: models:/NAME@champion, models:/NAME/3 or a model folder.
        input: The file of texts: .csv, .tsv, .jsonl or .parquet; a folder of them, or a pattern.
        output: The file to write: .csv, .jsonl or .parquet; or the folder of shards of 10,000 rows, each a
            task of its own.
        home: BERTFT_HOME of the run; default: the environment's, else .bertft in the working directory.
        mlflow_file: The mlflow.yaml; default: the one in the working directory.
        text: Column of the texts, where it differs from the training column.
        text_pair: Second text column.
        encoding: Of the file; default: found out.

    Shards run one after another, in this process; elsewhere by `predict.with_options(task_runner=…)`: a process pool,
    Dask or Ray, whose machines see the same BERTFT_HOME, input and output.

    In a run of a deployment paths lie below the folders that the deployment names (`bertft deploy --files`), relative
    ones below the first of them, and its own home and mlflow_file count, whatever the run's parameters say.
    """
    folders: list[Path] | None = None
    if deployment.id and not flow_run.parent_flow_run_id:  # in somebody else's flow that one chooses the paths
        with get_client(sync_client=True) as client:
            made = client.read_deployment(UUID(deployment.id))
        home = home_of(made.parameters.get("home", home))
        mlflow_file = made.parameters.get("mlflow_file", mlflow_file)
        named = made.job_variables.get("env", {}).get(FOLDERS, "")
        folders = [Path(folder).resolve() for folder in named.split(os.pathsep) if folder]
        input = str(inside(folders, Path(home), "input", input))
        output = str(inside(folders, Path(home), "output", output))
        model = model if model.startswith("models:/") else str(inside(folders, Path(home), "model", model))
    home = home_of(home)
    work_in(home)
    report, target = Reporter(), Path(output)
    store = open_store(load_mlflow_config(mlflow_file, Path.cwd(), Path.cwd()), Path(home))
    settings = TableSettings(text=text, text_pair=text_pair, encoding=encoding)
    if not is_sharded(input, output):
        with report.stage("predict"):
            return predict_file(
                model, Path(input), target, store, settings, on_rows=lambda count: report.rows("scored", count)
            )
    if folders is not None:  # links in a folder may lead out of it
        for path in find_inputs(input):
            inside(folders, Path(home), "input", str(path))
        inside(folders, Path(home), "output", str(target / RECORDS))
    with report.stage("predict"), scoring(model, input, target, store, settings) as job:
        for shard in job.shards if folders is not None else ():
            inside(folders or (), Path(home), "output", str(target / shard.name))
        futures = score_shard.map(job.open, unmapped(job.work))
        return job.document([future.result() for future in futures])


def inside(folders: Sequence[Path], home: Path, what: str, path: str) -> Path:
    """Where a path leads, links followed; a relative one starts at the first of the folders.

    Raises InputError where that is below none of them, or in BERTFT_HOME, whose files are not for others to write.
    """
    named = ", ".join(map(str, folders)) or "none"
    try:
        found = Path(folders[0] if folders else "/", path).resolve()
    except (OSError, ValueError, RuntimeError) as fault:  # NUL, a loop of links
        raise InputError(f"{what} {path[:200]!r} is no path ({fault}); folders of this deployment: {named}") from None
    if not any(found.is_relative_to(folder) for folder in folders) or found.is_relative_to(home.resolve()):
        raise InputError(
            f"{what} {path[:200]!r} leads to {found}, outside of the folders that this deployment names ({named}) or "
            "inside BERTFT_HOME: put the file there, or deploy with --files FOLDER"
        )
    return found
