"""Twelve nights on workers that vanish, beside the same nights with one lasting home: what differs is a fault.

    python benchmarks/vanishing_workers.py [--nights N] [--folder DIR] [--json]

One Prefect server; for each side an MLflow server over PostgreSQL of its own, artefacts in a bucket (moto's server),
studies in PostgreSQL. On the one side every command finds the home of the one before. On the other each has a home that
is empty, a host name of its own and, where every user may run this Python, a user of its own (root and `unshare` are
wanted for either; what could be had is told), and what it leaves is deleted; BERTFT_CACHE names the bucket. A network
namespace of its own would cut a worker off from servers on 127.0.0.1. Nights: the first rows, nothing new, new rows,
rows halved, a class new, kill -9 in the search and again in the fine-tuning, two at once, kill -9 in the release, the
champion's files lost, the same rows again, a class lost, wrong labels. An encoder of random weights, float32, one
thread, a search of two trials.

Equal must be: each night's outcome, exit code, version and champion, and where nothing was killed its reason; the
ledgers; the weights of every version. Deleted must be nothing. Both sides live at once; with --folder one that is
finished is not lived again.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import fifteen_nights
import yaml
from nights_accidents import Accidents, Sizes, again, nothing, remove
from nights_world import BERTFT, NAME, STAGES, Lived, Process, World, free_port, runs
from records import Records, conclude

from bertft_core.testing.postgres import LocalPostgres

FIRST = date(2026, 3, 1)
SIDES = ("lasting", "vanishing")
SIZES = Sizes(first=300, batch=60, other=0, new_rows=30)
AT_ONCE, SECOND = "two at once", "the second: skipped, exit 0"
TRAINS = ("promoted", "kept")
_USER = 20_000  # and the number of the worker
_NAMED = ["unshare", "--uts", "--", "sh", "-c", 'hostname "$0" && exec "$@"', "worker-{number}"]
_AS_USER = ["setpriv", "--reuid={user}", "--regid={user}", "--clear-groups", "--"]
APART = {"a user and a host name of its own": [*_NAMED, *_AS_USER], "a host name of its own": _NAMED, "none": []}
_OWN = rf"m-[0-9a-f]{{32}}|127\.0\.0\.1:\d+|{'|'.join(SIDES)}"  # of a reason, what is of this side alone
_KEYS = {"AWS_ACCESS_KEY_ID": "drill", "AWS_SECRET_ACCESS_KEY": "drill-only", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(kw_only=True)
class Side:
    """The nights of one side. vanishes: each command has a worker of its own, which leaves nothing behind."""

    world: World
    bucket: Any
    mlflow: str
    vanishes: bool
    apart: str  # of APART
    workers: int = 0

    def fresh(self, *, keep: bool = False) -> None:
        """A worker for the next command; keep: the one before is still at work."""
        if self.workers and not self.vanishes:
            return
        if self.workers and not keep:
            shutil.rmtree(self.world.home.parent)
        self.workers += 1
        self.world.place = f"worker-{self.workers}/home"
        self.world.home.mkdir(parents=True, mode=0o700)
        own = {"HOME": str(self.world.home.parent), "PREFECT_HOME": str(self.world.home.parent / "prefect")}
        self.world.variables |= own
        if "user" in self.apart:
            for folder in (self.world.home.parent, self.world.home):
                os.chown(folder, _USER + self.workers, _USER + self.workers)

    def start(self, arguments: list[str], environment: dict[str, str], cwd: Path, out: Path, errors: Path) -> Process:
        """The command as today's worker runs it."""
        with open(out, "wb") as printed, open(errors, "wb") as said:
            command = [*entering(self.apart, self.workers), sys.executable, "-P", "-c", BERTFT, *arguments]
            return subprocess.Popen(command, env=environment, cwd=cwd, stdout=printed, stderr=said)

    def night(self, day: str, *more: str) -> Lived:
        """One night to its end, on a worker of its own."""
        self.fresh()
        return self.world.night(day, *more)

    def api(self) -> Any:
        """MLflow's client."""
        from mlflow import MlflowClient

        return MlflowClient(self.mlflow)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One night. after: gets what `before` returned, and puts the world in order."""

    what: str
    expected: tuple[str, ...]
    before: Callable[[Side, str], Any]
    live: Callable[[Side, str], Lived] = Side.night
    after: Callable[[Side, Any], Any] = field(default=lambda side, done: None)


def killed_in(*names: str) -> Callable[[Side, str], Lived]:
    """kill -9 in these stages in turn, each on a worker of its own; the last one lives."""

    def live(side: Side, day: str) -> Lived:
        search, told = "nightly.search_every_days=0", []
        known = set() if side.vanishes else runs(side.world)
        for stage in (stage for stage in STAGES if stage.name in names):
            side.fresh()
            told.append(side.world.kill_in(stage, day, search, known=known))
        ended = side.night(day, search)
        return Lived(document=ended.document, code=ended.code, seconds=ended.seconds, told="; ".join(told))

    return live


def two_at_once(side: Side, day: str) -> Lived:
    """A second worker begins while the first one is at work; the first one's end counts."""
    side.fresh()
    home, first = side.world.home, side.world.begin(day)
    while first.process.poll() is None and not (home / "nights" / f"{NAME}.open.json").exists():
        time.sleep(0.01)
    side.fresh(keep=True)
    second = side.world.night(day)
    ended = side.world.wait(first)
    if side.vanishes:
        shutil.rmtree(home.parent)
    told = f"the second: {second.document['outcome']}, exit {second.code}"
    return Lived(document=ended.document, code=ended.code, seconds=ended.seconds, told=told)


