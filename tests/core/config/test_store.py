"""mlflow.yaml: where it is found, what it may say, who wins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bertft_core.base.errors import ConfigError
from bertft_core.config.store import DEFAULTS, load_mlflow_config


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mlflow.yaml").write_text(text)
    return folder / "mlflow.yaml"


def load(*places, **environ):
    return load_mlflow_config(*places, environ=environ)


def test_repository_file_equals_the_packaged_defaults():
    repository = Path(__file__).parents[3] / "mlflow.yaml"
    assert repository.read_text() == DEFAULTS.read_text()


def test_defaults_lie_below_home(tmp_path):
    store = load(None, None, tmp_path).store(tmp_path / "home")
    assert store.tracking_uri == f"sqlite:///{tmp_path}/home/mlflow.db" == store.registry_uri
    assert store.artifact_root == f"{tmp_path}/home/artifacts"


def test_explicit_beats_config_folder_beats_cwd(tmp_path):
    explicit = write(tmp_path / "x", "experiment: explicit")
    write(tmp_path / "c", "experiment: beside")
    write(tmp_path / "w", "experiment: cwd")
    assert load(explicit, tmp_path / "c", tmp_path / "w").experiment == "explicit"
    assert load(None, tmp_path / "c", tmp_path / "w").experiment == "beside"
    assert load(None, tmp_path / "none", tmp_path / "w").experiment == "cwd"


def test_environment_wins(tmp_path):
    file = write(tmp_path, "tracking_uri: sqlite:///a.db\nexperiment: a")
    found = load(file, None, tmp_path, MLFLOW_TRACKING_URI="http://host:5000", MLFLOW_EXPERIMENT_NAME="b")
    assert (found.tracking_uri, found.experiment) == ("http://host:5000", "b")
    assert found.store(tmp_path).artifact_root is None


def test_relative_paths_start_at_the_file(tmp_path):
    file = write(tmp_path / "sub", "tracking_uri: sqlite:///m/a.db\nartifact_root: ./arts")
    found = load(file, None, tmp_path)
    assert found.tracking_uri == f"sqlite:///{tmp_path}/sub/m/a.db"
    assert found.artifact_root == f"{tmp_path}/sub/arts"


def test_model_name_carries_the_configuration_name(tmp_path):
    assert load(None, None, tmp_path).model_name("bbc") == "bbc"


def test_promotion_rule_carries_the_settings(tmp_path):
    file = write(tmp_path, "promotion: {min_score: {macro_f1: 0.8}, min_gain: 0.01}")
    rule = load(file).promotion_rule("macro_f1")
    assert (rule.metric, rule.min_score, rule.min_gain) == ("macro_f1", {"macro_f1": 0.8}, 0.01)


def test_promotion_rule_of_the_defaults_equals_the_rules_own(tmp_path):
    from bertft_core.config.promotion import PromotionRule

    assert load(DEFAULTS, None, tmp_path).promotion_rule("macro_f1") == PromotionRule()


def test_promotion_check_is_switched_off_by_null(tmp_path):
    file = write(tmp_path, "promotion: {max_class_loss: null, test: non_inferiority, margin: 0.005, per: week}")
    rule = load(file).promotion_rule("accuracy")
    assert (rule.max_class_loss, rule.test, rule.margin, rule.per) == (None, "non_inferiority", 0.005, "week")


def test_baseline_is_off_with_the_word_as_it_stands_and_another_word_is_refused(tmp_path):
    assert load(write(tmp_path, "promotion: {baseline: off}")).promotion.baseline == "off"
    with pytest.raises(ConfigError, match=r"promotion\.baseline must be one of not_worse, better, off, was 'on'"):
        load(write(tmp_path, "promotion: {baseline: on}"))


@pytest.mark.parametrize("text", ["{test: non_inferiority}", "{margin: 0.01}", "{no_worse_margin: 0.01}"])
def test_promotion_settings_that_do_not_fit_together_are_refused(tmp_path, text):
    with pytest.raises(ConfigError, match="margin"):
        load(write(tmp_path, f"promotion: {text}"))


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("experimnt: a", "experiment"),
        ("promotion: {levle: 0.9}", "promotion.level"),
        ("aliases: {champoin: live}", "aliases.champion"),
    ],
)
def test_misspelt_key_is_answered_with_the_nearest_one(tmp_path, text, near):
    with pytest.raises(ConfigError, match=rf"unknown key; did you mean {near}\?"):
        load(write(tmp_path, text))


@pytest.mark.parametrize("key", ["metric", "resamples", "seed"])
def test_what_is_no_setting_of_the_file_is_an_unknown_key(tmp_path, key):
    with pytest.raises(ConfigError, match=rf"promotion\.{key}: unknown key"):
        load(write(tmp_path, f"promotion: {{{key}: 1}}"))


def test_number_without_a_point_is_a_number(tmp_path):
    """YAML 1.1 reads 5e-3 as a text."""
    file = write(tmp_path, "promotion: {test: non_inferiority, margin: 5e-3, min_score: {accuracy: 8e-1}}")
    assert (load(file).promotion.margin, load(file).promotion.min_score) == (0.005, {"accuracy": 0.8})


def test_every_fault_of_the_promotion_rule_has_a_line_of_its_own(tmp_path):
    file = write(tmp_path, "promotion: {levle: 1, level: true, per: decade, max_size_mb: -1, require_approval: maybe}")
    with pytest.raises(ConfigError) as caught:
        load(file)
    keys = [line.split()[0].rstrip(":") for line in str(caught.value).splitlines()[1:]]
    names = ("levle", "level", "max_size_mb", "per", "require_approval")
    assert keys == [f"promotion.{name}" for name in names]


def test_all_faults_are_reported_at_once(tmp_path):
    file = write(tmp_path, "experimnt: a\naliases: {champion: latest}\npromotion: {level: 2, min_score: {f2: 1}}")
    with pytest.raises(ConfigError) as caught:
        load(file)
    for key in ("experimnt", "aliases.champion", "promotion.level", "promotion.min_score.f2", str(file)):
        assert key in str(caught.value)


def test_password_in_the_file_is_refused_and_not_shown(tmp_path):
    file = write(tmp_path, "tracking_uri: postgresql+psycopg://u:secret@host/db")
    with pytest.raises(ConfigError, match="must hold no password") as caught:
        load(file)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["- a", "a: [", "origin: x"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"mlflow\.yaml"):
        load(write(tmp_path, text))


@pytest.mark.parametrize("name", ["a\nb", " a", "\x1b[2J", "a\u200b", "x" * 256])
def test_an_experiment_of_the_environment_is_checked_as_that_of_the_file(tmp_path, name):
    with pytest.raises(ConfigError, match=r"experiment: must be 1 to 255 signs"):
        load_mlflow_config(None, tmp_path, tmp_path, environ={"MLFLOW_EXPERIMENT_NAME": name})


@pytest.mark.parametrize("text", ["{name}", "team/{name} nights", "plain"])
def test_an_experiment_may_be_named_after_the_configuration(tmp_path, text):
    found = load(write(tmp_path, f"experiment: '{text}'"))
    assert found.of("mail").experiment == text.replace("{name}", "mail") == found.of("mail").store(tmp_path).experiment
    assert found.of("mail").of("other").experiment == found.of("mail").experiment
    assert found.of("mail").model_name("other") == "other"  # the registered model's name is filled in by itself


@pytest.mark.parametrize("text", ["{Name}", "{}", "{name", "a}", "{name}{x}", "{name}" + "x" * 150, " {name}"])
def test_any_other_placeholder_of_an_experiment_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"experiment: (the only placeholder is \{name\}|must be 1 to)"):
        load(write(tmp_path, f"experiment: '{text}'"))


def test_missing_explicit_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "none.yaml")


def test_one_alias_for_two_roles_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="three different names"):
        load(write(tmp_path, "aliases: {champion: live, previous: live}"))


@pytest.mark.parametrize(
    "name",
    [
        *(
            "nlp/{name}",
            "a:{name}",
            "a?{name}",
            "a\\{name}",
            "bob's {name}",
            'say "{name}"',
            "{name}\n",
            " {name}",
            "{name} ",
        ),
        *("", ".", "..{name}", "a\u200b{name}", "a\x07{name}", "a" * 156),
    ],
)
def test_a_registered_model_that_mlflow_cannot_hold_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"registered_model: must be 1 to 155 signs"):
        load(write(tmp_path, f"registered_model: {json.dumps(name)}"))


@pytest.mark.parametrize(
    "name",
    [
        "{name}",
        "team.{name}_v-2",
        "News (English) {name}",
        "prod@{name}",
        "Kundengr\u00fc\u00dfe {name}",
        "R&D, #1 {name} (50%)",
        ".{name}",
    ],
)
def test_a_registered_model_may_have_these_names(tmp_path, name):
    assert load(write(tmp_path, f"registered_model: {json.dumps(name)}")).model_name("news") == name.replace(
        "{name}", "news"
    )


def test_an_alias_with_a_line_end_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"aliases\.champion: must be letters"):
        load(write(tmp_path, 'aliases: {champion: "best\\n"}'))
