"""Pictures of a night for docs/: Prefect's and MLflow's pages of a running stack, taken in headless Chromium.

    bertft up                                       # and, in another shell, with what it prints exported:
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

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COLOURS = 64


def ask(url: str, body: Any = None) -> Any:
    """One call of a server's API; POST where there is a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def pages(prefect: str, mlflow: str, name: str) -> dict[str, tuple[str, int]]:
    """Picture's name to its page and its height in pixels."""
    chain = latest_chain(f"{prefect}/api", name)
    night = f"{prefect}/runs/flow-run/{chain['night']}"
    root = latest_root(mlflow, name)
    return {
        "prefect-night": (f"{night}", 900),
        "prefect-stages": (f"{prefect}/runs/flow-run/{chain['chain']}", 900),
        "prefect-artifacts": (f"{prefect}/runs/flow-run/{chain['chain']}?tab=Artifacts", 900),
        "prefect-deployments": (f"{prefect}/deployments", 620),
        "mlflow-tree": (f"{mlflow}/#/experiments/{root['experiment_id']}", 700),
        "mlflow-model": (f"{mlflow}/#/models/{name}", 700),
    }


def latest_chain(api: str, name: str) -> dict[str, str]:
    """Ids of the latest completed flow run of bertft-nightly/NAME that trained, and of the chain in it."""
    deployment = ask(f"{api}/deployments/name/bertft-nightly/{name}")["id"]
    asked = {
        "deployments": {"id": {"any_": [deployment]}}, "sort": "START_TIME_DESC",
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }  # fmt: skip
    for night in ask(f"{api}/flow_runs/filter", asked):
        chains = ask(f"{api}/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [night["id"]]}}})
        if chains:
            return {"night": night["id"], "chain": chains[0]["id"]}
    raise SystemExit(f"no finished night of {name} that trained: `prefect deployment run bertft-nightly/{name}`")


def latest_root(mlflow: str, name: str) -> dict[str, Any]:
    """The experiment of the model's first version."""
    found = ask(f"{mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name=bertft")
    return dict(found["experiment"])


def take(url: str, file: Path, height: int, seconds: int) -> None:
    """One picture, 1280 pixels wide, reduced to 64 colours. Raises CalledProcessError with the browser's fault."""
    browser = next((found for one in BROWSERS if (found := shutil.which(one))), None)
    if browser is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is on PATH")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "page.png"
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}",
             f"--window-size=1280,{height}", f"--virtual-time-budget={seconds * 1000}", f"--screenshot={raw}", url],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=180,
        )  # fmt: skip
        with Image.open(raw) as picture:
            picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)


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
    for picture, (url, height) in pages(prefect, mlflow, args.name).items():
        if not args.only or picture in args.only:
            file = args.folder / f"{picture}.png"
            take(url, file, height, args.seconds)
            print(f"{file}  {file.stat().st_size / 1000:.0f} kB  {url}")


if __name__ == "__main__":
    main()
