"""What `bertft.fit` gives back: a fitted model with its answers, its scores, its pages and its way to the registry."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base.errors import ArtifactError, ConfigError, InputError
from bertft_core.base.files import follow_umask, users_umask
from bertft_core.config.run import DataConfig
from bertft_core.data.frames import store_frame
from bertft_core.recipe.chain import Finished
from bertft_core.recipe.notebook.page import Page
from bertft_core.serving.artifact import CARD

if TYPE_CHECKING:
    import pandas as pd

    from bertft_core.evaluation.report import EvaluationReport
    from bertft_core.registry.ledger import Release
    from bertft_core.search.results import TrialResult
    from bertft_core.serving.predictor import Predictor

NAME = "notebook"  # of a configuration that was given none


def predictor(folder: Path | str) -> Predictor:
    """The model of an artefact folder, loaded once per process and state of the folder (at most 2 are kept).

    Raises ArtifactError when it is not there any more.
    """
    try:
        written = (Path(folder) / CARD).stat().st_mtime_ns
    except OSError:
        raise ArtifactError(
            f"{folder}: the model's folder is gone (another machine, or `bertft gc`): fit again, or keep a copy with "
            ".save(folder) and load that"
        ) from None
    return _loaded(str(folder), written)


@lru_cache(maxsize=2)
def _loaded(folder: str, written: int) -> Predictor:
    from bertft_core.serving.predictor import Predictor

    return Predictor.load(folder)


def save_artifact(served: Path, folder: Path | str) -> Path:
    """Copy an artefact folder, as the user's umask says. Raises InputError where something is at `folder`."""
    target = Path(folder).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already: give a new folder, or remove it")
    shutil.copytree(served, target, dirs_exist_ok=True)
    follow_umask(target, users_umask())
    return target


@dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    """A finished search. best: the trial whose values the model has; how it was chosen; page: shown by Jupyter."""

    best: TrialResult
    how: str
    trials: tuple[TrialResult, ...]
    page: Page

    def frame(self) -> pd.DataFrame:
        """A row a trial: trial, state, score, log_loss, seconds, reason, and a column for each searched knob."""
        import pandas as pd

        facts = ("state", "score", "log_loss", "seconds", "reason")
        rows = [{"trial": t.slot, **{name: getattr(t, name) for name in facts}, **t.params} for t in self.trials]
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        return f"{self.best}, of {len(self.trials)} trials: {self.how}"

    def _repr_html_(self) -> str:
        return self.page._repr_html_()


@dataclass(frozen=True, kw_only=True, repr=False)
class FitResult:
    """A fitted model. It is a view of files below BERTFT_HOME: fit the same again, and it is there at once."""

    finished: Finished

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the probability columns."""
        return self.finished.context.prepared.dataset.classes

    @property
    def folder(self) -> Path:
        """The folder of the run: model, evaluation, logs."""
        return self.finished.context.run.path

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the data gate and the evaluation found worth a person's look."""
        report = self.finished.report
        return report.warnings if report else self.finished.context.prepared.dataset.warnings

    def __repr__(self) -> str:
        return f"{self.finished.config.name}: {self.finished.report or self.finished.fit} ({self.folder})"

    def predict(self, texts: Any, pairs: Sequence[str] | None = None) -> pd.DataFrame:
        """label, confidence, abstain and probability_<class> of each text, in the order given.

        texts: a text, a list, array or Series of texts (its index is kept), or a frame with the columns that the model
        was trained on. pairs: the second text of each, of a model of pairs. Raises InputError for what is no text,
        naming its row.
        """
        import pandas as pd

        if isinstance(texts, pd.DataFrame):
            return predictor(self.finished.served).predict_frame(texts)
        rows = [texts] if isinstance(texts, str) else texts
        index = rows.index if isinstance(rows, pd.Series) else None
        columns = {"text": list(rows)} | ({} if pairs is None else {"text_pair": list(pairs)})
        return predictor(self.finished.served).predict_frame(pd.DataFrame(columns, index=index, dtype=object))

    def evaluate(self, frame: Any = None) -> EvaluationReport:
        """Scores with intervals, beside the TF-IDF baseline: on the run's own test rows, or on labelled rows given.

        frame: as for `fit`, with the columns that the model was trained on. Rows that it was trained on, duplicates and
        rows that training would have refused are left out; a warning of the report counts them. Raises ConfigError
        without test rows, DataError for a frame of which no row is left.
        """
        if frame is not None:
            return _judge_rows(self, frame)
        if self.finished.report is None:
            raise ConfigError("data.split.test is 0: there are no test rows; give labelled rows: .evaluate(frame)")
        return self.finished.report

    def report(self) -> Page:
        """The report page of the run, with doubtful labels and the words behind the worst errors; written once."""
        from bertft_core.recipe.review import review, write_page

        context, fit, judged = self.finished.context, self.finished.fit, self.evaluate()
        page = context.run.folder.evaluation.page
        if not page.exists():
            with context.trainer:
                review(context, judged, self.finished.served)
            write_page(context, fit, judged)
        return Page(path=page)

    @cached_property
    def search(self) -> SearchOutcome | None:
        """The search that chose the fit's values; None where nothing was searched. Its page is written anew."""
        from bertft_core.recipe.fit import searched_on
        from bertft_core.recipe.search_report import report_search
        from bertft_core.recipe.trials import find_winner, open_confirmation, open_study

        config, context = self.finished.config, self.finished.context
        if not config.is_searched:
            return None
        config = searched_on(config, context.prepared)
        study = open_study(config, context.prepared, context.home, must_exist=True)
        winner = find_winner(study, config, open_confirmation(study, config))
        written = report_search(study, config, winner, context.run.folder.search)
        page = Page(path=written.page)
        return SearchOutcome(best=winner.best, how=winner.how, trials=tuple(study.results()), page=page)

    def save(self, folder: Path | str) -> Path:
        """Copy what answers to a new folder, which needs nothing else: `Predictor.load`, `bertft predict --model`.

        It is a transformers folder with bertft.json beside the weights. Raises InputError where the folder is taken.
        """
        return save_artifact(self.finished.served, folder)

    def register(self, name: str | None = None, mlflow: Path | str | None = None) -> Release:
        """Register the model in MLflow and let the gate decide, as `bertft promote` does; doing it again adds nothing.

        name: of the registered model, else that of mlflow.yaml for the configuration's name. mlflow: an mlflow.yaml,
        else the one in the working directory or the packaged one. Raises ConfigError where neither names the model.
        """
        return _register(self, name, mlflow)


