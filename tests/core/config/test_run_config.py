import math
from pathlib import Path

import pytest
import yaml

from bertft_core.base.errors import ConfigError
from bertft_core.config.evaluation import DecisionConfig
from bertft_core.config.run import load_config, parse_config
from bertft_core.config.yaml_files import parse_yaml

GOOD = {"name": "x", "data": {"source": "a.csv"}, "model": {"pretrained": "m"}}


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: x\ndata: {source: a.csv, lable: y}\nmodel: {pretrained: m}\ntraining: {lr: 5, alpha: 0}\n")
    with pytest.raises(ConfigError) as fault:
        load_config(file)
    text = str(fault.value)
    assert "3 faults" in text and "did you mean data.label?" in text
    assert "training.lr" in text and "training.alpha" in text and "was 5" in text


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("training.alpha=1.5", "training.alpha"),
        ("training.batch_size=true", "must not be true or false"),
        ("tokenization.max_length=4", "tokenization.max_length"),
        ("data.split.test=0.95", "below 1"),
        ("traning.lr=1", "did you mean training?"),
        ("search.space={lr: {low: 1.0e-4, high: 1.0e-5}}", "low must not exceed high"),
        ("search.space={lr: [5.0]}", "was 5.0"),
        ("name=a b", "letters, digits"),
        ("data.classes=[true, false]", "quote them where they are names"),
        ("training.lr=atuo", "training.lr: input should be a valid number"),
        ("training.epochs=0", "training.epochs: input should be greater than or equal to 1, was 0"),
        ("noequals", "wanted key=value"),
        ("base_dir=/tmp", "unknown key"),
    ],
)
def test_bad_value_names_key(tmp_path: Path, override: str, wanted: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: x\ndata: {source: a.csv}\nmodel: {pretrained: m}\n")
    with pytest.raises(ConfigError, match=wanted):
        load_config(file, [override])


def test_numbers_without_a_dot_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: x\ndata: {source: a.csv}\nmodel: {pretrained: m}\ntraining: {lr: 5e-5}\n")
    assert load_config(file, ["training.alpha=1"]).training.lr == 5e-5


@pytest.mark.parametrize("search", [{}, {"space": "auto"}])
def test_default_space_lr_and_epochs_are_auto_until_the_rows_are_known(search: dict[str, str]) -> None:
    found = parse_config({**GOOD, "search": search}, Path("."))
    tree = found.resolved()
    assert (tree["search"]["space"], tree["training"]["lr"], tree["training"]["epochs"]) == ("auto",) * 3
    assert parse_config(tree, Path(".")) == found


@pytest.mark.parametrize("name", ["bbc_news", "imdb", "quick_test"])
def test_examples_are_valid(name: str) -> None:
    assert load_config(Path(__file__).parents[3] / "examples" / f"{name}.yaml").name


def test_costs_become_a_matrix_in_the_order_of_the_classes() -> None:
    decision = DecisionConfig(costs={"fraud": {"fine": 10}, "fine": {"fraud": 1}})
    assert decision.cost_matrix(["fine", "fraud"]) == ((0, 1), (10, 0))
    with pytest.raises(ConfigError, match=r"decision\.costs: unknown class 'fraud'"):
        decision.cost_matrix(["fine", "spam"])


def test_thresholds_and_costs_exclude_each_other(tmp_path: Path) -> None:
    tree = {"name": "x", "data": {"source": "a.csv"}, "model": {"pretrained": "m"}}
    decision = {"thresholds": "f_beta", "costs": {"a": {"b": 1}}}
    with pytest.raises(ConfigError, match="exclude each other"):
        parse_config({**tree, "decision": decision}, tmp_path)


def test_key_that_occurs_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: x\ntraining:\n  lr: 1.0e-4\n  epochs: 2\n  lr: 2.0e-4\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:5: the key 'lr' occurs twice"):
        load_config(file)


def test_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("")
    with pytest.raises(ConfigError, match="found an empty file"):
        load_config(tmp_path / "c.yaml")


def test_files_of_the_splits_may_stand_below_split(tmp_path: Path) -> None:
    files = {"train": "a.csv", "validation": "b.csv", "test": "c.csv"}
    found = parse_config({**GOOD, "data": {"split": files}}, tmp_path).data
    assert (found.train, found.validation, found.test, found.source) == ("a.csv", "b.csv", "c.csv", None)


@pytest.mark.parametrize("phases", ["[[0.0, 1], [0.5, 7]]", "[[0, 0]]"])
def test_unfreezing_may_be_a_list_of_phases(tmp_path: Path, phases: str) -> None:
    (tmp_path / "c.yaml").write_text("name: x\ndata: {source: a.csv}\nmodel: {pretrained: m}\n")
    found = load_config(tmp_path / "c.yaml", [f"training.unfreezing={phases}"])
    assert found.resolved()["training"]["unfreezing"] == yaml.safe_load(phases)
    assert parse_config(found.resolved(), tmp_path).training == found.training


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (
            "slow",
            "must be one of gradual, late, fast, none, ulmfit, head_first, linear_probe, "
            "or .start, depth. pairs.*, was 'slow'",
        ),
        ([[0.0, 1.5]], "must be one of"),
        ([[0.0, True]], "must be one of"),
        ([[0.2, 1]], "must start at 0, starts at 0.2"),
        ([[0.0, 1], [0.5, 1]], "depths that rise"),
        ([[0.0, 1], [1.5, 2]], "stay below 1"),
    ],
)
def test_impossible_unfreezing_is_named(tmp_path: Path, value: object, wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"training\.unfreezing: .*{wanted}"):
        parse_config({**GOOD, "training": {"unfreezing": value}}, tmp_path)


