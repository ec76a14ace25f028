"""Artefacts and rows in a bucket: moto's server speaks S3 on 127.0.0.1."""

from __future__ import annotations

import gzip
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pytest
from moto.server import ThreadedMotoServer

from bertft_core.base.errors import DataError
from bertft_core.config.run import DataConfig
from bertft_core.config.store import Store, load_mlflow_config
from bertft_core.data.prepare import prepare_dataset
from bertft_core.registry import aliases, versions
from bertft_core.registry.answers import score_in_fresh_process
from bertft_core.serving.predictor import Predictor
from bertft_core.tracking import store as tracking

pytestmark = pytest.mark.orchestration
TEXTS = ["a short one", "the quick brown fox jumps over " * 12, "hello there"]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket `models`; the environment leads MLflow to it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    settings = {
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    made = boto3.resource("s3", endpoint_url=settings["MLFLOW_S3_ENDPOINT_URL"]).create_bucket(Bucket="models")
    yield made
    urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/reset", b"").close()  # its buckets outlive the server
    server.stop()


@pytest.fixture
def store(blank: Path, tmp_path: Path) -> Store:
    shutil.copytree(blank, tmp_path / "home")
    (tmp_path / "mlflow.yaml").write_text("{artifact_root: 's3://models/desk', experiment: own}\n")
    return tracking.open_store(load_mlflow_config(tmp_path / "mlflow.yaml", environ={}), tmp_path / "home")


@pytest.mark.slow
def test_a_version_in_a_bucket_answers_from_there_as_the_folder_it_came_from(
    bucket: Any, store: Store, served: list[Path], tmp_path: Path
) -> None:
    run = tracking.find_or_create_run(store, "k", "final")
    version = versions.register(store, run, served[0], "letters", {"bertft.run_id": "k"})
    aliases.set_alias(store, "letters", "champion", version.version)
    keys = [found.key for found in bucket.objects.all()]
    assert any(key.startswith("desk/") and key.endswith("model.safetensors") for key in keys), keys
    assert not list((tmp_path / "home").glob("artifacts/*"))
    pd.DataFrame({"text": TEXTS}).to_parquet(tmp_path / "rows.parquet")
    answers = score_in_fresh_process(
        "models:/letters@champion", tmp_path / "rows.parquet", tmp_path / "answers.npz", 0, store
    )
    expected = Predictor.load(served[0]).probabilities(TEXTS)
    np.testing.assert_allclose(answers.probabilities(("ham", "spam")), expected, atol=1e-6)


def test_a_file_of_a_run_goes_to_the_bucket(bucket: Any, store: Store) -> None:
    run = tracking.find_or_create_run(store, "k", "final")
    tracking.log_text(store, run, "all is well", "notes.txt")
    (found,) = bucket.objects.all()
    assert found.key == f"desk/{run}/artifacts/notes.txt" and found.get()["Body"].read() == b"all is well"


def test_rows_in_a_bucket_are_those_of_the_file_until_the_object_changes(bucket: Any, tmp_path: Path) -> None:
    rows = [f"text number {i},{('ham', 'spam')[i % 2]}\n" for i in range(200)]
    (tmp_path / "mails.csv").write_text("text,label\n" + "".join(rows))

    def prepared(source: str) -> str:
        return prepare_dataset(DataConfig(source=source), tmp_path / "home" / "data", tmp_path).fingerprint

    same = prepared("mails.csv")
    bucket.put_object(Key="rows/mails.csv.gz", Body=gzip.compress((tmp_path / "mails.csv").read_bytes()))
    assert prepared("s3://models/rows/mails.csv.gz") == same
    for name, part in (("a", rows[:70]), ("b", rows[70:])):
        bucket.put_object(Key=f"tables/{name}.csv", Body=("text,label\n" + "".join(part)).encode())
    assert prepared("s3://models/tables") == prepared("s3://models/tables/") == same
    bucket.put_object(Key="tables/c.csv", Body=b"text,label\none more,ham\n")
    assert prepared("s3://models/tables") != same
    for source, wanted in {
        "s3://models/rows/gone.csv": "no such object or folder",
        "s3://nowhere/rows.csv": "no such object or folder|cannot be read",
    }.items():
        with pytest.raises(DataError, match=rf"data\.source: {source}: ({wanted})") as fault:
            prepared(source)
        assert "hunter2" not in str(fault.value)
