"""Which code is part of the identity of a run and of a gate's decision; an edit elsewhere asks nothing anew."""

from __future__ import annotations

import ast
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import bertft_core
from bertft_core.base.hashes import code_files, code_fingerprint
from bertft_core.recipe.runs import RUN_CODE
from bertft_core.registry.decision import GATE_CODE

ROOT = Path(bertft_core.__file__).parent  # the tree that is tested: an installed one, or this checkout
ROOMS_THAT_COUNT = ("config", "data", "model", "training", "search", "evaluation")
OF_THE_RUN = {
    *("config", "data", "model", "training", "search"),
    *("recipe/prepare.py", "recipe/fit.py", "recipe/trials.py", "recipe/process/trainer.py", "base/text.py"),
    "evaluation/scores/counts.py",
}
OF_THE_GATE = {
    *("config", "evaluation"),
    *(
        "registry/answering.py",
        "registry/answers.py",
        "registry/decision.py",
        "registry/entries.py",
        "registry/gate.py",
    ),
}
# What code of the run uses outside of its fingerprint, and why the weights do not depend on it.
WITHOUT_EFFECT = {
    "recipe/runs.py": "where the run's files lie",
    "recipe/unused_knobs.py": "refuses a search or lets it pass",
    "evaluation/scores/extra.py": "refuses a metric that nobody installed",
    "recipe/context.py": "carries values from stage to stage",
    "recipe/process/client.py": "carries a fit to the trainer process and its result back",
    "recipe/process/crew.py": "starts the other processes of a fit, as many as its settings say",
    "serving/attribution.py": "explains answers of a finished model",
    "adaptation/lineage.py": "names an adapted encoder, by its key",
    "adaptation/loop.py": "makes an adapted encoder, whose key holds ADAPTATION_VERSION",
    "adaptation/multi_task/lineage.py": "names the encoder of several tasks, by its key",
    "adaptation/multi_task/loop.py": "makes that encoder, whose key holds MULTI_TASK_VERSION",
    "adaptation/multi_task/results.py": "carries a shared training to the trainer process and its result back",
    "adaptation/results.py": "carries an adaptation to the trainer process and its result back",
}


def names(*places: str) -> set[str]:
    return {str(file.relative_to(ROOT)) for file in code_files(*places)}


def test_the_fingerprints_hold_these_places() -> None:
    assert set(RUN_CODE) == OF_THE_RUN
    assert set(GATE_CODE) == OF_THE_GATE


def test_every_file_of_these_rooms_belongs_to_one() -> None:
    covered = names(*RUN_CODE) | names(*GATE_CODE)
    on_disk = {str(file.relative_to(ROOT)) for room in ROOMS_THAT_COUNT for file in (ROOT / room).rglob("*.py")}
    assert on_disk and on_disk <= covered


def test_what_code_of_the_run_uses_is_in_its_fingerprint_or_without_effect() -> None:
    covered, outside = names(*RUN_CODE), set()
    for file in code_files(*RUN_CODE):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bertft_core."):
                path = (node.module or "").removeprefix("bertft_core.").replace(".", "/")
                outside |= {f"{path}/{a.name}.py" if (ROOT / path).is_dir() else f"{path}.py" for a in node.names}
    unknown = {name for name in outside - covered if not name.startswith("base/")}
    assert unknown <= set(WITHOUT_EFFECT), unknown - set(WITHOUT_EFFECT)


def test_a_place_without_code_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match="recipe/nowhere.py"):
        code_fingerprint("recipe/nowhere.py")


@pytest.fixture
def fingerprints(tmp_path: Path) -> tuple[Path, Callable[[], tuple[str, str]]]:
    """A copy of the sources to edit, and what computes its fingerprints: of the run, the gate."""
    root = tmp_path / "bertft_core"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns("__pycache__"))

    def compute() -> tuple[str, str]:
        spec = importlib.util.spec_from_file_location("copied_hashes", root / "base" / "hashes.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.code_fingerprint(*RUN_CODE), module.code_fingerprint(*GATE_CODE)

    return root, compute


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text, file
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_comment_docstring_layout_and_page_change_no_fingerprint(fingerprints) -> None:
    root, compute = fingerprints
    before = compute()
    edit(root / "training" / "loop.py", '"""', '"""Another first sentence. ')
    edit(
        root / "training" / "loop.py",
        "\nfrom pathlib import Path\n",
        "\n# a comment\n\n\nfrom pathlib import (\n  Path)\n",
    )
    edit(root / "config" / "fit.py", "Rate of the head over lr.", "What lr is multiplied with for the head.")
    pages = sorted((root / "reporting").rglob("*.py"))
    assert pages
    for page in pages:
        with open(page, "a", encoding="utf-8") as handle:
            handle.write("\nSIZE = 3\n")
    assert compute() == before


def test_edit_of_training_changes_the_run_and_not_the_gate(fingerprints) -> None:
    root, compute = fingerprints
    run, gate = compute()
    with open(root / "training" / "loop.py", "a", encoding="utf-8") as handle:
        handle.write("\n_HALF = 0.5\n")
    after = compute()
    assert after[0] != run and after[1] == gate


def test_edit_of_evaluation_changes_the_gate_and_not_the_run(fingerprints) -> None:
    root, compute = fingerprints
    run, gate = compute()
    with open(root / "evaluation" / "gate" / "checks.py", "a", encoding="utf-8") as handle:
        handle.write("\n_HALF = 0.5\n")
    after = compute()
    assert after[1] != gate and after[0] == run
