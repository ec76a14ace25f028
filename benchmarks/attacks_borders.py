"""Attacks by what comes from elsewhere: encoder folders, YAML, names, and by clocks and hung nights."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from attacks import Attack


def refusal(attempt: Any, most_seconds: float) -> str:
    """What the fault of an attempt says, and whether it came in time."""
    from bertft_core.base.errors import BertftError

    begun = time.process_time()
    try:
        answer = attempt()
    except BertftError as fault:
        taken = time.process_time() - begun
        words = f"{taken:.3f} s of processor: {type(fault).__name__}: {fault}"
        return f"refused in {words}" if taken < most_seconds else f"OPEN: it took {words}"
    return f"OPEN: it was taken, as {str(answer)[:80]}"


def code_of_an_encoder(folder: Path) -> str:
    """An encoder's folder with Python files, an auto_map that names them, and pickles."""
    from bertft_core.base.errors import ModelError
    from bertft_core.data.tokens.encoding import load_tokenizer
    from bertft_core.model.weights import survey
    from bertft_core.testing.encoders import tiny_encoder

    encoder, ran = tiny_encoder(folder / "encoder", layers=1, hidden=8), folder / "ran"
    code = f"open({str(ran)!r}, 'w').close()\n"

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return exec, (code,)

    for name in ("configuration_evil.py", "modeling_evil.py", "tokenization_evil.py"):
        (encoder / name).write_text(code)
    for name in ("pytorch_model.bin", "training_args.bin"):
        (encoder / name).write_bytes(pickle.dumps(Evil()))
    names = {"AutoConfig": "configuration_evil.C", "AutoTokenizer": ["tokenization_evil.T", None]}
    names |= dict.fromkeys(("AutoModel", "AutoModelForSequenceClassification"), "modeling_evil.M")
    for name in ("config.json", "tokenizer_config.json"):
        file = encoder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": names}))
    (encoder / "tokenizer.json").unlink()  # so that transformers reads the other files
    load_tokenizer(encoder)
    survey(encoder)
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps({**config, "model_type": "evil"}))
    try:
        survey(encoder)
    except ModelError as fault:
        said = f"refused: {fault}"
    else:
        said = "OPEN: an encoder of an unknown kind was read"
    return "OPEN: its code ran" if ran.exists() else said


def absurd_encoder(folder: Path) -> str:
    """config.json with 500 million labels, a vocabulary of 10^12, and 2 GB of nothing."""
    from bertft_core.data.tokens.encoder_fit import encoder_config

    file = folder / "config.json"
    said = []
    for value in ({"num_labels": 500_000_000}, {"vocab_size": 10**12}, {"text_config": {"num_experts": 10**9}}):
        file.write_text(json.dumps(value))
        said.append(refusal(lambda: encoder_config(folder), 2))
    with open(file, "r+b") as handle:
        handle.truncate(1 << 31)
    said.append(refusal(lambda: encoder_config(folder), 2))
    return next((words for words in said if words.startswith("OPEN")), said[-1])


def yaml_bombs(folder: Path) -> str:
    """Aliases of aliases, an anchor inside itself, 100,000 brackets, and a tag that names a function."""
    from bertft_core.config.run import load_config

    lines = ["x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, 12)]
    texts = ("\n".join(lines), "x: &x [*x]", "x: " + "[" * 100_000, 'x: !!python/object/apply:os.system ["true"]')
    file, said = folder / "run.yaml", []
    for text in texts:
        file.write_text(text)
        said.append(refusal(lambda: load_config(file), 0.1))
    return next((words for words in said if words.startswith("OPEN")), said[0])


def names_into_paths(folder: Path) -> str:
    """A promotion of a/../../../../x, by the command and by its flow's lock, and a version's id from a tag."""
    from bertft_core.base.names import checked, file_name, model_name
    from flows.command.arguments import parse

    name = "a/../../../../x"
    try:
        parse(["promote", name])
    except SystemExit as ended:
        if ended.code != 2:
            return f"OPEN: exit code {ended.code}"
    else:
        return "OPEN: the command took the name"
    file = folder / "home" / "locks" / f"release-{file_name(name)}.lock"
    if file.resolve().parent != folder / "home" / "locks":
        return f"OPEN: {file}"
    return refusal(lambda: checked(model_name, name, "the registered model's name"), 0.1)


def files_of_a_deployed_scoring(folder: Path) -> str:
    """An output that leaves the deployment's folder, plainly and through a link."""
    from flows.scoring import inside

    place = folder / "files"
    place.mkdir()
    (place / "link").symlink_to(folder)
    paths = ("../x.csv", "link/x.csv", "/etc/passwd", str(folder / "home" / "nights" / "news.jsonl"))
    said = [refusal(lambda path=path: inside([place], folder / "home", "output", path), 1) for path in paths]
    return next((words for words in said if words.startswith("OPEN")), said[0])


def hung_night(folder: Path) -> str:
    """A night whose process hangs while the next one comes due, and is killed then."""
    from bertft_core.base.errors import BusyError
    from bertft_core.base.locks import exclusive
    from bertft_core.config.nightly import NightlyConfig

    lock = folder / "nightly-a.lock"
    code = (
        "import sys, time; from bertft_core.base.locks import exclusive\n"
        "with exclusive(sys.argv[1], 'a night'): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", code, str(lock)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            try:
                with exclusive(lock, "a night"):
                    return "OPEN: two nights at once"
            except BusyError as busy:
                said = str(busy)
        finally:
            other.kill()
    with exclusive(lock, "a night"):
        pass
    limit = NightlyConfig().timeout
    return f"refused: {said}; free after its death; limit {limit:g} s" if limit else "OPEN: no limit by default"


def clock_jumps(folder: Path) -> str:
    """A clock set 90 days ahead, to begin a new period of the gate's budget."""
    from dataclasses import replace

    from bertft_core.base.clock import Stamp
    from bertft_core.registry import entries

    now = Stamp.now()
    at = time.strftime(entries.TIME_FORMAT, time.gmtime(now.wall - 3600))
    stamp = replace(now, wall=now.wall - 3600, ran=now.ran - 3600)
    common = {"action": entries.KEPT, "from_version": "1", "to_version": "1", "reason": "", "by": "", "at": at}
    numbers = {"difference": 0.0}
    known = tuple(
        entries.LedgerEntry(number=i, version=str(i), numbers=numbers, clock=str(stamp), **common) for i in (2, 3)
    )
    moment, odd = entries.time_now(known, replace(now, wall=now.wall + 90 * 86_400))
    left = entries.spent(known, 30, moment)
    return f"refused: {left} of 2 decisions still count: {odd}" if left == 2 and odd else f"OPEN: {left} still count"


ATTACKS = [
    Attack(4, "an encoder's Python files, auto_map and pickles", "nothing of it is run", code_of_an_encoder),
    Attack(4, "an encoder's absurd config.json", "a named error in seconds", absurd_encoder),
    Attack(5, "YAML bombs, tags, recursion", "a named error in 0.1 s", yaml_bombs),
    Attack(6, "a model called a/../../../../x", "refused as a name, and no such path", names_into_paths),
    Attack(6, "a deployed scoring's files elsewhere", "a named error", files_of_a_deployed_scoring),
    Attack(15, "a night that hangs, then dies", "the next one is refused, then free", hung_night),
    Attack(16, "a clock 90 days ahead", "frees no budget, and is named", clock_jumps),
]
