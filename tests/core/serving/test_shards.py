"""A folder of files is scored in shards: what is there is never scored again, and never of another model or input."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertft_core.base.errors import InputError
from bertft_core.base.files import read_json
from bertft_core.model.classifier import load_classifier, save_classifier
from bertft_core.serving import shards as sharding
from bertft_core.serving.artifact import ArtifactCard, build_artifact, read_card
from bertft_core.serving.predictor import Predictor
from bertft_core.serving.shards import Job, ScoredShard, ShardScorer, Work, cut, finished, open_output
from bertft_core.serving.tables import TableSettings
from bertft_core.testing.encoders import tiny_encoder

CLASSES = ("ham", "spam")
TEXTS = [f"good film, number {i} " * (1 + i % 4) for i in range(11)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    encoder = tiny_encoder(root / "encoder", layers=1, seed=3)
    model = save_classifier(load_classifier(encoder, CLASSES, seed=5), encoder, root / "fit", CLASSES)
    return build_artifact(model, root / "served", ArtifactCard(max_length=24, truncation="head", classes=CLASSES))


@pytest.fixture
def job() -> Job:
    return Job(model="models:/m/3", run_id="r1", digest="d", shard_rows=4, settings=TableSettings())


def write(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": texts, "note": pa.array([None] * len(texts), pa.int32())}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": t, "tags": [i]}) + "\n" for i, t in enumerate(texts)), "utf-8")
    else:
        with open(path, "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([("id", "text"), *enumerate(texts)])
    return path


def score_all(source: str, target: Path, served: Path, job: Job) -> list[ScoredShard]:
    """What `predict_folder` does in one process; the shards that were scored now."""
    parts = cut(source, read_card(served), job.settings, job.shard_rows)
    open_output(target, job)
    done, _ = finished(target, parts)
    scorer = ShardScorer(Work(job=job, folder=served, target=target))
    return [scorer.score(part) for part in parts if part.name not in done]


def answers(target: Path) -> dict[str, pd.DataFrame]:
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".jsonl": lambda p: pd.read_json(p, lines=True)}
    files = [p for p in sorted(target.rglob("*-[0-9]*.*")) if p.suffix in readers]
    return {str(p.relative_to(target)): readers[p.suffix](p) for p in files}


def test_shards_of_every_kind_hold_all_rows_once_and_say_who_answered(served: Path, job: Job, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.csv", TEXTS)
    write(tmp_path / "in" / "b.jsonl", TEXTS[:4])
    write(tmp_path / "in" / "year=2026" / "part-0.parquet", TEXTS)
    write(tmp_path / "in" / "_temporary" / "half.csv", TEXTS)
    (tmp_path / "in" / "_SUCCESS").touch()
    (tmp_path / "in" / "empty.csv").touch()
    score_all(str(tmp_path / "in"), tmp_path / "out", served, job)
    found = answers(tmp_path / "out")
    assert {name: len(frame) for name, frame in found.items()} == {
        **{f"a-0000{i}.csv": n for i, n in enumerate((4, 4, 3))},
        "b-00000.jsonl": 4,
        **{f"year=2026/part-0-0000{i}.parquet": n for i, n in enumerate((4, 4, 3))},
    }
    wanted = Predictor.load(served).predict_frame({"text": TEXTS})
    for start in ("a", "year"):
        rows = pd.concat([frame for name, frame in found.items() if name.startswith(start)], ignore_index=True)
        assert rows["text"].tolist() == TEXTS and rows["label"].tolist() == wanted["label"].tolist()
        assert abs(rows["confidence"] - wanted["confidence"]).max() < 1e-6
        assert set(rows["model"]) == {"models:/m/3"} and set(rows["run_id"]) == {"r1"}
    types = {str(pq.read_schema(p)) for p in (tmp_path / "out").rglob("*.parquet")}
    assert len(types) == 1 and "note: int32" in types.pop()  # though no row has a note


def test_what_is_finished_stays_and_what_changed_is_scored_anew(served: Path, job: Job, tmp_path: Path) -> None:
    source, out = str(tmp_path / "in"), tmp_path / "out"
    changing, leaving = write(tmp_path / "in" / "a.csv", TEXTS), write(tmp_path / "in" / "b.csv", TEXTS[:3])
    assert len(score_all(source, out, served, job)) == 4 and not score_all(source, out, served, job)
    (out / "a-00001.csv").write_text("half a file", encoding="utf-8")
    (out / "_shards" / ".a-00002.csv.4194305-abcd1234.part").touch()  # of a process that no longer is
    leaving.unlink()
    assert [s.name for s in score_all(source, out, served, job)] == ["a-00001.csv"]
    assert not list(out.rglob("*.part")) and (out / "b-00000.csv").is_file()
    write(changing, ["another text", *TEXTS[1:6]])
    assert [s.name for s in score_all(source, out, served, job)] == ["a-00000.csv", "a-00001.csv"]
    rows = pd.concat([frame for name, frame in answers(out).items() if name.startswith("a")])
    assert rows["text"].tolist() == ["another text", *TEXTS[1:6]]


def test_another_version_or_reading_is_refused(served: Path, job: Job, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", TEXTS[:2])
    score_all(str(source), tmp_path / "out", served, job)
    for other, words in (
        (replace(job, model="models:/m/4", digest="e"), r"models:/m/3', now 'models:/m/4'"),
        (replace(job, shard_rows=5), "shard_rows 4, now 5"),
        (replace(job, settings=TableSettings(strict=True)), "strict False, now True"),
    ):
        with pytest.raises(InputError, match=words):
            open_output(tmp_path / "out", other)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(InputError, match="holds what no `bertft predict` wrote"):
        open_output(tmp_path / "mine", job)


def test_an_input_that_changes_meanwhile_or_a_bad_row_leaves_nothing(served: Path, job: Job, tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.csv", TEXTS), tmp_path / "out"
    parts = cut(str(source), read_card(served), job.settings, 4)
    open_output(out, job)
    scorer = ShardScorer(Work(job=job, folder=served, target=out))
    scorer.score(parts[0])
    os.utime(source, (1, 1))
    with pytest.raises(InputError, match="changed while it was scored"):
        scorer.score(parts[1])
    write(source, [*TEXTS[:6], "", *TEXTS[7:]])
    strict = replace(job, settings=TableSettings(strict=True))
    parts = cut(str(source), read_card(served), strict.settings, 4)
    with pytest.raises(InputError, match=r"in\.csv: text in row 7 must be a text"):  # of the file, not of the shard
        ShardScorer(Work(job=strict, folder=served, target=out)).score(parts[1])
    assert [p.name for p in out.iterdir() if p.is_file()] == ["in-00000.csv"]
    assert sorted(p.name for p in (out / "_shards").iterdir()) == ["in-00000.csv.done", "job.json"]
    assert read_json(out / "_shards" / "job.json")["model"] == "models:/m/3"


def test_inputs_of_a_pattern_and_what_is_wrong_with_them(served: Path, job: Job, tmp_path: Path) -> None:
    for name in ("x/1.csv", "y/1.csv", "y/2.csv", "y/2.tsv", "y/notes.txt"):
        write(tmp_path / name, TEXTS[:1])
    names = sharding.find_inputs(str(tmp_path / "*" / "1.csv"))
    assert list(names.values()) == ["x/1.csv", "y/1.csv"]
    for source, words in ((tmp_path / "z*", "no file fits"), (tmp_path / "y" / "*", "notes.txt is no table")):
        with pytest.raises(InputError, match=words):
            sharding.find_inputs(str(source))
    write(tmp_path / "y" / "2.ndjson", [])
    (tmp_path / "y" / "2.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    (tmp_path / "y" / "2.ndjson").write_text('{"text": "a"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="would have one name for answers"):
        cut(str(tmp_path / "y"), read_card(served), job.settings, 4)
