"""The prefix cache's files: budget and age, disks that refuse, processes side by side and processes killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertft_core.model.prefix import cache as prefix_cache
from bertft_core.model.prefix import store as prefix_store
from bertft_core.model.prefix.cache import PrefixCache

from .rows import KEY, OTHER, WIDTH, activations, again, files, look, make_rows, store

Launch = Callable[..., subprocess.Popen[str]]


# Budget and age -------------------------------------------------------------------------------------------


def segment_bytes(count: int = 7) -> int:
    """Rows of 1 to 7 tokens, 24 bytes of index each, and the footer."""
    return int(make_rows(count)[1].sum()) * WIDTH * 4 + 24 * count + 60


def test_used_bytes_are_those_of_the_files(cache: PrefixCache) -> None:
    store(cache, 7)
    store(cache, 7, first=7)
    assert cache.used_bytes() == sum(p.stat().st_size for p in files(cache.store.root))
    assert cache.used_bytes() == cache.figures.bytes_written == 2 * segment_bytes()


def test_least_recently_used_segment_of_all_keys_goes_first(root: Path) -> None:
    budget = 3 * segment_bytes() + 100
    for first, key in enumerate([KEY, OTHER, KEY]):
        store(PrefixCache(root, budget), 7, 7 * first, key)
    for age, path in enumerate(sorted(files(root), key=lambda p: p.name)):
        os.utime(path, (1000 + age, 1000 + age))
    look(PrefixCache(root, budget), 7)  # uses the oldest one
    fit = PrefixCache(root, budget)
    store(fit, 7, 21)
    assert len(look(fit, 7, 7, OTHER).missing) == 7
    assert [len(look(fit, 7, first).missing) for first in (0, 14, 21)] == [0, 0, 0]
    assert fit.used_bytes() <= budget
    assert fit.figures.evicted_bytes == segment_bytes()


def test_what_this_fit_uses_is_never_evicted(root: Path) -> None:
    budget = 2 * segment_bytes() + 100
    store(PrefixCache(root, budget), 7)
    fit = PrefixCache(root, budget)
    view = look(fit, 7)
    assert store(fit, 7, 7) == ""
    assert "training.prefix_cache_gb" in store(fit, 7, 14)
    assert len(view.read(np.arange(7), 7)[1]) == 0
    assert fit.used_bytes() == 2 * segment_bytes()


def test_nothing_is_evicted_for_what_will_not_fit_anyway(root: Path) -> None:
    budget = 2 * segment_bytes()
    store(PrefixCache(root, budget), 7)
    fit = PrefixCache(root, budget)
    assert store(fit, 70, 7) != ""
    assert len(look(fit, 7).missing) == 0


def test_evicted_segment_stays_readable_where_it_is_open(root: Path) -> None:
    budget = segment_bytes() + 100
    reader = PrefixCache(root, budget)
    store(reader, 7)
    view = look(reader, 7)
    assert store(PrefixCache(root, budget), 7, 7) == ""
    assert len(look(PrefixCache(root, budget), 7).missing) == 7
    assert len(view.read(np.arange(7), 7)[1]) == 0


def test_long_fit_keeps_its_segments_young(cache: PrefixCache, monkeypatch: pytest.MonkeyPatch) -> None:
    store(cache, 3)
    view = look(cache, 3)
    (segment,) = files(cache.store.root)
    os.utime(segment, (1000, 1000))
    view.read(np.array([0]), 3)
    assert segment.stat().st_mtime == 1000
    monkeypatch.setattr(prefix_cache, "_TOUCH_SECONDS", -1.0)
    view.read(np.array([0]), 3)
    assert segment.stat().st_mtime > 1000


@pytest.mark.parametrize("budget", [0, 10])
def test_budget_of_nothing_is_full_at_once(root: Path, budget: int) -> None:
    writer = PrefixCache(root, budget).writer([KEY], WIDTH, "float32")
    assert writer.is_full
    assert "training.prefix_cache_gb" in writer.reason


def test_full_writer_ignores_what_follows(root: Path) -> None:
    fit = PrefixCache(root, 100)
    assert store(fit, 7) != ""
    assert files(root) == []
    assert len(look(fit, 7).missing) == 7


# Disks that refuse ----------------------------------------------------------------------------------------

# Adds rows of 8 KB until the writer is full, then reads all that is stored.
_FILL = """
import resource, sys
from pathlib import Path
import numpy as np
from bertft_core.model.prefix import cache as prefix_cache, store as prefix_store
root, file_bytes = Path(sys.argv[1]), int(sys.argv[2])
prefix_cache.SEGMENT_BYTES = 1 << 20
# as if somebody else took the room between the look and the write: nothing has to stay free, nor be there
prefix_store.LEAST_FREE_BYTES, prefix_store.LEAST_FREE_SHARE = -(10**12), -(10**6)
if file_bytes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
cache, key = prefix_cache.PrefixCache(root, 10**9), "0a" * 16
with cache.building("aa"), cache.writer([key], 256, "float32") as writer:
    for row in range(2000):
        keys = np.array([[row, 1]], dtype=np.uint64)
        writer.add(keys, np.array([8]), {key: np.full((8, 256), row, dtype=np.float32)})
