"""Sampler and pruner by name or by class: seeded by slot, refused by their key."""

from __future__ import annotations

import ast
import itertools
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest

from bertft_core import search as room
from bertft_core.base.errors import ConfigError
from bertft_core.base.hashes import hash_json
from bertft_core.config.auto import searched
from bertft_core.config.fit import FITS_VERSION
from bertft_core.config.run import RunConfig, parse_config
from bertft_core.search.slots import study_name
from bertft_core.search.space import space_hash
from bertft_core.search.storage import StudyStorage, open_storage
from bertft_core.search.strategies import pruner_for
from bertft_core.search.study import SearchStudy
from bertft_core.training.results import TrainingResult

RANGES = {"lr": {"low": 2e-5, "high": 2e-4, "log": True}, "alpha": {"low": 0.8, "high": 1.0}}
LISTS = {"batch_size": [16, 32], "epochs": [2, 3, 4]}
HALTON = {"name": "optuna.samplers:QMCSampler", "arguments": {"qmc_type": "halton", "scramble": True}}


def _config(**search: Any) -> RunConfig:
    tree = {
        "name": "n",
        "data": {"source": "x.csv"},
        "model": {"pretrained": "m"},
        "training": {"lr": 5e-5, "alpha": 0.9, "epochs": 3},
        "search": {"trials": 6, "space": RANGES | LISTS, **search},
    }
    return parse_config(tree, Path("."))


def _study(storage: StudyStorage, config: RunConfig) -> SearchStudy:
    return SearchStudy(storage, "n-study", config)


def _run(study: SearchStudy, most: int = 100) -> list[dict[str, Any]]:
    """Runs up to `most` slots; the parameters of all finished ones."""
    for _ in range(most):
        if (slot := study.claim()) is None:
            break
        score = 1 - abs(slot.params.get("alpha", 0.9) - 0.85) - slot.params.get("epochs", 2) / 100
        result = TrainingResult(state="complete", score=score, log_loss=1.0, best_epoch=1, steps=1, seconds=1.0)
        study.tell(slot.slot, result)
    return [r.params for r in study.results()]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random", "grid", "auto", HALTON])
def test_a_search_that_is_taken_up_by_another_process_proposes_the_same(sampler: Any, tmp_path: Path) -> None:
    space = LISTS | {"alpha": [0.8, 0.9, 1.0]} if sampler == "grid" else RANGES | LISTS
    config = _config(sampler=sampler, trials=6, space=space)
    whole, parts = (tmp_path / name for name in ("whole", "parts"))
    undisturbed = _run(_study(open_storage(None, whole), config))
    for _ in range(3):  # each study object is what a process has: nothing is kept between them but the storage
        found = _run(_study(open_storage(None, parts), config), most=2)
    assert len(undisturbed) == 6 and found == undisturbed
    assert len({tuple(sorted(params.items())) for params in found}) == 6


def test_samplers_differ_in_what_they_propose(tmp_path: Path) -> None:
    names = ["tpe", "gp", "cmaes", "random"]
    found = [_run(_study(open_storage(None, tmp_path / n), _config(sampler=n, trials=6))) for n in names]
    assert all(a[0] == b[0] and a[5] != b[5] for a, b in itertools.combinations(found, 2))


def test_a_grid_takes_every_point_that_counts_once(tmp_path: Path) -> None:
    space = {
        "unfreezing": ["late", "none"],
        "phase_restart": {"values": [True, False], "when": {"unfreezing": "late"}},
        "epochs": [2, 3],
    }
    found = _run(_study(open_storage(None, tmp_path), _config(sampler="grid", trials=6, space=space)))
    wanted = [{"unfreezing": "late", "phase_restart": r, "epochs": e} for r in (True, False) for e in (2, 3)]
    wanted += [{"unfreezing": "none", "epochs": e} for e in (2, 3)]
    assert sorted(map(str, map(sorted, map(dict.items, found)))) == sorted(
        map(str, map(sorted, map(dict.items, wanted)))
    )


