"""What workers leave to each other in BERTFT_CACHE, over a folder and over S3 as moto speaks it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from bertft_core.base.cache import CHECKPOINTS, TOKENS, Cache
from bertft_core.base.names import file_name


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket `workers`; the environment leads to it."""
    import s3fs

    settings = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**settings, "AWS_ENDPOINT_URL_S3": endpoint}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = boto3.resource("s3").create_bucket(Bucket="workers")
    yield bucket
    bucket.objects.all().delete()


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "shared")
    request.getfixturevalue("s3")
    return "s3://workers/mail/cache"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "best").write_bytes(b"b" * 300)
    (tmp_path / "checkpoint").write_bytes(b"c" * 700)
    return {"best": tmp_path / "best", "checkpoint": tmp_path / "checkpoint"}


def pulled(cache: Cache, target: Path, name: str = "run.fit", **values: Any) -> dict[str, bytes]:
    """What a worker with an empty folder gets."""
    target.mkdir()
    is_done = cache.pull(CHECKPOINTS, name, target, values.get("needed", ("checkpoint",)))
    found = {file.name: file.read_bytes() for file in target.iterdir()}
    assert is_done == bool(found) and not list(target.parent.glob(".*.part-*"))
    return found


def paths(cache: Cache) -> list[str]:
    fs, root = cache._open()
    return sorted(path.removeprefix(root) for path in fs.find(root))


def test_what_one_worker_keeps_another_finds_and_the_newest_alone_stays(
    url: str, files: dict[str, Path], tmp_path: Path
) -> None:
    one, other = Cache(url), Cache(url)
    assert pulled(other, tmp_path / "none") == {}
    assert one.push(CHECKPOINTS, "run.fit", files)
    assert pulled(other, tmp_path / "first") == {"best": b"b" * 300, "checkpoint": b"c" * 700}
    files["checkpoint"].write_bytes(b"later")
    time.sleep(0.002)  # stamps count milliseconds
    assert one.push(CHECKPOINTS, "run.fit", files) and len(paths(one)) == 3
    assert pulled(other, tmp_path / "second")["checkpoint"] == b"later"
    (entry,) = other.entries()
    assert (entry.kind, entry.name) == (CHECKPOINTS, "run.fit") and abs(entry.written - time.time()) < 60
    assert 305 < entry.size < 700
    assert other.remove(CHECKPOINTS, "run.fit") and other.entries() == [] and paths(one) == []
    assert other.remove(CHECKPOINTS, "run.fit")


def test_half_a_push_is_never_taken_and_the_one_before_it_is(url: str, files: dict[str, Path], tmp_path: Path) -> None:
    cache = Cache(url)
    cache.push(CHECKPOINTS, "run.fit", files)
    fs, root = cache._open()
    document = next(path for path in paths(cache) if path.endswith(".json"))
    place, text = f"{root}/{CHECKPOINTS}/run.fit", fs.cat_file(root + document)
    for number, (body, written) in enumerate(
        (
            (b"c" * 700, None),  # killed before the document
            (b"c" * 700, text[:40]),  # in it
            (b"c" * 699, text),  # a file cut off
            (b"c" * 699 + b"d", text),  # another byte
            (b"c" * 700, text.replace(b'"best"', b'"../../best"')),
            (b"c" * 700, text.replace(b'"best"', b'"/etc/best"')),
            (b"c" * 700, text.replace(b'"checkpoint"', b'"chequepoint"')),  # what is needed is not there
            (b"c" * 700, b"[]"),
        )
    ):
        stamp = f"{9_000_000_000_000 + number}-00000000"
        fs.pipe_file(f"{place}/{stamp}/best", b"b" * 300)
        fs.pipe_file(f"{place}/{stamp}/checkpoint", body)
        if written is not None:
            fs.pipe_file(f"{place}/{stamp}.json", written)
    fs.pipe_file(f"{place}/../../not-ours.json", b"{}")
    fs.pipe_file(f"{place}/zzz.json", text)
    assert pulled(cache, tmp_path / "got") == {"best": b"b" * 300, "checkpoint": b"c" * 700}
    assert not (tmp_path / "best.json").exists() and not (tmp_path.parent / "best").exists()


def test_names_stay_below_the_cache(url: str, files: dict[str, Path], tmp_path: Path) -> None:
    cache = Cache(url)
    assert cache.push(TOKENS, "../../up", {"checkpoint": files["checkpoint"]})
    assert all(path.startswith(f"/{TOKENS}/{file_name('../../up')}/") for path in paths(cache))
    assert not cache.push(TOKENS, "k", {"../out": files["checkpoint"]})


@pytest.mark.parametrize(
    "address",
    ["s4://bucket/x", "s3://me:hunter22@workers/x", "s3://workers/x", "/proc/nowhere/x"],
    ids=["no such protocol", "a password in it", "nobody listens", "cannot be written"],
)
def test_cache_that_fails_is_told_once_and_asked_no_more(
    address: str,
    files: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell")
    monkeypatch.setenv("BERTFT_CACHE", address)
    s3fs.S3FileSystem.clear_instance_cache()
    cache, begun = Cache(address), time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert not cache.push(CHECKPOINTS, "run.fit", files)
        assert not cache.push(CHECKPOINTS, "run.fit", files)
        assert pulled(cache, tmp_path / "got") == {}
        assert not cache.remove(CHECKPOINTS, "run.fit")
    assert time.monotonic() - begun < 30
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("bertft_core")]
    assert said.startswith("BERTFT_CACHE: ") and "goes on without it" in said
    assert "hunter22" not in said and "do-not-tell" not in said


def test_document_of_a_push_has_the_digest_of_each_file(url: str, files: dict[str, Path]) -> None:
    cache = Cache(url)
    cache.push(CHECKPOINTS, "run.fit", files)
    fs, root = cache._open()
    facts = json.loads(fs.cat_file(root + next(path for path in paths(cache) if path.endswith(".json"))))
    assert {name: known["bytes"] for name, known in facts.items()} == {"best": 300, "checkpoint": 700}
    assert list(facts) == ["best", "checkpoint"]  # pulled in this order
