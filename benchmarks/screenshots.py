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


def pages(prefect: str, mlflow: str, name: str) -> dict[str, tuple[str, tuple[int, int]]]:
    """Picture's name to its page and the picture's size in pixels."""
    api, night, chain = f"{prefect}/api", *latest_night(f"{prefect}/api", name)
    shown = latest_artifacts(api, (night, chain))
    experiment = experiment_id(mlflow)
    root = tree_root(mlflow, experiment, name)
    trained = "?workflowType=machine_learning"
    return {
        "prefect-night": (f"{prefect}/runs/flow-run/{night}", (1280, 640)),
        "prefect-stages": (f"{prefect}/runs/flow-run/{chain}", (1280, 900)),
        "prefect-night-artifact": (f"{prefect}/artifacts/artifact/{shown[artifact_key('night', name)]}", (1280, 640)),
        "prefect-evaluation-artifact": (
            f"{prefect}/artifacts/artifact/{shown[artifact_key('evaluation', name)]}",
            (1280, 900),
        ),
        "prefect-deployments": (f"{prefect}/deployments", (1280, 540)),
        "mlflow-runs": (f"{mlflow}/#/experiments/{experiment}/runs{trained}", (1280, 640)),
        "mlflow-tree": (f"{mlflow}/#/experiments/{experiment}/runs/{root}{trained}", (1280, 900)),
        "mlflow-model": (f"{mlflow}/#/models/{name}{trained}", (1280, 900)),
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


def experiment_id(mlflow: str) -> str:
    """Of the experiment of the name that bertft gives where mlflow.yaml gives none."""
    found = ask(f"{mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name=bertft")
    return str(found["experiment"]["experiment_id"])


def tree_root(mlflow: str, experiment: str, name: str) -> str:
    """Id of the latest run of the chain, the root of a tree."""
    asked = {
        "experiment_ids": [experiment],
        "filter": f"attributes.run_name = '{name}'",
        "max_results": 1,
        "order_by": ["attributes.start_time DESC"],
    }
    return str(ask(f"{mlflow}/api/2.0/mlflow/runs/search", asked)["runs"][0]["info"]["run_id"])


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
    for picture, (url, size) in pages(prefect, mlflow, args.name).items():
        if not args.only or picture in args.only:
            file = args.folder / f"{picture}.png"
            take(url, file, size, args.seconds)
            print(f"{file}  {file.stat().st_size / 1000:.0f} kB  {url}")


if __name__ == "__main__":
    main()