keys = np.stack([np.arange(2000), np.ones(2000)], axis=1).astype(np.uint64)
view = cache.view(key, keys, np.full(2000, 8), 256, "float32")
stored = np.setdiff1d(np.arange(2000), view.missing)
hidden, bad = view.read(stored, 8)
assert len(bad) == 0 and (hidden == stored[:, None, None]).all()
print(writer.is_full, len(stored), len(list(root.rglob("*.part"))), writer.reason, sep="|")
"""
_MOUNT = 'mount -t tmpfs -o size=4m tmpfs "$1" && exec "$2" -P -c "$3" "$1/prefix" 0'


def on_small_disk(folder: Path, code: str, environment: dict[str, str]) -> list[str]:
    """Lines printed by code that runs with a real file system of 4 MB of its own, gone when it ends.

    Where mounting one is not allowed: with a limit of 0.5 MB per file (as in the test that follows).
    """
    command = ["unshare", "-rm", "sh", "-c", _MOUNT, "sh", str(folder), sys.executable, code]
    if not may_mount():
        command = [sys.executable, "-P", "-c", code, str(folder / "prefix"), "500000"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


def test_disk_that_fills_up_keeps_what_was_whole(
    tmp_path: Path, clean_environment: Callable[[Path], dict[str, str]]
) -> None:
    (line,) = on_small_disk(tmp_path, _FILL, clean_environment(tmp_path))
    is_full, stored, unfinished, reason = line.split("|")
    assert (is_full, unfinished) == ("True", "0")
    if may_mount():
        assert 200 < int(stored) < 500  # of 512 that 4 MB would hold
        assert "No space left" in reason


def test_write_that_fails_half_way_leaves_no_file(
    tmp_path: Path, launch: Launch, finished: Callable[..., list[str]]
) -> None:
    """RLIMIT_FSIZE: the kernel takes the first 0.5 MB of a segment of 1 MB and refuses the rest."""
    (line,) = finished(launch(_FILL, str(tmp_path / "prefix"), "500000"))
    assert line.startswith("True|0|0|") and "File too large" in line


def test_disk_nearly_full_stays_as_it_is(cache: PrefixCache, monkeypatch: pytest.MonkeyPatch) -> None:
    store(cache, 7)
    fit = again(cache)
    look(fit, 7)
    monkeypatch.setattr(prefix_store, "LEAST_FREE_BYTES", shutil.disk_usage(cache.store.root).free + 10**9)
    assert "GB free" in store(fit, 7, 7)
    assert len(look(fit, 7).missing) == 0
    assert len(files(cache.store.root)) == 1


# Two fits on a disk of which 1 MB has to stay free: the second evicts what the first wrote first.
_TWO_FITS = """
import shutil, sys
from pathlib import Path
import numpy as np
from bertft_core.model.prefix import cache as prefix_cache, store as prefix_store
root = Path(sys.argv[1])
prefix_store.LEAST_FREE_BYTES, prefix_cache.SEGMENT_BYTES = 1 << 20, 1 << 19
for key in ("0a" * 16, "0b" * 16):
    cache = prefix_cache.PrefixCache(root, 10**9)
    with cache.writer([key], 256, "float32") as writer:
        for row in range(300 if key[1] == "a" else 100):
            keys = np.array([[row, 1]], dtype=np.uint64)
            writer.add(keys, np.array([8]), {key: np.full((8, 256), row, dtype=np.float32)})
    assert shutil.disk_usage(root).free >= 1 << 20
    print(writer.is_full, cache.figures.evicted_bytes > 0)