@pytest.mark.parametrize(("key", "value"), [("cut_fraction", 0.2), ("ratio", 16)])
def test_key_of_another_schedule_is_refused(tmp_path: Path, key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"training\.{key}: has no effect under training\.schedule linear"):
        parse_config({**GOOD, "training": {key: value}}, tmp_path)
    parse_config({**GOOD, "training": {key: value, "schedule": "slanted_triangular"}}, tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "unread", "read"),
    [
        ("phase_restart", True, ("gradual", "none", [[0.0, 2]]), ("late", "fast", "ulmfit", [[0.0, 0], [0.5, 2]])),
        ("embedding_rate", "paper_code", ("gradual", "fast"), ("none", "late", "ulmfit", "head_first", [[0.0, 5]])),
    ],
)
def test_key_that_the_unfreezing_leaves_unread_is_refused(
    tmp_path: Path, key: str, value: object, unread: tuple[object, ...], read: tuple[object, ...]
) -> None:
    for unfreezing in unread:
        with pytest.raises(ConfigError, match=rf"training\.{key}: has no effect under training\.unfreezing "):
            parse_config({**GOOD, "training": {key: value, "unfreezing": unfreezing}}, tmp_path)
    for unfreezing in read:
        parse_config({**GOOD, "training": {key: value, "unfreezing": unfreezing}}, tmp_path)


def test_key_that_no_unfreezing_of_the_search_reads_is_refused(tmp_path: Path) -> None:
    restart = {**GOOD, "training": {"phase_restart": True}}
    why = "gradual, which has one phase: set that to late, or phase_restart to false, was True"
    for search in ({}, {"search": {"space": {"unfreezing": ["gradual", "none"]}}}):
        with pytest.raises(ConfigError, match=why):
            parse_config({**restart, **search}, tmp_path)
    found = parse_config({**restart, "search": {"space": {"unfreezing": ["gradual", "late"]}}}, tmp_path)
    assert found.with_values({"unfreezing": "gradual"}).training.phase_restart
    with pytest.raises(ConfigError, match=why):  # the preset's own restart too
        parse_config({**GOOD, "preset": "ulmfit", "training": {"unfreezing": "gradual"}}, tmp_path)
    parse_config({**GOOD, "preset": "ulmfit"}, tmp_path)


@pytest.mark.parametrize(("key", "loss"), [("focal_gamma", "focal"), ("tau", "logit_adjusted")])
def test_key_of_another_loss_is_refused(tmp_path: Path, key: str, loss: str) -> None:
    with pytest.raises(ConfigError, match=rf"training\.{key}: has no effect under training\.loss cross_entropy"):
        parse_config({**GOOD, "training": {key: 0.5}}, tmp_path)
    parse_config({**GOOD, "training": {key: 0.5, "loss": loss}}, tmp_path)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("heavy", "must be one of none, balanced, sqrt, or weights by class"), ({"a": 0}, "greater than 0"), ({}, "must")],
)
def test_impossible_class_weights_are_named(tmp_path: Path, value: object, wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"training\.class_weights.*{wanted}"):
        parse_config({**GOOD, "training": {"class_weights": value}}, tmp_path)


def test_class_weights_by_class_take_numbers_as_names(tmp_path: Path) -> None:
    found = parse_config({**GOOD, "training": {"class_weights": {1: 2, "b": 0.5}}}, tmp_path)
    assert found.training.class_weights == {"1": 2.0, "b": 0.5}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("[010, 020]", ["010", "020"]),
        ("[12:30, 1:00]", ["12:30", "1:00"]),
        ("[yes, no, on, off, y]", ["yes", "no", "on", "off", "y"]),
        ("[2026-01-31, 0x1F, 1_000, 0o17, 00, =]", ["2026-01-31", "0x1F", "1_000", "0o17", "00", "="]),
        ("[1, -2, +3, 0]", [1, -2, 3, 0]),
        ("['1', \"2\"]", ["1", "2"]),
    ],
)
def test_classes_are_read_as_written(tmp_path: Path, written: str, read: list[object]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"name: x\ndata: {{source: a.csv, classes: {written}}}\nmodel: {{pretrained: m}}\n")
    assert load_config(file).data.classes == read
    file.write_text("name: x\ndata: {source: a.csv}\nmodel: {pretrained: m}\n")
    assert load_config(file, [f"data.classes={written}"]).data.classes == read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("2e-5", 2e-5), ("1E3", 1e3), (".5", 0.5), ("3.", 3.0), ("-0.1", -0.1), ("1.10", 1.1), ("+1.5e+2", 150.0)),
        *(("~", None), ("", None), ("null", None), ("true", True), ("FALSE", False), ("-.inf", -math.inf)),
        *(("01.5", "01.5"), ("1.2.3", "1.2.3"), ("1e", "1e"), (".", "."), ("nulL", "nulL"), ("tRue", "tRue")),
        *(("{a: {<<: {b: 1}, c: 2}}", {"a": {"b": 1, "c": 2}}), ("{1: x, 01: y}", {1: "x", "01": "y"})),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert parse_yaml(text) == value and type(parse_yaml(text)) is type(value)