def rewritten(keep: Callable[[int, str], bool]) -> Callable[[Side, str], dict[Path, str]]:
    """Only these lines of each file of rows stay; what the files were."""

    def before(side: Side, day: str) -> dict[Path, str]:
        whole = {file: file.read_text(encoding="utf-8") for file in side.world.rows.glob("*.csv")}
        for file, text in whole.items():
            head, *lines = text.splitlines(keepends=True)
            kept = [line for number, line in enumerate(lines) if keep(number, line)]
            file.write_text("".join([head, *kept]), encoding="utf-8")
        return whole

    return before


def restored(side: Side, whole: dict[Path, str]) -> None:
    """The files of rows as they were."""
    for file, text in whole.items():
        file.write_text(text, encoding="utf-8")


def champion_lost(side: Side, day: str) -> dict[str, bytes]:
    """Somebody deletes the champion's files in the bucket; what they were."""
    api = side.api()
    version = api.get_model_version_by_alias(NAME, "champion")
    place = api.get_logged_model(version.tags["bertft.model_id"]).artifact_location
    found = list(side.bucket.objects.filter(Prefix=place.partition(f"{side.bucket.name}/")[2]))
    assert found, place
    aside = {one.key: one.get()["Body"].read() for one in found}
    for one in found:
        one.delete()
    return aside


def put_back(side: Side, aside: dict[str, bytes]) -> None:
    """From the backup."""
    for key, body in aside.items():
        side.bucket.put_object(Key=key, Body=body)


def plans() -> list[Plan]:
    """Night by night."""
    case = Accidents(SIZES, [])

    def on(before: Callable[[World, str], Any]) -> Callable[[Side, str], Any]:
        return lambda side, day: before(side.world, day)

    batch, refused = on(case.batch), ("data rejected",)
    first_two, last, clean = killed_in("search", "finetune"), killed_in("release"), lambda s, f: remove(s.world, f)
    half, one_class = rewritten(lambda number, _: number % 5 < 2), rewritten(lambda _, line: "class1" not in line)
    return [
        Plan(what="the first rows", expected=("promoted",), before=on(case.first)),
        Plan(what="nothing new", expected=("skipped",), before=on(nothing)),
        Plan(what="new rows", expected=TRAINS, before=batch),
        Plan(what="rows halved", expected=refused, before=half, after=restored),
        Plan(what="a class new", expected=refused, before=on(case.new_class), after=clean),
        Plan(what="kill -9 in search, then fine-tuning", expected=TRAINS, before=batch, live=first_two),
        Plan(what=AT_ONCE, expected=TRAINS, before=batch, live=two_at_once),
        Plan(what="kill -9 in release", expected=TRAINS, before=batch, live=last),
        Plan(what="the champion's files lost", expected=("failed",), before=champion_lost, after=put_back),
        Plan(what="the same rows again", expected=("skipped",), before=on(again)),
        Plan(what="a class lost", expected=refused, before=one_class, after=restored),
        Plan(what="30 % of labels wrong", expected=TRAINS, before=on(case.flipped)),
    ]