"""


def test_old_segments_go_before_a_disk_is_called_full(
    tmp_path: Path, clean_environment: Callable[[Path], dict[str, str]]
) -> None:
    lines = on_small_disk(tmp_path, _TWO_FITS, clean_environment(tmp_path))
    assert lines == (["False False", "False True"] if may_mount() else ["False False", "False False"])


_READ_ONLY = """
import os, sys
from pathlib import Path
import numpy as np
from bertft_core.model.prefix.cache import PrefixCache
root, key = Path(sys.argv[1]), "0a" * 16
if os.geteuid() == 0:
    os.seteuid(65534)  # root may write anywhere
cache = PrefixCache(root, 10**9)
keys, lengths = np.array([[1, 2]], dtype=np.uint64), np.array([1])
with cache.building("aa"), cache.writer([key], 4, "float32") as writer:
    print(writer.is_full, writer.reason)
    writer.add(keys, lengths, {key: np.ones((1, 4), np.float32)})
print(cache.used_bytes(), cache.view(key, keys, lengths, 4, "float32").missing.tolist())
"""


def test_folder_that_cannot_be_written_is_full_with_the_reason(
    launch: Launch, finished: Callable[..., list[str]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        os.chmod(folder, 0o555)
        (text,) = finished(launch(_READ_ONLY, str(Path(folder) / "prefix")))
        os.chmod(folder, 0o755)
    assert text.startswith("True [Errno 13] Permission denied")
    assert text.endswith("0 [0]\n")


def test_root_below_a_file_is_full_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = PrefixCache(tmp_path / "file" / "prefix", 10**9)
    with cache.building("aa"):
        assert "Not a directory" in store(cache, 3)


# Several processes ----------------------------------------------------------------------------------------

# Builds rows 0..count-1, one add per row, several segments; prints how many rows this process added.
_BUILD = """
import sys, time
from pathlib import Path
import numpy as np
from bertft_core.model.prefix import cache as prefix_cache
root, count, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
prefix_cache.SEGMENT_BYTES = 20_000
number = np.arange(count, dtype=np.uint64)
keys, lengths = np.stack([number, number * 7 + 1], axis=1), (number % 7 + 1).astype(np.int64)
cache, key, added = prefix_cache.PrefixCache(root, 10**9), "0a" * 16, 0
view = cache.view(key, keys, lengths, 8, "float32")
print("ready", flush=True)
sys.stdin.readline() if len(sys.argv) > 4 else None
with cache.building("aa"), cache.writer([key], 8, "float32") as writer:
    view.refresh()
    for row in view.missing.tolist():
        n = int(lengths[row])
        values = (np.arange(n * 8).reshape(n, 8) + row % 997).astype(np.float32)
        writer.add(keys[row : row + 1], lengths[row : row + 1], {key: values})
        added += 1
        time.sleep(pause)