def _judge_rows(result: FitResult, frame: Any) -> EvaluationReport:
    from bertft_core.evaluation.report import RowTexts
    from bertft_core.evaluation.report import evaluate as judge
    from bertft_core.evaluation.scores.intervals import Bootstrap
    from bertft_core.evaluation.scores.labels import labels_of
    from bertft_core.evaluation.tfidf import TfidfModel
    from bertft_core.recipe.evaluation import baseline_folder
    from bertft_core.recipe.release import row_fingerprints
    from bertft_core.registry.comparison import read_labelled

    context, model = result.finished.context, predictor(result.finished.served)
    config, dataset, card = context.config, context.prepared.dataset, model.card
    columns: dict[str, Any] = {"text": card.text, "text_pair": card.text_pair, "group": config.data.group}
    label = card.label if isinstance(card.label, str) else list(card.label)
    file = context.home / store_frame(frame, DataConfig(source="frame", label=label, **columns), context.home)
    rows = read_labelled(file, card, None, group=config.data.group)
    rows = rows.without({"of the model": row_fingerprints(dataset.table("train"))})
    if not rows.rows:
        why = ", ".join(f"{n} {reason}" for reason, n in rows.skipped.items())
        raise InputError(f"no row of the frame is left to judge on: {why}")
    labels = labels_of(rows.labels, result.classes, rows.weights, rows.groups)
    raw = model.probabilities(rows.texts, rows.pairs)
    decided = card.policy.apply(raw, multi_label=card.multi_label)
    joined = rows.texts if rows.pairs is None else [f"{a} {b}" for a, b in zip(rows.texts, rows.pairs, strict=True)]
    words = TfidfModel.load(baseline_folder(config, dataset, context.home).path).probabilities(joined)
    left_out = ", ".join(f"{n} {reason}" for reason, n in rows.skipped.items())
    return judge(
        labels,
        labels.predictions(decided.probabilities, decided.predicted),
        RowTexts(texts=rows.texts, sources=[f"row {row}" for row in rows.rows]),
        baseline=labels.predictions(words),
        metric=config.evaluation.metric,
        bootstrap=Bootstrap(
            level=config.evaluation.level, resamples=config.evaluation.resamples, seed=config.training.seed
        ),
        warnings=[f"rows left out: {left_out}"] if left_out else [],
    )


def _register(result: FitResult, name: str | None, mlflow: Path | str | None) -> Release:
    from bertft_core.config.store import load_mlflow_config
    from bertft_core.recipe.evaluation import test_document
    from bertft_core.recipe.mlflow_tree import Tree
    from bertft_core.recipe.release import register_fit, release_lock, write_released_page
    from bertft_core.registry import gate, ledger
    from bertft_core.registry.answers import Scorer
    from bertft_core.registry.decision import promote_or_keep

    context, fit, judged = result.finished.context, result.finished.fit, result.evaluate()
    settings = load_mlflow_config(mlflow, context.config.base_dir, Path.cwd()).of(context.config.name)
    if name is not None:
        settings = settings.named(name)
    elif "{name}" in settings.registered_model and context.config.name == NAME:
        raise ConfigError('which model is it? .register("reviews"), or name="reviews" in fit')
    result.report()  # the review that the released page shows
    tree = Tree(settings, context)
    tree.settle(context)
    tree.final_run(fit, context.config)
    tree.evaluation(judged)
    with release_lock(tree.store, settings.model_name(context.config.name)), Scorer(tree.store) as scorer:
        candidate, _ = register_fit(context, fit, tree)
        gate.check_parity(candidate, ledger.view_model(tree.store, candidate.name), scorer)
        released, _ = promote_or_keep(candidate, tree.store)
    write_released_page(context, fit, judged, released, tree)
    validation = {"score": fit.score, "best_epoch": fit.best_epoch}
    facts = {"name": context.config.name, "run_id": context.run.run_id, "model": fit.model_dir}
    document = {**asdict(released), **facts, "validation": validation, "test": test_document(judged)}
    tree.finish(document)
    context.run.update(result=document)
    return released