def through(side: Side, count: int, records: Records, name: str) -> None:
    """The nights of one side."""
    for number, plan in enumerate(plans()[:count]):
        day = (FIRST + timedelta(days=number)).isoformat()
        done = plan.before(side, day)
        lived = plan.live(side, day)
        plan.after(side, done)
        known = lived.document
        told = {
            "what": plan.what,
            "outcome": known["outcome"],
            "code": lived.code,
            "version": known.get("version"),
            "champion": _champion(side),
            "reason": re.sub(_OWN, "…", known["reason"]),
            "seconds": round(lived.seconds, 1),
            "told": lived.told,
            "is_expected": known["outcome"] in plan.expected,
            "is_killed": plan.live is not Side.night,  # its home may have seen it, and tell it in the reason
        }
        records.add(f"{name} night {number + 1:02}", told)
        words = [told[key] for key in ("outcome", "version", "seconds", "told")]
        print(f"{name}, {plan.what}:", *words, file=sys.stderr, flush=True)
    records.add(f"{name} end", registry_of(side))


def _champion(side: Side) -> str | None:
    found = side.api().search_registered_models(f"name = '{NAME}'")
    return str(found[0].aliases["champion"]) if found and "champion" in found[0].aliases else None


def registry_of(side: Side) -> dict[str, Any]:
    """What a side's MLflow has at the end: ledger, weights of each version, deleted runs."""
    from mlflow.entities import ViewType

    api = side.api()
    side.fresh()
    entries = side.world.bertft("history", NAME)["entries"]
    kept = ("number", "action", "version", "from_version", "to_version", "state")
    versions = sorted(api.search_model_versions(f"name = '{NAME}'"), key=lambda v: int(v.version))
    experiments = [e.experiment_id for e in api.search_experiments()]
    return {
        "ledger": [{key: entry[key] for key in kept} for entry in entries],
        "weights": {v.version: v.tags["bertft.weights"] for v in versions},
        "deleted": len(api.search_runs(experiments, run_view_type=ViewType.DELETED_ONLY)),
        "night_runs": len(api.search_runs(experiments, "tags.`bertft.role` = 'night'")),
        "workers": side.workers,
        "apart": side.apart,
    }


def entering(apart: str, number: int) -> list[str]:
    """What begins a command of that worker."""
    return [word.format(number=number, user=_USER + number) for word in APART[apart]]


def best_apart() -> str:
    """How far apart workers can be here: the first of APART in which Python starts Python."""
    child = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', '']).returncode)"
    for apart in APART:
        with suppress(OSError):
            command = [*entering(apart, 0), sys.executable, "-c", child]
            if subprocess.run(command, check=False, capture_output=True).returncode == 0:
                return apart
    raise SystemExit(f"{sys.executable} cannot be started")


def mlflow_server(stack: ExitStack, folder: Path, database: str, environment: dict[str, str]) -> str:
    """An MLflow server of its own before a database of PostgreSQL; its address, once it answers."""
    port, log = free_port(), open(folder / "mlflow.log", "ab")  # noqa: SIM115
    address = f"http://127.0.0.1:{port}"
    where = ["--backend-store-uri", database, "--no-serve-artifacts", "--default-artifact-root", "s3://none/here"]
    command = [sys.executable, "-m", "mlflow", "server", *where, "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen([*command, "--workers", "1"], env=environment, cwd=folder, stdout=log, stderr=log)
    stack.callback(lambda: (server.terminate(), server.wait()))
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urlopen(f"{address}/health", timeout=5).close()
            return address
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"the MLflow server did not answer: {folder / 'mlflow.log'}")


