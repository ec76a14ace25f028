"""Pictures of a night for docs/: Prefect's and MLflow's pages of a running stack, taken in headless Chromium.

    bertft up --open                                # and, in another shell, with what it prints exported:
    bertft deploy CONFIG                            # then a night: prefect deployment run bertft-nightly/NAME
    python benchmarks/screenshots.py NAME docs/pictures

NAME is the `name` of the configuration; its latest finished night with a training is shown. Needs chromium and Pillow.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image

from tasks.events import artifact_key

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COLOURS = 64
PANEL = 450  # pixels of MLflow's assistant at the right, which a new browser shows open; it is cut off


def ask(url: str, body: Any = None) -> Any:
    """One call of a server's API; POST where there is a body."""
    data, headers = None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"}
    if data is not None and "/mlflow/" not in url:  # Prefect asks for a token of its own
        token = ask(f"{url.partition('/api/')[0]}/api/csrf-token?client=screenshots")["token"]
        headers |= {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "screenshots"}
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def prefect_pages(prefect: str, name: str) -> dict[str, tuple[str, tuple[int, int]]]:
    """Picture's name to its page and the picture's size in pixels."""
    api, night, chain = f"{prefect}/api", *latest_night(f"{prefect}/api", name)
    shown = latest_artifacts(api, (night, chain))
    return {
        "prefect-night": (f"{prefect}/runs/flow-run/{night}", (1280, 640)),
        "prefect-stages": (f"{prefect}/runs/flow-run/{chain}", (1280, 900)),
        "prefect-night-artifact": (f"{prefect}/artifacts/artifact/{shown[artifact_key('night', name)]}", (1280, 640)),
        "prefect-evaluation-artifact": (
            f"{prefect}/artifacts/artifact/{shown[artifact_key('evaluation', name)]}",
            (1280, 900),
        ),
        "prefect-deployments": (f"{prefect}/deployments", (1280, 540)),
    }


def mlflow_pages(mlflow: str, name: str) -> dict[str, tuple[str, tuple[int, int]]]:
    """As `prefect_pages`."""
    experiment, trained = experiment_of(mlflow, name), "?workflowType=machine_learning"
    chain, night = night_of(mlflow, experiment, name)
    of = f"{mlflow}/#/experiments/{experiment}"
    return {
        "mlflow-runs": (f"{of}/runs{trained}", (1280, 560)),
        "mlflow-night": (f"{of}/runs/{night}{trained}", (1280, 900)),
        "mlflow-tree": (f"{of}/runs/{chain}{trained}", (1280, 900)),
        "mlflow-models": (f"{of}/models{trained}", (1280, 560)),
        "mlflow-model": (f"{mlflow}/#/models/{name}{trained}", (1280, 900)),
        "mlflow-version": (f"{mlflow}/#/models/{name}/versions/1{trained}", (1280, 1000)),
    }


def latest_artifacts(api: str, runs: tuple[str, ...]) -> dict[str, str]:
    """Key of each artifact of these flow runs to its id."""
    found = ask(f"{api}/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": list(runs)}}})
    return {one["key"]: one["id"] for one in found if one["key"]}


def latest_night(api: str, name: str) -> tuple[str, str]:
    """Ids of the latest completed flow run of bertft-nightly/NAME that trained, and of the chain in it."""
    deployment = ask(f"{api}/deployments/name/bertft-nightly/{name}")["id"]
    asked = {
        "deployments": {"id": {"any_": [deployment]}},
        "sort": "START_TIME_DESC",
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    for night in ask(f"{api}/flow_runs/filter", asked):
        chains = ask(f"{api}/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [night["id"]]}}})
        if chains:
            return night["id"], chains[0]["id"]
    raise SystemExit(f"no finished night of {name} that trained: `prefect deployment run bertft-nightly/{name}`")


def experiment_of(mlflow: str, name: str) -> str:
    """The experiment that mlflow.yaml names after the configuration, else the one that has all."""
    for known in (name, "bertft"):
        try:
            found = ask(f"{mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name={known}")
        except urllib.error.HTTPError:
            continue
        return str(found["experiment"]["experiment_id"])
    raise SystemExit(f"MLflow has no experiment {name} or bertft")


def night_of(mlflow: str, experiment: str, name: str) -> tuple[str, str]:
    """Ids of the latest run of a chain and of the night that it lies below, which is the root of the tree."""
    asked = {
        "experiment_ids": [experiment],
        "filter": f"tags.`bertft.name` = '{name}' and tags.`bertft.role` = 'pipeline'",
        "max_results": 1,
        "order_by": ["attributes.start_time DESC"],
    }
    run = ask(f"{mlflow}/api/2.0/mlflow/runs/search", asked)["runs"][0]
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    return str(run["info"]["run_id"]), tags.get("mlflow.parentRunId", run["info"]["run_id"])


def take(url: str, file: Path, size: tuple[int, int], seconds: int) -> None:
    """One picture in 64 colours. Raises CalledProcessError where the browser fails."""
    browser = next((found for one in BROWSERS if (found := shutil.which(one))), None)
    if browser is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is on PATH")
    (width, height), is_mlflow = size, "/#/" in url
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "page.png"
        size_asked = f"--window-size={width + PANEL * is_mlflow},{height}"
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={folder}",
                size_asked,
                f"--virtual-time-budget={seconds * 1000}",
                f"--screenshot={raw}",
                url,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=180,
        )
        with Image.open(raw) as picture:
            shown = picture.convert("RGB").crop((0, 0, width, height))
            shown.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the configuration")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="pictures to take (default: all)")
    parser.add_argument("--seconds", type=int, default=15, help="of the page's own time before the picture")
    args = parser.parse_args()
    prefect = os.environ.get("PREFECT_API_URL", "http://127.0.0.1:4200/api").removesuffix("/api")
    mlflow = os.environ.get("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    args.folder.mkdir(parents=True, exist_ok=True)
    wanted = mlflow_pages(mlflow, args.name)
    if not args.only or any(one.startswith("prefect") for one in args.only):
        wanted |= prefect_pages(prefect, args.name)
    for picture, (url, size) in wanted.items():
        if not args.only or picture in args.only:
            file = args.folder / f"{picture}.png"
            take(url, file, size, args.seconds)
            print(f"{file}  {file.stat().st_size / 1000:.0f} kB  {url}")


if __name__ == "__main__":
    main()
