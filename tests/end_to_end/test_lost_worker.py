"""A worker that is killed in a fit, its home with it: the same command on another one goes on, by a bucket alone."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from safetensors import safe_open

pytestmark = pytest.mark.slow


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket `workers`, and the environment that leads to it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    known = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**known, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}"}.items():
        monkeypatch.setenv(name, value)
    made = boto3.resource("s3").create_bucket(Bucket="workers")
    yield made
    made.objects.all().delete()
    server.stop()


def kept(bucket: Any, kind: str) -> list[str]:
    """Documents of what is kept whole."""
    return [o.key for o in bucket.objects.filter(Prefix=f"cache/v1/{kind}/") if o.key.endswith(".json")]


def weights(home: Path) -> dict[str, bytes]:
    (file,) = home.glob("runs/*/fit/model/model.safetensors")
    with safe_open(file, framework="np") as handle:
        return {name: handle.get_tensor(name).tobytes() for name in handle.keys()}  # noqa: SIM118


def test_fit_killed_with_its_worker_ends_elsewhere_as_an_undisturbed_one(
    project: Callable[..., Path], begin: Any, command: Any, document: Any, bucket: Any, tmp_path: Path
) -> None:
    config, shared = str(project(search={"trials": 0})), {"BERTFT_CACHE": "s3://workers/cache"}
    asked = ("finetune", config, "training.epochs=60", "--json")
    first = begin(tmp_path / "a" / "home", *asked, variables=shared)
    deadline = time.monotonic() + 300
    while not kept(bucket, "checkpoints"):
        assert first.poll() is None and time.monotonic() < deadline, first.said()
        time.sleep(0.02)
    first.kill()
    first.wait()
    assert kept(bucket, "tokens") and not list((tmp_path / "a").rglob("model/model.safetensors")), "it had not ended"
    shutil.rmtree(tmp_path / "a")

    done = command(tmp_path / "b" / "home", *asked, variables=shared)
    assert "fit goes on from a checkpoint of s3://workers/cache" in done.stderr
    document(done)
    document(command(tmp_path / "whole" / "home", *asked))
    assert weights(tmp_path / "b" / "home") == weights(tmp_path / "whole" / "home")