def live(folder: Path, count: int, records: Records) -> None:
    """Both sides, as far as they are not finished."""
    import boto3
    from moto.server import ThreadedMotoServer

    fresh = [row for number in range(12) for row in fifteen_nights.rows(number)]
    tree, apart = fifteen_nights.tree(folder), best_apart()
    with ExitStack() as stack:
        s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        s3.start()
        stack.callback(s3.stop)
        endpoint = f"http://127.0.0.1:{s3.get_host_and_port()[1]}"
        keys = {**_KEYS, "AWS_ENDPOINT_URL_S3": endpoint, "AWS_EC2_METADATA_DISABLED": "true"}
        os.environ |= keys
        postgres, prefect = stack.enter_context(LocalPostgres()), World(folder=folder, fresh=[], tree={})
        stack.callback(prefect.stop_server)
        prefect.start_server()
        sides = []
        for name in SIDES:
            if records.get(f"{name} end"):
                continue
            place, bucket = folder / name, boto3.resource("s3").create_bucket(Bucket=name)
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            mlflow = mlflow_server(stack, place, postgres.url(postgres.create_database()), prefect.environment)
            studies = postgres.url(postgres.create_database())
            variables = {**keys, "MLFLOW_TRACKING_URI": mlflow, "BERTFT_STORAGE": studies}
            variables |= {"BERTFT_CACHE": f"s3://{name}/cache"} if name == "vanishing" else {}
            world = World(folder=place, fresh=fresh, tree=tree, port=prefect.port, variables=variables)
            side = Side(world=world, bucket=bucket, mlflow=mlflow, vanishes=name == "vanishing", apart=apart)
            world.start = side.start
            world.rows.mkdir()
            world.config.write_text(yaml.safe_dump({"name": NAME, **tree}), encoding="utf-8")
            rule = f"{{artifact_root: 's3://{name}/mlflow', promotion: {{baseline: off}}}}\n"
            (place / "mlflow.yaml").write_text(rule, encoding="utf-8")
            sides.append((side, count, records, name))
        with ThreadPoolExecutor(len(SIDES)) as pool:
            for ended in [pool.submit(through, *side) for side in sides]:
                ended.result()


def compare(records: Records) -> dict[str, Any]:
    """Both sides beside each other, and what must hold."""
    one, two = (records.matching(f"{name} night ") for name in SIDES)
    ends = [records.get(f"{name} end") or {} for name in SIDES]
    same = ("outcome", "code", "version", "champion")
    nights = []
    for number, a in sorted(one.items()):
        b = two[number]
        keys = same if a["is_killed"] else (*same, "reason")
        differs = [key for key in keys if a[key] != b[key]]
        nights.append({"night": int(number), "what": a["what"], "lasting": a, "vanishing": b, "differs": differs})
    return {
        "nights": nights,
        "checks": {
            "every outcome as it should be": all(n[s]["is_expected"] for n in nights for s in SIDES),
            "every night equal": not any(n["differs"] for n in nights),
            "ledgers equal": ends[0]["ledger"] == ends[1]["ledger"],
            "weights of every version equal": ends[0]["weights"] == ends[1]["weights"],
            "of two at once the second is skipped": all(
                n[s]["told"] == SECOND for n in nights for s in SIDES if n["what"] == AT_ONCE
            ),
            "no run deleted": not any(end["deleted"] for end in ends),
        },
        "ends": dict(zip(SIDES, ends, strict=True)),
    }


def show(found: dict[str, Any]) -> None:
    """For people."""
    print("| night | | lasting home | s | vanishing homes | s | equal |\n|---|---|---|---|---|---|---|")
    for night in found["nights"]:
        cells = [night["night"], night["what"]]
        for side in (night[name] for name in SIDES):
            version = f", version {side['version']}" if side["version"] else ""
            cells += [f"{side['outcome']}{version}", f"{side['seconds']:.0f}"]
        print(f"| {' | '.join(map(str, [*cells, ', '.join(night['differs']) or 'yes']))} |")
    for name, is_so in found["checks"].items():
        print(f"{'yes' if is_so else 'NO '} {name}")
    end = found["ends"]["vanishing"]
    print(
        f"{len(end['ledger'])} entries, {len(end['weights'])} versions; {end['workers']} workers, each: {end['apart']}"
    )


def main() -> int:
    """Live the nights, print the table; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=len(plans()))
    parser.add_argument("--folder", type=Path, help="kept; default: a temporary one, removed")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    args = parser.parse_args()
    folder = (args.folder or Path(tempfile.mkdtemp(prefix="vanishing-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # workers are other users
    records = Records(folder / "nights.jsonl", {"nights": args.nights})
    try:
        live(folder, args.nights, records)
        found = compare(records)
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    conclude(found, show, records.path, is_json=args.json)
    return 0 if all(found["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