assert not writer.reason, writer.reason
view.refresh()
assert not len(view.missing)
print(added, flush=True)
"""


def check_all(cache: PrefixCache, count: int) -> None:
    """All rows are stored, once each, and right."""
    keys, lengths = make_rows(count)
    hidden, bad = look(cache, count).read(np.arange(count), 7)
    found = np.concatenate([h[:n] for h, n in zip(hidden, lengths, strict=True)])
    assert len(bad) == 0
    assert np.array_equal(found, activations(keys, lengths))
    data = int(lengths.sum()) * WIDTH * 4 + 24 * count
    assert (cache.used_bytes() - data) % 60 == 0  # nothing but footers beside each row once
    assert cache.used_bytes() - data == 60 * len(files(cache.store.root))


def test_two_processes_building_at_once_store_each_row_once(
    cache: PrefixCache, launch: Launch, finished: Callable[..., list[str]]
) -> None:
    both = [launch(_BUILD, str(cache.store.root), "600", "0.0005") for _ in range(2)]
    added = [int(text.split()[1]) for text in finished(*both)]
    assert sorted(added) == [0, 600]
    check_all(cache, 600)


def test_builder_killed_while_writing_leaves_whole_segments_only(
    cache: PrefixCache, launch: Launch, finished: Callable[..., list[str]]
) -> None:
    killed = launch(_BUILD, str(cache.store.root), "600", "0.002")
    deadline = time.monotonic() + 30
    while len([p for p in files(cache.store.root) if p.suffix == ".seg1"]) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    kept = 600 - len(look(again(cache), 600).missing)
    assert 0 < kept < 600
    (text,) = finished(launch(_BUILD, str(cache.store.root), "600", "0"))
    assert text.split()[1] == str(600 - kept)
    check_all(cache, 600)


# Dies by SIGKILL in the middle of a segment's bytes: the file has its final size, its end is a hole.
_DIE = """
import os, sys
from pathlib import Path
import numpy as np
from bertft_core.model.prefix.cache import PrefixCache
from bertft_core.model.prefix.segments import Pending
rows = Pending()
rows.add(np.array([[1, 2]], dtype=np.uint64), np.array([1000]), np.ones((1000, 8), np.float32))
class Dying(Pending):
    def write(self, handle, key):
        handle.write(b"x" * 20000)
        handle.flush()
        os.kill(os.getpid(), 9)
cache = PrefixCache(Path(sys.argv[1]), 10**9)
cache.store.write("0a" * 16, Dying(chunks=rows.chunks, entries=rows.entries))
"""


def test_half_segment_of_a_killed_process_is_never_read_and_goes_with_the_next_write(
    cache: PrefixCache, launch: Launch
) -> None:
    assert launch(_DIE, str(cache.store.root)).wait(timeout=30) == -signal.SIGKILL
    (part,) = files(cache.store.root)
    assert part.stat().st_size > 32000
    assert len(look(cache, 3).missing) == 3
    store(cache, 3)
    check_all(cache, 3)


def test_a_write_removes_what_a_killed_process_left_under_another_key(cache: PrefixCache, launch: Launch) -> None:
    launch(_DIE, str(cache.store.root)).wait(timeout=30)
    store(cache, 3, key=OTHER)
    assert [p.parent.name for p in files(cache.store.root)] == [OTHER]
    assert not (cache.store.root / KEY).exists()


def test_a_write_spares_what_a_living_process_writes(cache: PrefixCache) -> None:
    part, descriptor = cache.store._reserve(KEY, 5000)
    assert again(cache).used_bytes() == 5000
    store(again(cache), 3, key=OTHER)
    assert part.stat().st_size == 5000
    os.close(descriptor)
    store(again(cache), 3, key=OTHER)
    assert not part.exists()


def test_a_write_removes_older_formats_and_spares_newer_ones(cache: PrefixCache) -> None:
    store(cache, 3, key=OTHER)
    folder = cache.store.root / OTHER
    (folder / "1-2-3.seg0").write_bytes(b"old")
    (folder / "1-2-3.seg2").write_bytes(b"new")
    store(cache, 3)
    assert sorted(p.suffix for p in folder.iterdir()) == [".seg1", ".seg2"]


_HOLD = """
import sys, time
from pathlib import Path
from bertft_core.model.prefix.cache import PrefixCache
with PrefixCache(Path(sys.argv[1]), 10**9).building("aa"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_waiting_builder_says_so_until_the_other_dies(
    cache: PrefixCache, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_cache, "_POLL_SECONDS", 0.2)
    holder = launch(_HOLD, str(cache.store.root))
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    calls: list[float] = []

    def on_wait() -> None:
        calls.append(time.monotonic())
        if len(calls) == 2:
            holder.send_signal(signal.SIGKILL)
            holder.wait(timeout=30)

    begin = time.monotonic()
    with cache.building("aa", on_wait):
        assert len(calls) == 2
    assert 0.4 <= calls[1] - begin < 5
    assert cache.figures.seconds_waiting >= 0.4
    assert cache.figures.seconds_building < 0.5
    holder.communicate()


def test_other_names_are_built_side_by_side(cache: PrefixCache) -> None:
    with cache.building("aa"), again(cache).building("bb", on_wait=lambda: pytest.fail("waited")):
        pass
