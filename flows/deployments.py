"""The flows of one configuration as Prefect deployments: on a work pool, or served by this process."""

from __future__ import annotations

import os
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment, VersionType  # type: ignore[attr-defined]  # no public place
from prefect.exceptions import ObjectAlreadyExists
from prefect.schedules import Cron, Schedule
from prefect.types.entrypoint import EntrypointType

from bertft_core.base.cache import VARIABLE as CACHE
from bertft_core.base.errors import ConfigError
from bertft_core.base.home import open_home
from bertft_core.base.packages import OURS, WAYS_OUT, hiding
from bertft_core.config.run import load_config
from bertft_core.config.store import load_mlflow_config
from flows.environment import QUIET
from flows.nightly import nightly
from flows.pipeline import pipeline
from flows.release import promote
from flows.scoring import FOLDERS, predict
from flows.search import join

# What happens to a run of a night that comes due while another is at work
COLLISIONS = {"skip": ConcurrencyLimitStrategy.CANCEL_NEW, "queue": ConcurrencyLimitStrategy.ENQUEUE}
PROCESS = "process"  # the kind of work pool whose workers start runs as processes of their own machine
_PASSED_ON = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    *("BERTFT_USER", "BERTFT_STORAGE", CACHE),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is deployed; all paths absolute. collision: skip or queue. folders: predict reads and writes below them.

    job_variables: of the work pool's kind, such as `image`; they win over those that bertft sets.
    """

    config_path: Path
    overrides: tuple[str, ...]
    home: Path
    mlflow_file: Path | None
    cron: str
    timezone: str
    collision: str = "skip"
    is_paused: bool = False
    folders: tuple[Path, ...] = ()
    job_variables: Mapping[str, Any] = field(default_factory=dict)

    def place(self, path: Path, kind: str) -> str:
        """A path as a run on a work pool of this kind finds it.

        A process worker sees the files of this machine. Any other has a working directory of its own, an image's or a
        volume's, which stands for the one where this is called: paths below it are relative to it, others stay.
        """
        here = Path.cwd()
        return str(path if kind == PROCESS or not path.is_relative_to(here) else path.relative_to(here))

    @property
    def schedule(self) -> Schedule:
        """Of the nights. Raises ConfigError for a cron line or time zone that does not exist."""
        if self.timezone not in zoneinfo.available_timezones():
            raise ConfigError(f"--timezone {self.timezone!r}: no such time zone; wanted an IANA name, Europe/Berlin")
        try:
            return Cron(self.cron, timezone=self.timezone, active=not self.is_paused, slug="nightly")
        except ValueError as fault:
            raise ConfigError(f"--cron {self.cron!r}: {fault}; wanted five fields, such as '30 2 * * *'") from None


def deployments(plan: Plan, kind: str = PROCESS) -> list[RunnerDeployment]:
    """nightly on its schedule; search, join, promote and predict by hand. The same names again update what is there.

    kind: of the work pool.
    """
    config = load_config(plan.config_path, plan.overrides)
    store = load_mlflow_config(plan.mlflow_file, config.base_dir, Path.cwd())
    if kind != PROCESS:  # a run begins in a working directory like this one, and Prefect looks there first
        for name in OURS:
            if other := hiding(name, [str(Path.cwd())]):
                raise ConfigError(f"{other} would hide bertft's package {name} from a run: {WAYS_OUT}")
    mlflow_file = None if plan.mlflow_file is None else plan.place(plan.mlflow_file, kind)
    files = {"home": plan.place(plan.home, kind), "mlflow_file": mlflow_file}
    chain = {"config_path": plan.place(plan.config_path, kind), "overrides": list(plan.overrides), **files}
    model = store.model_name(config.name)
    served = {"model": f"models:/{model}@{store.aliases.champion}", **files}
    deployed = partial(_deployment, plan=plan, kind=kind, model=config.name)
    scoring = deployed(predict, config.name, served)
    scoring.job_variables["env"].setdefault(FOLDERS, os.pathsep.join(plan.place(f, kind) for f in plan.folders))
    # a night that comes due while another is at work begins, notes that, tells people of one that hangs, and ends
    single = ConcurrencyLimitConfig(
        limit=2 if plan.collision == "skip" else 1, collision_strategy=COLLISIONS[plan.collision]
    )
    alone = ConcurrencyLimitConfig(limit=1, collision_strategy=COLLISIONS[plan.collision])
    made = [
        deployed(nightly, config.name, chain, schedule=plan.schedule, concurrency_limit=single, paused=plan.is_paused),
        deployed(promote, config.name, {"name": model, **files}),
        scoring,
    ]
    if config.search is not None and config.search.trials:
        joined = {name: chain[name] for name in ("config_path", "overrides", "home")}
        made += [
            deployed(pipeline, f"{config.name}-search", {**chain, "last": "search"}, concurrency_limit=alone),
            deployed(join, config.name, joined),
        ]
    return made


def _deployment(
    flow: Flow[..., Any], name: str, parameters: dict[str, Any], *, plan: Plan, kind: str, model: str, **more: Any
) -> RunnerDeployment:
    """Its run's environment: what may hold a password stays in the worker's, since the server shows this one."""
    home, given = parameters["home"], dict(plan.job_variables)
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ and "@" not in os.environ[name]}
    deployed: Any = flow.to_deployment(
        name,
        parameters=parameters,
        entrypoint_type=EntrypointType.MODULE_PATH,
        version_type=VersionType.SIMPLE,  # else Prefect asks git, which runs what the working directory's .git says
        tags=["bertft", model],
        job_variables={
            **({"working_dir": home} if kind == PROCESS else {}),
            **given,
            "env": {
                **{**QUIET, "PREFECT_LOGGING_LEVEL": "INFO", "BERTFT_HOME": home, **passed_on},
                **given.get("env", {}),
            },
        },
        **more,
    )
    return deployed  # type: ignore[no-any-return]


def deploy(plan: Plan, pool: str) -> dict[str, Any]:
    """Create or update the deployments on a work pool of any kind; one that is missing is made, of kind process."""
    deployments(plan)  # a fault in it makes no pool
    kind = PROCESS
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=pool, type=PROCESS))
        except ObjectAlreadyExists:
            kind = client.read_work_pool(pool).type
    made = deployments(plan, kind)
    if kind == PROCESS:
        open_home(plan.home)  # a run's process starts in it
    return {
        "name": made[0].name,
        "pool": pool,
        "kind": kind,
        "cron": plan.cron,
        "timezone": plan.timezone,
        "collision": plan.collision,
        "deployments": [{"name": d.full_name, "id": str(d.apply(work_pool_name=pool))} for d in made],
        "worker": f"prefect worker start --pool {pool}",
        "now": f"prefect deployment run {made[0].full_name}",
    }
