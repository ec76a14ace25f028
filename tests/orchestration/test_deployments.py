"""What is deployed, without a server."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bertft_core.base.errors import ConfigError
from bertft_core.config.fit import UNFREEZING
from bertft_core.config.run import load_config
from flows.deployments import Plan, deployments
from flows.parameters import Hyperparameters, all_overrides

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


def test_pool_of_another_kind_gets_paths_below_its_own_working_directory(plan, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"image": "registry/team/news:1", "env": {"OMP_NUM_THREADS": "4"}}
    for made in deployments(plan(job_variables=given, folders=(tmp_path / "in", Path("/data"))), "docker"):
        assert [made.parameters[k] for k in ("config_path", "home") if k in made.parameters][-1] == "home"
        assert made.parameters.get("config_path", "run.yaml") == "run.yaml"
        assert (made.job_variables["image"], "working_dir" in made.job_variables) == ("registry/team/news:1", False)
        env = made.job_variables["env"]
        assert (env["BERTFT_HOME"], env["OMP_NUM_THREADS"], env["DO_NOT_TRACK"]) == ("home", "4", "true")
        assert env.get("BERTFT_FILES", "in:/data") == "in:/data"
        assert set(made.tags) == {"bertft", "news"}


def test_package_of_the_project_that_would_hide_ours_is_named(plan, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flows").mkdir()
    assert deployments(plan(), "docker")  # a mere folder
    (tmp_path / "flows" / "__init__.py").touch()
    assert deployments(plan())  # a process begins in BERTFT_HOME
    with pytest.raises(ConfigError, match="flows/__init__.py would hide bertft's package flows from a run: rename"):
        deployments(plan(), "docker")


def test_no_password_reaches_the_server(plan, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg://me:secret@db/mlflow")
    assert not any("secret" in str(made.job_variables) for made in deployments(plan()))


def test_parameters_are_typed_in_the_schema(plan) -> None:
    made = next(d for d in deployments(plan()) if d.full_name == "bertft-nightly/news")
    shown = made._parameter_openapi_schema.properties
    assert (shown["force"]["type"], shown["config_path"]["type"]) == ("boolean", "string")
    assert {"format": "date", "type": "string"} in shown["as_of"]["anyOf"]
    for made in deployments(plan()):  # a form that says what each field is
        properties = made._parameter_openapi_schema.properties
        assert all(one.get("description") for one in properties.values()), (made.full_name, properties)
    search = next(d for d in deployments(plan()) if d.full_name == "bertft-pipeline/news-search")
    last = search._parameter_openapi_schema.properties["last"]
    assert last["enum"] == ["search", "finetune", "evaluate", "promote"]


def test_fields_of_the_form_are_keys_of_the_configuration_with_its_ranges(plan) -> None:
    made = next(d for d in deployments(plan()) if d.full_name == "bertft-nightly/news")
    fields = made._parameter_openapi_schema.definitions["Hyperparameters"]["properties"]
    assert all(one.get("description") for one in fields.values())
    assert set(fields["unfreezing"]["anyOf"][0]["enum"]) == set(UNFREEZING)
    given = Hyperparameters(lr=3e-5, epochs="auto", max_length=64, pretrained="enc2", unfreezing="late", trials=0)
    config = load_config(plan().config_path, all_overrides(["training.lr=1e-3", "training.seed=5"], given))
    training = config.training
    assert (training.lr, training.epochs, training.seed, training.unfreezing) == (3e-5, "auto", 5, "late")
    assert (config.tokenization.max_length, config.model.pretrained, config.search.trials) == (64, "enc2", 0)
    for name, field in fields.items():  # the end of each range is one that the configuration has, too
        numbers = [one for one in field["anyOf"] if one["type"] in ("integer", "number")]
        for bounds in numbers:
            for bound, step in (("minimum", -1), ("maximum", 1)):
                if bound in bounds:
                    load_config(plan().config_path, Hyperparameters(**{name: bounds[bound]}).overrides())
                    beyond = Hyperparameters.model_construct(**{name: bounds[bound] + step})
                    with pytest.raises(ConfigError):
                        load_config(plan().config_path, beyond.overrides())


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