def test_costs_take_numbers_as_names_as_classes_and_weights_do(tmp_path: Path) -> None:
    found = parse_config({**GOOD, "decision": {"costs": {0: {1: 5}, "1": {0: 1.5}}}}, tmp_path)
    assert found.decision.cost_matrix(("0", "1")) == ((0.0, 5.0), (1.5, 0.0))
    with pytest.raises(ConfigError, match=r"decision\.costs.*must not be true or false"):
        parse_config({**GOOD, "decision": {"costs": {True: {"a": 1}}}}, tmp_path)


@pytest.mark.parametrize("name", ["x\n", "x\r\n", "a/b", "a:b", "it's", "", " x", "-x", "x" * 101])
def test_a_name_that_cannot_be_a_path_or_a_model_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name: must be 1 to 100 letters, digits"):
        parse_config({**GOOD, "name": name}, tmp_path)


def test_key_of_a_schedule_that_is_searched_is_accepted(tmp_path: Path) -> None:
    search = {"space": {"schedule": ["linear", "slanted_triangular"]}}
    found = parse_config({**GOOD, "training": {"ratio": 16}, "search": search}, tmp_path)
    assert found.with_values({"schedule": "linear"}).training.ratio == 16


@pytest.mark.parametrize(
    ("section", "values", "wanted"),
    [
        ("model", {"layers": [0]}, r"model\.layers: has no effect under model\.pooling cls"),
        ("model", {"combine": "max", "pooling": "mean"}, r"model\.combine: has no effect under model\.pooling mean"),
        ("model", {"combine": "max", "pooling": "layers", "layers": -1}, r"model\.combine: has no effect on one layer"),
        ("model", {"pooling": "layers", "layers": []}, "must be a layer"),
        ("model", {"pooling": "layers", "layers": [1, 1]}, "must name each layer once"),
        ("model", {"pooling": "layers", "layers": "last_0"}, "all, first_N or last_N"),
        ("tokenization", {"chunk_pooling": "max"}, r"chunk_pooling: has no effect under .*truncation head\+tail"),
        ("tokenization", {"max_chunks": None}, r"max_chunks: has no effect"),
        (
            "tokenization",
            {"truncation": "chunks", "max_length": 64, "chunk_overlap": 33},
            r"chunk_overlap: must be at most half of tokenization\.max_length, 32, was 33",
        ),
    ],
)
def test_features_and_chunks_that_cannot_be_are_named(
    tmp_path: Path, section: str, values: dict[str, object], wanted: str
) -> None:
    with pytest.raises(ConfigError, match=wanted):
        parse_config({**GOOD, section: {**GOOD.get(section, {}), **values}}, tmp_path)


def test_keys_of_a_pooling_that_is_searched_are_accepted_and_survive(tmp_path: Path) -> None:
    search = {"space": {"model.pooling": ["cls", "layers"], "tokenization.truncation": ["head", "chunks"]}}
    tree = {**GOOD, "model": {**GOOD["model"], "layers": [-1, 0]}, "tokenization": {"chunk_overlap": 4}}
    found = parse_config({**tree, "search": search}, tmp_path)
    assert found.with_values({"model.pooling": "layers"}).model.layers == (-1, 0)
    assert parse_config(found.resolved(), tmp_path).model == found.model


def test_a_run_without_features_is_what_it_was_before_there_were_any(tmp_path: Path) -> None:
    identity = parse_config(GOOD, tmp_path).identity()
    assert set(identity["model"]) == {"pretrained"}
    assert set(identity["tokenization"]) == {"max_length", "truncation"}
    mean = parse_config({**GOOD, "model": {**GOOD["model"], "pooling": "mean"}}, tmp_path).identity()
    assert set(mean["model"]) == {"pretrained", "pooling"}


def test_slice_that_is_no_regular_expression_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.slices\.odd: is no regular expression"):
        parse_config({**GOOD, "evaluation": {"slices": {"odd": "("}}}, tmp_path)
