"""The nights of thirty_nights.py: what happens before each, how it is lived through, which outcomes are right."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nights_world import NAME, STAGES, Lived, Row, World, runs

Before = Callable[[World, str], Any]
TRAINS = ("promoted", "kept")
LEFT_FREE = 200_000_000  # bytes of the nearly full disk; a night wants 300 MB


def alone(world: World, date: str) -> Lived:
    """One night, to its end."""
    return world.night(date)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One night. after: gets what `before` returned, and puts the world in order. is_served: with a Prefect server."""

    what: str
    expected: tuple[str, ...]
    before: Before
    live: Callable[[World, str], Lived] = alone
    after: Callable[[World, Any], Any] | None = None
    is_served: bool = True


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Rows that arrive: first, in a usual night, in the night of other texts; nightly.new_rows lies between these.

    test: share of them that is for the gate.
    """

    first: int
    batch: int
    other: int
    new_rows: int
    test: float = 0.2


class Accidents:
    """What may happen to a world whose nights have these sizes. other: texts of another kind."""

    def __init__(self, sizes: Sizes, other: list[Row]) -> None:
        self.sizes = sizes
        self.other = other

    def first(self, world: World, date: str) -> Path:
        """The first rows."""
        return world.arrive(date, world.take(self.sizes.first))

    def batch(self, world: World, date: str) -> Path:
        """New rows as they should be."""
        return world.arrive(date, world.take(self.sizes.batch))

    def half(self, world: World, date: str) -> tuple[Path, bytes]:
        """A file whose writer has not finished: its last row ends inside quotation marks."""
        file = self.batch(world, date)
        whole = file.read_bytes()
        lines = whole.splitlines(keepends=True)
        file.write_bytes(b"".join(lines[: 2 * len(lines) // 5]) + b'"a text that never en')
        return file, whole

    def flipped(self, world: World, date: str) -> Path:
        """30 % of the new rows carry the other label."""
        rows = world.take(self.sizes.batch)
        classes = sorted({label for _, label in rows})
        turned = [(t, classes[1 - classes.index(y)]) if i % 10 < 3 else (t, y) for i, (t, y) in enumerate(rows)]
        return world.arrive(date, turned)

    def new_class(self, world: World, date: str) -> Path:
        """A third class appears."""
        start = self.sizes.first // 2
        rows = [(f"{text} so so", "mixed") for text, _ in world.fresh[start : start + 40]]
        return world.arrive(date, rows)

    def drifted(self, world: World, date: str) -> Path:
        """Long reviews among one-line ones, too few for a training by their number."""
        return world.arrive(date, self.other[: self.sizes.other])


def remember(world: World, _: Any) -> None:
    """An alias of ours keeps the first champion from gc: the last one is compared with it."""
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{world.home / 'mlflow.db'}").set_registered_model_alias(NAME, "first", "1")


def nothing(world: World, date: str) -> None:
    """Nothing new."""


def rubbish(world: World, date: str) -> Path:
    """A file that is no CSV."""
    file = world.rows / f"{date}.csv"
    file.write_bytes(np.random.default_rng(1).bytes(40_000))
    return file


def remove(world: World, file: Path) -> None:
    """Somebody takes the file away."""
    file.unlink()


def complete(world: World, done: tuple[Path, bytes]) -> None:
    """The writer has finished."""
    done[0].write_bytes(done[1])


def again(world: World, date: str) -> Path:
    """The newest file once more, under another name."""
    newest = sorted(world.rows.glob("*.csv"))[-1]
    return Path(shutil.copy(newest, world.rows / f"{date}.csv"))


def again_after_gc(world: World, date: str) -> str:
    """The same rows again, and meanwhile all that nobody needs has been removed."""
    again(world, date)
    before, after = world.clean_up()
    return f"gc: {before:.1f} to {after:.1f} MB"


def clean_up(world: World, _: Any) -> str:
    """What an operator lets run once a week."""
    before, after = world.clean_up()
    return f"gc: {before:.1f} to {after:.1f} MB"


def fill_disk(world: World, date: str) -> Path:
    """The disk is nearly full."""
    return world.fill_disk(LEFT_FREE)


def server_down(world: World, date: str) -> None:
    """The Prefect server is gone."""
    world.stop_server()


def killed_in(*names: str) -> Callable[[World, str], Lived]:
    """kill -9 in these stages in turn, the same night begun again after each, in the end without a kill."""
    search = "nightly.search_every_days=0"  # the night searches, however young the last search is

    def live(world: World, date: str) -> Lived:
        known = runs(world)
        chosen = [stage for stage in STAGES if stage.name in names]
        told = [world.kill_in(stage, date, search, known=known) for stage in chosen]
        ended = world.night(date, search)
        made = len(runs(world) - known)
        return Lived(
            document=ended.document, code=ended.code, seconds=ended.seconds, told="; ".join([*told, f"{made} run"])
        )

    return live


def two_at_once(world: World, date: str) -> Lived:
    """Another night is at work when this one begins; the other one's end counts."""
    other = world.begin(date)
    while other.process.poll() is None and not (world.home / "nights" / f"{NAME}.open.json").exists():
        time.sleep(0.01)
    second = world.night(date)
    told = f"the second: {second.document['outcome']}, exit {second.code}: {second.document['reason'][:60]}"
    first = world.wait(other)
    return Lived(document=first.document, code=first.code, seconds=first.seconds, told=told)


