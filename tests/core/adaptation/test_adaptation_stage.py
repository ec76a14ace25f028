"""The stage: what enters the corpus, which adapted encoder a run begins with, night after night."""

from __future__ import annotations

import csv
import itertools
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertft_core.adaptation.lineage import AdaptedEncoder, carry_out
from bertft_core.adaptation.loop import adapt
from bertft_core.base.errors import ConfigError, DataError, TrainerDied
from bertft_core.base.files import is_complete
from bertft_core.base.hashes import encoder_fingerprint
from bertft_core.config.run import RunConfig, load_config, parse_config
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.tokens.encoding import load_tokenizer
from bertft_core.recipe.adapt import Gain
from bertft_core.recipe.adapt import adapt as adapt_stage
from bertft_core.recipe.chain import complete
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.prepare import Prepared, planned, prepare
from bertft_core.recipe.process.client import Trainer
from bertft_core.recipe.runs import identify

from .conftest import TOPICS, topic_texts

TEXTS = topic_texts(300, seed=3)
SECTION = {"steps": 30, "lr": 1e-2, "batch_size": 16, "max_length": 32}
CPU = ("float32", "cpu", 1)


def write_rows(file: Path, texts: list[str]) -> Path:
    labels = ["film" if text.split()[0] in TOPICS[0] + TOPICS[1] else "other" for text in texts]
    with open(file, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    return file


def write_texts(file: Path, texts: list[str]) -> Path:
    with open(file, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("id", "text"), *enumerate(texts)])
    return file


def configured(folder: Path, encoder: Path, section: Any = SECTION, **more: Any) -> RunConfig:
    data = {"source": "rows.csv", **more.pop("data", {})}
    training = {"epochs": 1, "precision": "float32", "device": "cpu", "threads": 1}
    tree = {"name": "n", "data": data, "model": {"pretrained": str(encoder)}, "training": training}
    return parse_config({**tree, "tokenization": {"max_length": 64}, "adaptation": section, **more}, folder)


def made(config: RunConfig, home: Path) -> tuple[Prepared, AdaptedEncoder]:
    """The rows of a configuration on its adapted encoder, which is made in this process where it is missing."""
    prepared = planned(config, prepare(config, home), home)
    assert prepared.adaptation is not None
    found = carry_out(prepared.adaptation, config, home, CPU, adapt)
    return prepared.standing_on(prepared.adaptation.with_folder(home)), found


@pytest.fixture(scope="module")
def first(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Prepared, AdaptedEncoder]:
    """A folder with 300 rows and a home in which they were adapted to."""
    folder = tmp_path_factory.mktemp("first")
    write_rows(folder / "rows.csv", TEXTS)
    return folder, *made(configured(folder, encoder), folder / "home")


def documents(prepared: Prepared, encoder: Path) -> list[str]:
    assert prepared.adaptation is not None
    corpus, tokenizer = prepared.adaptation.corpus, load_tokenizer(encoder)
    ids, offsets = (np.load(corpus.path / f"{name}.npy").tolist() for name in ("ids", "offsets"))
    return [tokenizer.decode(ids[a:b]) for a, b in itertools.pairwise(offsets)]


def test_the_corpus_of_train_is_the_training_rows_and_nothing_else(first, encoder: Path) -> None:
    _, prepared, _ = first
    rows = {split: prepared.dataset.table(split)["text"].to_pylist() for split in ("train", "validation", "test")}
    assert sorted(documents(prepared, encoder)) == sorted(rows["train"])
    assert not set(documents(prepared, encoder)) & {*rows["validation"], *rows["test"]}


def test_validation_and_test_texts_of_a_further_source_are_left_out_and_counted(
    first, encoder: Path, tmp_path: Path
) -> None:
    before = first[1]
    held = [t for split in ("validation", "test") for t in before.dataset.table(split)["text"].to_pylist()]
    near = [f" {text.upper()} !" for text in held]
    new = topic_texts(20, seed=77)
    write_texts(tmp_path / "more.csv", [*held, *near, *new, *new, "", TEXTS[0]])
    write_rows(tmp_path / "rows.csv", TEXTS)
    config = configured(tmp_path, encoder, {**SECTION, "corpus": ["train", "more.csv"]})
    prepared = planned(config, prepare(config, tmp_path / "home"), tmp_path / "home")
    assert prepared.adaptation is not None
    corpus, found = prepared.adaptation.corpus, documents(prepared, encoder)
    assert (corpus.judging, corpus.empty) == (2 * len(held) + (TEXTS[0] in held), 1)
    assert corpus.documents == before.dataset.n_train + 20 and set(new) <= set(found)
    assert not {t.lower() for t in held} & set(found)
    assert not np.isin(corpus.keys, corpus.judging_keys).any()
    assert f"{corpus.judging} validation or test texts" in str(corpus)


