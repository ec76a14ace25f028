"""A registered version as the teacher of a smaller one, which is a version of its own (Hinton et al. 2015).

The student begins with some of the teacher's layers, or with a smaller encoder, and is trained on the teacher's
probabilities (arXiv 1503.02531, section 2, at temperature 1): the soft labels that any data may have. All else is a run
of the teacher's configuration: tokens, evaluation, policy, evidence, registration.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bertft_core.base.errors import DataError, InputError
from bertft_core.base.files import is_reusable, scratch_folder, staged_folder
from bertft_core.base.hashes import encoder_fingerprint, hash_json
from bertft_core.base.locks import FOREVER, exclusive
from bertft_core.base.text import counted
from bertft_core.config.fit import AUTO
from bertft_core.config.run import RunConfig
from bertft_core.config.store import Store
from bertft_core.data.sources import inspect_source, resolve_source
from bertft_core.recipe.cheaper import origin, side_by_side
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.evaluation import evaluate
from bertft_core.recipe.fit import finetune, settled_for
from bertft_core.recipe.mlflow_tree import Tree
from bertft_core.recipe.prepare import Prepared, ingest, tokenize
from bertft_core.recipe.process.checkpoints import drop
from bertft_core.recipe.process.client import Trainer
from bertft_core.recipe.release import Student, candidate_of_version, configuration_of, register_fit, release_lock
from bertft_core.recipe.runs import identify
from bertft_core.recipe.soft_labels import Answer, Unlabelled, soft_labelled
from bertft_core.recipe.unlabelled import without_labels
from bertft_core.registry import artifacts
from bertft_core.registry.aliases import RegisteredVersion
from bertft_core.registry.versions import find_version
from bertft_core.serving.artifact import read_card

STUDENTS = "students"  # below BERTFT_HOME: the encoders that students begin with
STUDENT_VERSION = 1
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The student that is asked for: layers of the teacher, or another encoder (as `model.pretrained` names one).

    unlabelled: further rows that it learns from, as `data.source` names them; "" for none.
    """

    layers: int | None = None
    encoder: str = ""
    unlabelled: str = ""


@dataclass(frozen=True, kw_only=True)
class _Teacher:
    """The version that teaches. folder: its served one; weights: digest of what answers."""

    version: RegisteredVersion
    folder: Path
    weights: str
    config: RunConfig


def distill(
    store: Store,
    name: str,
    version: str | None,
    wanted: Wanted,
    say: Say = lambda line: None,
    on_progress: Callable[[float, str], None] = lambda fraction, text: None,
) -> dict[str, Any]:
    """Train and register a student of a version (None: the champion), once, and measure both.

    Nothing is promoted: the gate judges the student when it is asked, as it does any cheaper form. A killed call goes
    on where it was. Raises InputError where the version is no torch model, was rolled back, has several labels a row,
    or has no more layers than are asked for; DataError where its rows are gone or have changed.
    """
    home = Path(store.home)
    parent = origin(store, name, version, "distill")
    teacher = _teacher(store, parent)
    if wanted.layers is not None:
        from bertft_core.model.student import require_fewer

        require_fewer(teacher.folder, wanted.layers)
    try:
        old = candidate_of_version(name, parent.version, store, home)
    except DataError as fault:
        raise DataError(f"{parent} has lost the rows that it was judged on, a student could not be: {fault}") from None
    config = _student_config(teacher.config, wanted)
    own, text = _beginning(teacher, config, wanted, home)
    with scratch_folder(home / "data", "copies") as copies:
        unlabelled = _unlabelled(teacher.config, wanted.unlabelled, copies)
        say(f"answers of {parent} to {'training' if unlabelled is None else 'training and unlabelled'} rows")
        taught = soft_labelled(
            own.dataset,
            unlabelled,
            teacher.weights,
            _answer(teacher, own.dataset.classes),
            home / "data",
            lambda count: on_progress(0.0, f"{count:,} rows answered"),
        )
    trained = replace(tokenize(config, taught, home), pretrained=own.pretrained, encoder=own.encoder)
    new_rows = trained.dataset.n_train - own.dataset.n_train
    student = Student(
        parent=parent.version,
        text=f"{text}, taught on {counted(own.dataset.n_train, 'training row')} and {new_rows} unlabelled",
        trained_on=trained.dataset,
    )
    run = identify(config, trained, home)
    with exclusive(home / "locks" / f"{run.run_key[:12]}.lock", f"run {run.run_id}", FOREVER):
        made = find_version(store, name, run.run_id)
        if made is None:
            say(f"training a student of {parent}: {student.text}")
            settled = settled_for(config, trained)
            context = RunContext(config=settled, prepared=own, run=run, home=home, trainer=Trainer())
            made = _trained(store, name, context, trained, student, on_progress)
    say(f"answering the test rows with {parent} and {made}")
    new = candidate_of_version(name, made.version, store, home)
    compared = side_by_side(store, parent, made, old, new)
    return {**compared, "student": student.text, "rows": own.dataset.n_train, "unlabelled": new_rows}