def server_dies(world: World, date: str) -> Lived:
    """The Prefect server goes away while the night trains."""
    known, begun = runs(world), world.begin(date)
    finetune = next(stage for stage in STAGES if stage.name == "finetune")
    while begun.process.poll() is None and not finetune.has_begun(world, begun, known):
        time.sleep(0.01)
    world.stop_server()
    return world.wait(begun)


def artefact_deleted(world: World, date: str) -> tuple[Path, Path]:
    """The champion's files are gone from the store."""
    version = world.bertft("history", NAME)["aliases"]["champion"]
    folder, aside = model_folder(world, str(version)), world.folder / "aside"
    if not aside.exists():
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


def both(*steps: Before) -> Before:
    """Several things before one night; what the last one returns."""

    def before(world: World, date: str) -> Any:
        return [step(world, date) for step in steps][-1]

    return before


def plans(case: Accidents, *, is_tiny: bool, is_mounted: bool) -> list[Plan]:
    """Night by night. The tiny form has the same accidents, several of them in one night where that is no less hard."""
    first = Plan(what="the first rows", expected=("promoted",), before=case.first, after=remember)
    quiet = Plan(what="nothing new", expected=("skipped",), before=nothing)
    broken = Plan(what="a corrupt file", expected=("data rejected",), before=rubbish, after=remove)
    third = Plan(what="a new class", expected=("data rejected",), before=case.new_class, after=remove)
    disk = (
        Plan(what="disk nearly full", expected=("failed",), before=fill_disk, after=remove)
        if is_mounted
        else Plan(what="disk full: not played, no mount", expected=("skipped",), before=nothing)
    )
    down = Plan(what="Prefect server down", expected=("failed",), before=server_down, is_served=False)
    names = tuple(stage.name for stage in STAGES)
    if is_tiny:
        return [
            down,
            first,
            quiet,
            broken,
            third,
            Plan(what="half a file", expected=("skipped",), before=case.half, after=complete),
            Plan(what="its other half; two at once", expected=TRAINS, before=nothing, live=two_at_once),
            Plan(what="the same batch again, after gc", expected=("skipped",), before=again_after_gc),
            Plan(what="DST; 30 % flipped; 6 kills", expected=TRAINS, before=case.flipped, live=killed_in(*names)),
            disk,
            Plan(what="champion's files gone", expected=("failed",), before=artefact_deleted, after=put_back),
            Plan(what="other texts", expected=TRAINS, before=case.drifted),
        ]
    usual = Plan(what="new rows", expected=TRAINS, before=case.batch)
    weekly = Plan(what="new rows; gc after it", expected=TRAINS, before=case.batch, after=clean_up)
    return [
        first,
        quiet,
        usual,
        broken,
        usual,
        Plan(what="half a file", expected=(*TRAINS, "skipped"), before=case.half, after=complete),
        Plan(what="its other half", expected=TRAINS, before=case.batch),
        Plan(what="the same batch again", expected=("skipped",), before=again),
        Plan(what="30 % of labels flipped", expected=TRAINS, before=case.flipped),
        weekly,
        third,
        Plan(what="server dies in the night", expected=(*TRAINS, "failed"), before=case.batch, live=server_dies),
        disk,
        weekly,
        Plan(what="texts of another kind", expected=TRAINS, before=case.drifted),
        down,
        usual,
        *(Plan(what=f"kill -9 in {name}", expected=TRAINS, before=case.batch, live=killed_in(name)) for name in names),
        weekly,
        Plan(what="two at once", expected=TRAINS, before=case.batch, live=two_at_once),
        Plan(
            what="champion's files deleted",
            expected=("failed",),
            before=both(case.batch, artefact_deleted),
            after=put_back,
        ),
        usual,
        Plan(what="DST", expected=TRAINS, before=case.batch),
        quiet,
        weekly,
    ]
