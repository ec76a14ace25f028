"""A home of an earlier release, for the tests that go on with one."""

from __future__ import annotations

import base64
import io
import json
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "homes" / "format_1.json"


@pytest.fixture(scope="session")
def restore_home() -> Callable[[Path], Path]:
    """Puts rows.csv, run.yaml, the encoder and `home`, with versions 1 (champion) and 2, into a folder."""

    def restore(root: Path) -> Path:
        packed = json.loads(FILE.read_text(encoding="utf-8"))
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed["archive"]))) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                file = root / member.name
                file.parent.mkdir(parents=True, exist_ok=True)
                value = content.read().replace(packed["root"].encode(), str(root).encode())
                if file.suffix == ".db":
                    with sqlite3.connect(file) as database:
                        database.executescript(value.decode("utf-8"))
                else:
                    file.write_bytes(value)
        return root

    return restore
