"""An adaptation whose memory runs out: a real limit on the address space of a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bertft_core.adaptation.loop import ENCODER
from bertft_core.testing.encoders import tiny_encoder

from .conftest import topic_texts, write_corpus

# Adaptations one after the other in one process: a small one loads all that is needed, then each may take so many MB.
_LIMITED = """
import json, os, resource, sys
from dataclasses import asdict
from pathlib import Path
from bertft_core.adaptation.loop import adapt
from bertft_core.adaptation.results import AdaptationSpec
from bertft_core.base.errors import TrialPruned
endless = resource.getrlimit(resource.RLIMIT_AS)
answers = []
for spec, megabytes in json.loads(sys.stdin.read()):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 10**6, endless[1]) if megabytes else endless)
    try:
        answer = asdict(adapt(AdaptationSpec.from_json(spec)))
    except TrialPruned as stop:
        answer = stop.reason
    resource.setrlimit(resource.RLIMIT_AS, endless)
    answers.append(answer)
print(json.dumps(answers))
"""


def test_blocks_that_memory_does_not_hold_together_are_computed_fewer_at_a_time(spec, tmp_path: Path) -> None:
    """With the same losses; and where it does not hold a single one the reason says so."""
    encoder = tiny_encoder(tmp_path / "encoder", layers=2, hidden=64)
    corpus = write_corpus(topic_texts(60, words=256), encoder, tmp_path / "corpus")
    common = {"steps": 3, "lr": 1e-3, "max_length": 256, "batch_size": 32, "pretrained": encoder, "corpus": corpus}
    warm, small, tiny, whole = (
        spec(**{**common, **changes}, key=name, output=str(tmp_path / name)).to_json()
        for name, changes in (("warm", {"batch_size": 1, "steps": 2}), ("small", {}), ("tiny", {}), ("whole", {}))
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", _LIMITED],
        capture_output=True,
        text=True,
        timeout=540,
        input=json.dumps([(warm, 0), (tiny, 1), (small, 24), (whole, 0)]),
        # no 64 MB of addresses for the arena of a new thread, and what is freed goes back at once
        env={**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    _, tiny, small, whole = json.loads(done.stdout.splitlines()[-1])
    assert whole["micro_batch"] is None and 1 <= small["micro_batch"] < 32, (small, tiny)
    for one, two in zip(whole["curve"], small["curve"], strict=True):
        assert two == pytest.approx(one, abs=2e-3)  # dropout is drawn by the blocks of a part
    assert small["reason"] or (tmp_path / "small" / ENCODER).is_dir()
    assert tiny.startswith("oom: ")