def test_a_grid_with_fewer_points_than_trials_says_how_many(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"search\.trials: 7, but the grid of search\.space has 6 points: set it to 6"
    ):
        _study(open_storage(None, tmp_path), _config(sampler="grid", trials=7, space=LISTS))


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"sampler": "tpee"}, r"search\.sampler: must be one of auto, .*; did you mean tpe\?, was 'tpee'"),
        ({"sampler": 3}, r"search\.sampler: wanted a name, or \{name, arguments\}, was 3"),
        ({"sampler": {"name": "gp", "argument": {}}}, r"search\.sampler\.argument: unknown key"),
        ({"sampler": {"name": "tpe", "arguments": {"seed": 3}}}, r"search\.sampler: seed is given by slot"),
        (
            {"sampler": "grid"},
            r"search\.sampler: grid wants lists of values and no range, search\.space\.lr is a range",
        ),
        ({"sampler": "cmaes", "space": LISTS}, r"search\.sampler: cmaes moves in ranges alone, search\.space has none"),
        (
            {"sampler": "cmaes", "second": {"measure": "size"}, "space": {"model.pretrained": ["m", "n"]} | RANGES},
            r"search\.sampler: cmaes has one objective",
        ),
        ({"pruner": "halvin"}, r"search\.pruner: must be one of .* did you mean halving\?, was 'halvin'"),
        ({"pruner": "wilcoxon"}, r"search\.pruner: has no use here: .*1/8"),
        ({"pruner": {"name": "none", "arguments": {"a": 1}}}, r"search\.pruner: none takes no arguments"),
    ],
)
def test_a_wrong_choice_is_refused_by_its_key(search: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _config(**search)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"sampler": "no_such_package:Sampler"}, r"search\.sampler: no_such_package:Sampler cannot be imported"),
        ({"sampler": "optuna.samplers:Nothing"}, r"search\.sampler: optuna\.samplers:Nothing cannot be imported"),
        ({"sampler": "optuna.pruners:NopPruner"}, r"search\.sampler: .* is no class of Optuna's BaseSampler"),
        (
            {"sampler": {"name": "tpe", "arguments": {"startup": 3}}},
            r"search\.sampler\.arguments: TPESampler .*startup.*it takes .*n_startup_trials",
        ),
        ({"pruner": "optuna.samplers:RandomSampler"}, r"search\.pruner: .* is no class of Optuna's BasePruner"),
        ({"pruner": "optuna.pruners:PercentilePruner"}, r"search\.pruner\.arguments: PercentilePruner .*percentile"),
    ],
)
def test_a_class_that_cannot_be_used_is_refused_before_the_first_trial(
    search: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        _study(open_storage(None, tmp_path), _config(**search))


@pytest.mark.parametrize(
    ("search", "kind"),
    [
        ({"trials": 8}, "MedianPruner"),
        ({"trials": 9}, "HalvingPruner"),
        ({"trials": 3, "pruner": "halving"}, "HalvingPruner"),
        ({"trials": 40, "pruner": "median"}, "MedianPruner"),
        ({"trials": 40, "pruner": "none"}, "NopPruner"),
        (
            {"pruner": {"name": "optuna.pruners:PercentilePruner", "arguments": {"percentile": 25.0}}},
            "PercentilePruner",
        ),
    ],
)
def test_pruner_is_the_one_that_is_named(search: dict[str, Any], kind: str) -> None:
    config = _config(**search).search
    assert config is not None
    assert type(pruner_for(config)).__name__ == kind


def test_a_pruner_of_ones_own_decides_at_the_rungs(tmp_path: Path) -> None:
    """ThresholdPruner gives up what is below 0.5, whatever the others do."""
    pruner = {"name": "optuna.pruners:ThresholdPruner", "arguments": {"lower": 0.5}}
    study = _study(open_storage(None, tmp_path), _config(pruner=pruner))
    slot = study.claim()
    assert slot is not None and study.is_pruned
    assert not study.report(slot.slot, 0.25, 0.6) and study.report(slot.slot, 0.5, 0.4)


def test_what_fails_at_work_is_told_by_its_key_and_leaves_the_slot_open(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path)
    broken = {"sampler": {"name": "tpe", "arguments": {"n_startup_trials": "two"}}, "linear_probe": False}
    with pytest.raises(ConfigError, match=r"search\.sampler: tpe failed \(TypeError: .*\): look at its arguments"):
        _run(_study(storage, _config(**broken)))
    assert len(_run(_study(storage, _config()))) == 6  # under the same name: the study is of use
    pruner = {"name": "optuna.pruners:PercentilePruner", "arguments": {"percentile": 25.0, "n_startup_trials": -1}}
    with pytest.raises(ConfigError, match=r"search\.pruner\.arguments: PercentilePruner refuses them \(ValueError: "):
        _study(storage, _config(pruner=pruner))


def test_a_study_without_a_pruner_asks_for_no_scores_at_the_rungs(tmp_path: Path) -> None:
    assert not _study(open_storage(None, tmp_path), _config(pruner="none")).is_pruned


def test_another_sampler_or_pruner_is_another_study_and_the_defaults_keep_the_old_name() -> None:
    choices: list[dict[str, Any]] = [
        {},
        {"sampler": "gp"},
        {"sampler": "random"},
        {"sampler": {"name": "gp", "arguments": {"deterministic_objective": True}}},
        {"pruner": "none"},
        {"pruner": "median"},
    ]
    names = [study_name(_config(**choice), "rows", "encoder") for choice in choices]
    assert len(set(names)) == len(choices)
    assert names[0] == study_name(_config(sampler="auto", pruner="auto"), "rows", "encoder")
    config = _config()
    tree, search = config.resolved(), config.search
    here = ("threads", "device", "processes")
    training = {name: value for name, value in tree["training"].items() if name not in here}
    of_old = [training, tree["tokenization"], "macro_f1", "rows", "encoder", None, "", FITS_VERSION]
    assert search is not None and names[0] == f"n-{space_hash(search)}-{hash_json(of_old)[:12]}"


def test_metrics_have_their_names_in_the_study(tmp_path: Path) -> None:
    """They are set where an earlier version began the study without, and nobody is warned of it."""
    storage = open_storage(None, tmp_path)
    optuna.create_study(storage=storage.optuna, study_name="n-study", directions=["maximize"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _study(storage, _config())
    assert optuna.load_study(storage=storage.optuna, study_name="n-study").metric_names == ["macro_f1"]
    config = _config(second={"measure": "size"}, space={"model.pretrained": ["m", "n"]})
    two = SearchStudy(storage, "n-two", config)
    assert optuna.load_study(storage=storage.optuna, study_name=two.name).metric_names == ["macro_f1", "size_bytes"]


def test_private_names_of_optuna_are_few_and_mean_what_the_public_ones_say(tmp_path: Path) -> None:
    own = {"self", "cls"}
    used = {
        node.attr
        for file in Path(str(room.__path__[0])).glob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if not (isinstance(node.value, ast.Name) and node.value.id in own)
    }
    assert used == {"_trial_id", "_study_id"}
    storage = open_storage(None, tmp_path).optuna
    optuna.create_study(storage=storage, study_name="other").ask()
    study = optuna.create_study(storage=storage, study_name="one")
    trial = study.ask()
    number = storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name("one"), trial.number)
    assert study._study_id == storage.get_study_id_from_name("one")
    assert trial._trial_id == study.get_trials()[0]._trial_id == number != trial.number
    adopted = optuna.Trial(study, number)
    assert (adopted.number, adopted._trial_id) == (trial.number, number)


@pytest.mark.parametrize(
    ("sampler", "is_probed"), [("auto", True), ("tpe", True), ("gp", False), ("grid", False), (HALTON, False)]
)
def test_a_sampler_that_wants_equal_knobs_gets_no_trial_without_them(sampler: Any, is_probed: bool) -> None:
    """After one `gp` and `cmaes` would draw at random for ever; of a grid it would take a point's slot."""
    own = {"space": "auto" if is_probed else LISTS}  # a space of the user's own has no trial beside it by itself
    found = searched(_config(sampler=sampler, **own), rows=300, classes=2).search
    assert found is not None and found.linear_probe is is_probed
    if not is_probed:
        with pytest.raises(ConfigError, match=r"search\.linear_probe: .* wants the searched knobs in every trial"):
            _config(sampler=sampler, linear_probe=True, space=LISTS)
