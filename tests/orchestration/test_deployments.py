"""What is deployed, without a server."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bertft_core.base.errors import ConfigError
from flows.deployments import Plan, deployments

pytestmark = pytest.mark.orchestration


@pytest.fixture
def plan(tmp_path):
    def make(**values) -> Plan:
        tree = {"name": "news", "data": {"source": "rows.csv"}, "model": {"pretrained": "enc"}, "search": {"trials": 3}}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
        fixed = {
            "config_path": tmp_path / "run.yaml",
            "overrides": (),
            "home": tmp_path / "home",
            "mlflow_file": None,
            "cron": "30 2 * * *",
            "timezone": "UTC",
        }
        return Plan(**{**fixed, **values})

    return make


def test_nights_have_a_schedule_and_the_others_have_none(plan) -> None:
    made = {d.full_name: d for d in deployments(plan(timezone="Europe/Berlin"))}
    assert sorted(made) == [
        "bertft-join/news",
        "bertft-nightly/news",
        "bertft-pipeline/news-search",
        "bertft-predict/news",
        "bertft-promote/news",
    ]
    schedule = made["bertft-nightly/news"].schedules[0].schedule
    assert (schedule.cron, schedule.timezone) == ("30 2 * * *", "Europe/Berlin")
    assert not any(d.schedules for name, d in made.items() if name != "bertft-nightly/news")


def test_paths_of_a_deployment_are_absolute(plan) -> None:
    for made in deployments(plan()):
        paths = [v for k, v in made.parameters.items() if k in ("config_path", "home") and v]
        assert paths and all(Path(p).is_absolute() for p in paths)
        assert Path(made.job_variables["env"]["BERTFT_HOME"]).is_absolute()


def test_no_password_reaches_the_server(plan, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg://me:secret@db/mlflow")
    assert not any("secret" in str(made.job_variables) for made in deployments(plan()))


def test_parameters_are_typed_in_the_schema(plan) -> None:
    made = next(d for d in deployments(plan()) if d.full_name == "bertft-nightly/news")
    shown = made._parameter_openapi_schema.properties
    assert (shown["force"]["type"], shown["config_path"]["type"]) == ("boolean", "string")


@pytest.mark.parametrize(
    ("values", "told"),
    [({"timezone": "Mars/Base"}, "no such time zone"), ({"cron": "every night"}, "wanted five fields")],
)
def test_impossible_schedule_is_refused(plan, values, told) -> None:
    with pytest.raises(ConfigError, match=told):
        deployments(plan(**values))


@pytest.mark.parametrize(("collision", "strategy"), [("skip", "CANCEL_NEW"), ("queue", "ENQUEUE")])
def test_collision_policy_is_the_one_asked_for(plan, collision, strategy) -> None:
    made = next(d for d in deployments(plan(collision=collision)) if d.full_name == "bertft-nightly/news")
    limit = 2 if collision == "skip" else 1  # a second one begins, to say that it is skipped
    assert (made.concurrency_limit, made.concurrency_options.collision_strategy.value) == (limit, strategy)