def test_sources_alone_leave_the_training_rows_out(first, encoder: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", TEXTS)
    (tmp_path / "notes" / "any").mkdir(parents=True)
    for i, text in enumerate(topic_texts(30, seed=5)):
        (tmp_path / "notes" / "any" / f"{i}.txt").write_text(text, encoding="utf-8")
    config = configured(tmp_path, encoder, {**SECTION, "corpus": "notes"})
    prepared = planned(config, prepare(config, tmp_path / "home"), tmp_path / "home")
    assert sorted(documents(prepared, encoder)) == sorted(topic_texts(30, seed=5))


def test_another_configuration_gives_its_training_rows_alone(first, encoder: Path, tmp_path: Path) -> None:
    """Rows that judge here are left out of it, those that judge there are not read."""
    mine = first[1].dataset
    held = [t for split in ("validation", "test") for t in mine.table(split)["text"].to_pylist()]
    write_rows(tmp_path / "rows.csv", TEXTS)
    (tmp_path / "elsewhere").mkdir()
    write_rows(tmp_path / "elsewhere" / "their.csv", [*topic_texts(120, seed=21), *held])
    theirs = "{name: theirs, data: {source: their.csv, split: {salt: another}}, model: {pretrained: none}}"
    (tmp_path / "elsewhere" / "their.yaml").write_text(theirs, encoding="utf-8")
    config = configured(tmp_path, encoder, {**SECTION, "corpus": ["train", "elsewhere/their.yaml"]})
    prepared = planned(config, prepare(config, tmp_path / "home"), tmp_path / "home")
    assert prepared.adaptation is not None
    other = prepare_dataset(
        load_config(tmp_path / "elsewhere" / "their.yaml").data, tmp_path / "home" / "data", tmp_path / "elsewhere"
    )
    their = {split: set(other.table(split)["text"].to_pylist()) for split in ("train", "validation", "test")}
    assert all(part & set(held) for part in their.values())
    wanted = set(mine.table("train")["text"].to_pylist()) | their["train"] - set(held)
    assert set(documents(prepared, encoder)) == wanted
    assert prepared.adaptation.corpus.judging == len(their["train"] & set(held))


@pytest.mark.parametrize(
    ("corpus", "said"),
    [
        ("nowhere.yaml", r"adaptation.corpus: nowhere.yaml: .*nowhere.yaml: no such configuration file"),
        ("nowhere.csv", "adaptation.corpus: 'nowhere.csv': no such file"),
        ("rows.csv", "no document is left of rows.csv"),
    ],
)
def test_a_corpus_that_is_none_is_told_by_its_key(corpus: str, said: str, encoder: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", TEXTS)
    data = {"split": {"validation": 0.5, "test": 0.49}} if corpus == "rows.csv" else {}
    config = configured(tmp_path, encoder, {**SECTION, "corpus": corpus}, data=data)
    prepared = prepare(config, tmp_path / "home")
    if corpus == "rows.csv":  # all that it holds judges
        write_texts(tmp_path / "rows.csv", prepared.dataset.table("test")["text"].to_pylist())
    with pytest.raises((ConfigError, DataError), match=said):
        planned(config, prepared, tmp_path / "home")


def test_a_run_begins_with_the_adapted_encoder_and_its_key_says_so(first, encoder: Path) -> None:
    folder, prepared, found = first
    assert found.result.is_adapted and found.chain == (found.key,)
    assert Path(prepared.pretrained) == folder / "home" / "adapted" / found.key / "encoder"
    assert encoder_fingerprint(prepared.pretrained) != prepared.base_encoder == encoder_fingerprint(encoder)
    plain = configured(folder, encoder, None)
    keys = {
        identify(config, rows, folder / "home").run_key
        for config, rows in ((plain, prepare(plain, folder / "home")), (configured(folder, encoder), prepared))
    }
    assert len(keys) == 2


def test_the_same_documents_are_done_at_once(first, encoder: Path) -> None:
    folder, prepared, found = first

    def never(spec: Any) -> Any:
        raise AssertionError("nothing is trained")

    again = planned(configured(folder, encoder), prepare(configured(folder, encoder), folder / "home"), folder / "home")
    assert again.adaptation is not None and again.adaptation.new == 0
    assert (again.pretrained, again.encoder) == (prepared.pretrained, prepared.encoder)
    assert carry_out(again.adaptation, configured(folder, encoder), folder / "home", CPU, never) == found


@pytest.mark.parametrize(("more", "chain"), [(3, 1), (30, 2)], ids=["1 percent", "10 percent"])
def test_few_new_rows_reuse_the_last_encoder_and_more_go_on_from_it(
    first, more: int, chain: int, encoder: Path, tmp_path: Path
) -> None:
    folder, _, before = first
    shutil.copytree(folder / "home", tmp_path / "home")
    write_rows(tmp_path / "rows.csv", TEXTS + topic_texts(more, seed=11))
    config = configured(tmp_path, encoder)
    prepared, found = made(config, tmp_path / "home")
    assert prepared.adaptation is not None
    assert found.chain[0] == before.key and len(found.chain) == chain
    if chain == 1:
        assert found == before and "below adaptation.refresh" in prepared.adaptation.why
    else:
        assert found.begins_with == before.key and "goes on from the last one" in prepared.adaptation.why
        assert found.result.had_head and found.result.steps < before.result.steps / 3
        assert found.documents > before.documents


def test_an_encoder_that_knows_a_test_text_of_today_is_not_gone_on_from(first, encoder: Path, tmp_path: Path) -> None:
    folder, _, before = first
    shutil.copytree(folder / "home", tmp_path / "home")
    write_rows(tmp_path / "rows.csv", TEXTS)
    config = configured(tmp_path, encoder, data={"split": {"salt": "another draw"}})
    prepared = planned(config, prepare(config, tmp_path / "home"), tmp_path / "home")
    assert prepared.adaptation is not None
    assert prepared.adaptation.begins_with == "" and before.key not in prepared.adaptation.chain


def test_damage_is_not_gone_on_from(first, encoder: Path, tmp_path: Path) -> None:
    folder, _, before = first
    shutil.copytree(folder / "home", tmp_path / "home")
    weights = tmp_path / "home" / "adapted" / before.key / "encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    write_rows(tmp_path / "rows.csv", TEXTS)
    found = made(configured(tmp_path, encoder), tmp_path / "home")[1]
    assert found.key == before.key and found.result.curve == before.result.curve
    assert is_complete(tmp_path / "home" / "adapted" / before.key)


def test_what_did_not_learn_leaves_the_configured_encoder(encoder: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", TEXTS)
    config = configured(tmp_path, encoder, {**SECTION, "lr": 1e-9})
    prepared, found = made(config, tmp_path / "home")
    assert not found.result.is_adapted and Path(prepared.pretrained) == encoder
    assert prepared.encoder == found.key  # of another run than without the section
    assert made(config, tmp_path / "home")[1] == found  # and is not tried again


def test_kill_9_of_the_trainer_loses_nothing(first, encoder: Path, tmp_path: Path) -> None:
    folder, _, uninterrupted = first
    write_rows(tmp_path / "rows.csv", TEXTS)
    config, home = configured(tmp_path, encoder), tmp_path / "home"
    prepared = planned(config, prepare(config, home), home)
    run = identify(config, prepared, home)
    with Trainer() as trainer:
        context = RunContext(config=config, prepared=prepared, run=run, home=home, trainer=trainer)

        def kill(fraction: float, facts: dict[str, Any]) -> None:
            if facts.get("step", 0) >= 12:
                assert trainer.pid is not None
                os.kill(trainer.pid, signal.SIGKILL)

        with pytest.raises(TrainerDied, match="run the command again to resume"):
            adapt_stage(context, kill)
        steps: list[int] = []
        adapted = adapt_stage(context, lambda fraction, facts: steps.append(facts.get("step", 99)))
    assert adapted is not None and adapted.encoder.result.curve == uninterrupted.result.curve
    weights = [h / "adapted" / uninterrupted.key / "encoder" / "model.safetensors" for h in (home, folder / "home")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not (home / "adapting" / uninterrupted.key).exists()


def test_a_search_chooses_between_base_and_adapted(first, encoder: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", TEXTS)
    search = {"trials": 4, "space": {"model.pretrained": ["base", "adapted"]}}
    config = configured(tmp_path, encoder, search=search)
    said: list[str] = []
    finished = complete(config, tmp_path / "home", on_stage=lambda stage, done, facts: said.append(stage))
    assert said.index("adaptation") < said.index("search") < said.index("fine-tuning")
    adapted, run = first[2].key, finished.context.run
    gain = Gain(**run.state()["gain"])
    assert gain.rows == first[1].dataset.n_validation and gain.low <= gain.difference <= gain.high
    assert finished.context.config.model.adapted == (gain.difference > 0) == (gain.chosen == "adapted")
    assert said.count("fine-tuning") and not (run.path / "encoders").exists()
    keys = {True: adapted, False: encoder_fingerprint(encoder)}
    assert finished.context.prepared.encoder == keys[finished.context.config.model.adapted]
    again = complete(config, tmp_path / "home")
    assert again.fit == finished.fit and again.context.run.run_key == finished.context.run.run_key
    moved = replace(again.context, config=config)
    assert moved.config.value_of("model.pretrained") == "adapted"


def test_the_last_one_serves_without_those_before_it(first, encoder: Path, tmp_path: Path) -> None:
    folder, _, before = first
    shutil.copytree(folder / "home", tmp_path / "home")
    config = configured(tmp_path, encoder)
    write_rows(tmp_path / "rows.csv", TEXTS + topic_texts(30, seed=11))
    second = made(config, tmp_path / "home")[1]
    shutil.rmtree(tmp_path / "home" / "adapted" / before.key)  # `bertft gc`, a month later
    write_rows(tmp_path / "rows.csv", TEXTS + topic_texts(60, seed=11))
    third = made(config, tmp_path / "home")[1]
    assert third.chain == (before.key, second.key, third.key)