def _teacher(store: Store, parent: RegisteredVersion) -> _Teacher:
    folder = artifacts.resolve_model(store, parent.model_uri).folder
    card = read_card(folder)
    if card.runtime != "torch":
        raise InputError(f"{parent} answers by {card.runtime}, an exported form: distill the version it was made of")
    if card.multi_label:
        raise InputError(f"{parent} gives a row several labels: a student learns one class a row, by soft labels")
    evidence = artifacts.read_evidence(store, parent.name, parent.version)
    config = configuration_of(parent.name, parent.version, evidence, Path(store.home))
    if (called := store.config.model_name(config.name)) != parent.name:
        raise InputError(
            f"{parent} comes from the configuration {config.name}, whose versions mlflow.yaml registers as {called} "
            "(registered_model): a student would be a version of that model"
        )
    return _Teacher(version=parent, folder=folder, weights=evidence["weights"], config=config)


def _student_config(config: RunConfig, wanted: Wanted) -> RunConfig:
    """The teacher's configuration for its student: no search, all layers train, lr and epochs by `auto`, plain loss.

    Searched values were found for another encoder, and layers that were never one after the other before must all move.
    The targets carry what class weights, another loss or smoothing taught the teacher.
    """
    training = {
        **config.training.model_dump(),
        **{"lr": AUTO, "epochs": AUTO, "unfreezing": "none", "phase_restart": False, "loss": "cross_entropy"},
        **{"class_weights": "none", "label_smoothing": 0.0},
    }
    changed: dict[str, Any] = {"training": training, "search": None, "adaptation": None, "multi_task": None}
    if wanted.encoder:
        folder = Path(wanted.encoder).expanduser()
        place = str(folder.resolve()) if folder.is_dir() else wanted.encoder
        changed["model"] = {**config.model.model_dump(), "pretrained": place}
    return RunConfig(**{**dict(config), **changed})


def _beginning(teacher: _Teacher, config: RunConfig, wanted: Wanted, home: Path) -> tuple[Prepared, str]:
    """Rows and tokens of the version's configuration with the encoder that the student begins with; it in words."""
    dataset = ingest(config, home)
    if wanted.layers is None:
        return tokenize(config, dataset, home), f"encoder {wanted.encoder}"
    from bertft_core.model.student import require_fewer, spaced_layers, write_student

    count = require_fewer(teacher.folder, wanted.layers)
    key = hash_json([STUDENT_VERSION, teacher.weights, wanted.layers])[:32]
    folder = home / STUDENTS / key
    if not is_reusable(folder):
        with staged_folder(folder) as staging:
            write_student(teacher.folder, staging / "encoder", wanted.layers)
    kept = ", ".join(map(str, spaced_layers(count, wanted.layers)))
    text = f"layers {kept} of {count} of version {teacher.version.version}"
    own, encoder = tokenize(config, dataset, home), folder / "encoder"
    return replace(own, pretrained=str(encoder), encoder=encoder_fingerprint(encoder)), text


def _unlabelled(config: RunConfig, text: str, copies: Path) -> Unlabelled | None:
    if not text:
        return None
    data = without_labels(config.data)
    source = resolve_source(text, Path.cwd(), "--unlabelled", copies=copies)
    return Unlabelled(source=source, files=inspect_source(source, data), data=data)


def _answer(teacher: _Teacher, classes: tuple[str, ...]) -> Answer:
    """The version's own probabilities, before temperature; the model is loaded when it is first asked."""
    loaded: list[Any] = []

    def answer(texts: list[str], pairs: list[str] | None) -> Any:
        from bertft_core.serving.predictor import Predictor

        if not loaded:
            loaded.append(Predictor.load(teacher.folder))
        (predictor,) = loaded
        if predictor.classes != classes:
            raise InputError(
                f"{teacher.version} knows the classes {', '.join(predictor.classes)}, its rows have by now "
                f"{', '.join(classes)}: distill a version of today's rows"
            )
        return predictor.probabilities(texts, pairs)

    return answer


def _trained(
    store: Store,
    name: str,
    context: RunContext,
    trained: Prepared,
    student: Student,
    on_progress: Callable[[float, str], None],
) -> RegisteredVersion:
    """Fit, judge and register the student; a kill in between leaves nothing that the same command does not finish."""

    def show(fraction: float, facts: dict[str, Any]) -> None:
        steps = f"step {facts['step']} of {facts['total_steps']}" if "step" in facts else "begins"
        on_progress(fraction, f"training: {steps}")

    tree = Tree(store.config.of(context.config.name), context)
    try:
        with context.trainer:
            tree.settle(context)
            fit = finetune(replace(context, prepared=trained), show)
            tree.final_run(fit, context.config)
            report = evaluate(context, fit, lambda text: on_progress(1.0, text))
            tree.evaluation(report)
        with release_lock(tree.store, name):
            _, made = register_fit(context, fit, tree, student)
    except BaseException as fault:
        with suppress(Exception):  # a store that is away is not worth hiding the fault
            tree.fail(killed=not isinstance(fault, Exception))
        raise
    tree.close()
    drop(context.run.folder.fit)
    return made
