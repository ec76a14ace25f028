"""The files of an evaluation folder: each has one name here, with who writes it and who reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bertft_core.base.names import file_name

EVIDENCE = "evidence.json"  # these two travel with a registered version under the same names
TRAIN_ROWS = "train_rows.npy"


class _File:
    """A file of the folder by its name: `folder.probabilities` is its path, there or not."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folder: EvaluationFolder, owner: type[EvaluationFolder]) -> Path:
        return folder.path / self._name


@dataclass(frozen=True)
class EvaluationFolder:
    """A run's folder `evaluation`, or BERTFT_HOME/promote/NAME-VERSION, where a version's test rows are read again.

    n: test rows, C: classes. Arrays are .npy without pickles.
    """

    path: Path

    # written by evaluate (recipe/evaluation); read by the gate, the parity check and the page
    raw_validation = _File("raw_validation.npy")  # [n_validation, C], the encoder's own, before blend and policy
    raw_test = _File("raw_test.npy")  # [n, C], likewise; float32, of multi-label rows float64
    probabilities = _File("probabilities.npy")  # float32 [n, C], after the policy
    predicted = _File("predicted.npy")  # class indices [n]; multi-label: 0 and 1 [n, C]
    report_json = _File("evaluation.json")  # EvaluationReport
    report_markdown = _File("report.md")
    confusion = _File("confusion.png")
    learning = _File("learning.png")

    # written at registration (recipe/release); read by the gate and by the processes in which versions answer
    test_rows = _File("test_rows.parquet")  # text, text_pair
    labels = _File("labels.npy")  # class indices [n]; multi-label: 0 and 1 [n, C]
    weights = _File("weights.npy")  # soft labels [n, C]; absent where there are none
    baseline = _File("baseline.npy")  # float32 [n, C], the TF-IDF baseline's probabilities
    shares = _File("class_shares.npy")  # float64 [C], of the classes among the training rows
    groups = _File("groups.npy")  # int64 [n], equal for rows of one data.group; absent without it, and in old folders
    slices = _File("slices.npz")  # masks [n] by "group: slice"
    test_fingerprints = _File("test_rows.npy")  # uint64 [n]
    train_fingerprints = _File(TRAIN_ROWS)  # uint64 [n_train], sorted; copied into the version
    evidence = _File(EVIDENCE)  # configuration, classes, rule, weights' digest; copied into the version

    # written by the gate (registry/decision); read by the page and by people
    decision_json = _File("decision.json")  # PromotionDecision
    decision_markdown = _File("decision.md")

    # written by review (recipe/review); read by the page
    worst_errors = _File("worst_errors.json")
    words = _File("words.json")
    suspects = _File("suspects.json")
    suspects_note = _File("suspects_note.json")
    doubtful_labels = _File("doubtful_labels.csv")
    page = _File("report.html")

    @classmethod
    def of_run(cls, home: Path | str, stored: str) -> EvaluationFolder:
        """The folder that a version's evidence names, home/runs/RUN/evaluation, in this home wherever it lies now."""
        return cls(Path(home).joinpath(*map(file_name, Path(stored).parts[-3:])))

    def answers(self, version: str) -> Path:
        """What a registered version answers to the test rows (`answers.Answers`), facts in a .json beside it."""
        return self.path / f"version-{file_name(version)}.npz"
