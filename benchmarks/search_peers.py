"""The searches that are not ours, each run in a fresh process by `peers.in_child`: transformers and bertuner.

Neither `accelerate` (the Trainer's) nor bertuner belongs to the product's environment: `site_folder` installs both, and
what they import, into a folder of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# without their dependencies: torch, transformers, optuna and mlflow stay those of the environment. bertuner imports
# tensorboard's writer, which imports absl and markdown
PACKAGES = (
    "accelerate==1.15.0",
    "bertuner==0.2.4",
    "tensorboard==2.21.0",
    "tensorboard-data-server==0.7.2",
    "absl-py==2.5.1",
    "markdown==3.11.3",
)
_BERTUNER_FIXED = {  # one value each: its space wants these names; the loss is plain cross-entropy
    "weight_decay": [0.01],
    "warmup_ratio": [0.1],
    "scheduler": ["linear"],
    "dropout": [0.1],
    "early_stopping_patience": [3],
    "loss_type": ["cross_entropy"],
    "model": ["encoder"],
}


def site_folder(folder: Path) -> dict[str, str]:
    """The environment of a child that finds the peers' packages in `folder`, where they are installed once."""
    done = folder / "installed.txt"
    if not done.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *PACKAGES]
        subprocess.run(command, check=True, stdout=sys.stderr)
        done.write_text("\n".join(PACKAGES), encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(folder)]))}


def trainer_search(job: dict[str, Any]) -> dict[str, Any]:
    """Trainer.hyperparameter_search with Optuna's TPE and median pruner (its defaults), a report after every epoch.

    variant: as in `peers.train`. Reads ready token ids: it is spared the tokenizing. A trial's value is the accuracy of
    its last evaluation, as the Trainer has it; nothing is saved.
    """
    import optuna
    from peers import accuracy, read_rows, variant_settings
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    changes, chosen = variant_settings(job["variant"])

    def model_init(trial: Any = None) -> Any:
        return AutoModelForSequenceClassification.from_pretrained(job["encoder"], num_labels=job["classes"], **changes)

    def space(trial: Any) -> dict[str, Any]:
        low, high = job["space"]["lr"]
        return {
            "learning_rate": trial.suggest_float("learning_rate", low, high, log=True),
            "per_device_train_batch_size": trial.suggest_categorical(
                "per_device_train_batch_size", job["space"]["batch_size"]
            ),
            "num_train_epochs": trial.suggest_categorical("num_train_epochs", job["space"]["epochs"]),
        }

    tokenizer = AutoTokenizer.from_pretrained(job["encoder"])
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="peer-"),
        per_device_eval_batch_size=job["eval_batch_size"],
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=job["seed"],
        **chosen,
    )
    trainer = Trainer(
        model_init=model_init,
        args=arguments,
        train_dataset=read_rows(job["tokens"], "train"),
        eval_dataset=read_rows(job["tokens"], "validation"),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
    )
    storage = optuna.storages.InMemoryStorage()  # the Trainer's default too; named here to read the trials afterwards
    best = trainer.hyperparameter_search(
        hp_space=space,
        compute_objective=lambda metrics: metrics["eval_accuracy"],
        n_trials=job["trials"],
        direction="maximize",
        backend="optuna",
        sampler=optuna.samplers.TPESampler(seed=job["seed"]),
        pruner=optuna.pruners.MedianPruner(),
        storage=storage,
        study_name="search",
    )
    trials = optuna.load_study(study_name="search", storage=storage).trials
    values = best.hyperparameters
    return {
        "params": {
            "lr": values["learning_rate"],
            "batch_size": values["per_device_train_batch_size"],
            "epochs": values["num_train_epochs"],
        },
        "score": best.objective,
        "states": _counted([trial.state.name.lower() for trial in trials]),
        "epochs": sum(len(trial.intermediate_values) for trial in trials),
    }


def _counted(states: list[str]) -> dict[str, int]:
    return {state: states.count(state) for state in sorted(set(states))}


def bertuner_search(job: dict[str, Any]) -> dict[str, Any]:
    """bertuner's optimize: lr and batch size searched; 6 epochs a trial (fixed in its code), no pruning (it has none).

    It tokenizes the rows anew in every trial and saves a checkpoint after every epoch; both are its own ways.
    """
    tuner = _tuner(job, job["seed"])
    score = tuner.optimize(n_trials=job["trials"], optimize_metric="accuracy", study_name="search")
    best = tuner.best_params
    return {
        "params": {"lr": best["learning_rate"], "batch_size": best["batch_size"]},
        "score": score,
        "states": {"complete": job["trials"]},
    }


def bertuner_refit(job: dict[str, Any]) -> dict[str, Any]:
    """train_final_model with given values and another seed: the class of each test row, by its own predictor."""
    import mlflow
    import pandas as pd
    from bertuner import BERTunePredictor

    tuner = _tuner(job, job["seed"])
    # what optimize leaves behind: the final fit works only in the process that searched
    tuner.optimize_metric, tuner.greater_is_better = "accuracy", True
    values = {"learning_rate": job["params"]["lr"], "batch_size": job["params"]["batch_size"]}
    tuner.best_params = {name: options[0] for name, options in _BERTUNER_FIXED.items()} | values
    mlflow.set_tracking_uri(tuner.mlflow_uri)
    tuner.train_final_model()
    predictor = BERTunePredictor(f"{tuner.models_dir}/final_model/model")
    return {"answers": predictor.predict(pd.read_csv(job["files"]["test"])["text"].tolist()).tolist()}


def _tuner(job: dict[str, Any], seed: int) -> Any:
    import pandas as pd
    from bertuner import BERTuneClassifier

    numbers = {name: number for number, name in enumerate(job["class_names"])}
    frames = {}
    for split, file in job["files"].items():
        frame = pd.read_csv(file, keep_default_na=False)
        frames[split] = frame.assign(label=frame["label"].map(numbers))
    folder = tempfile.mkdtemp(prefix="bertuner-")
    tuner = BERTuneClassifier(
        models_dir=folder,
        text_feature="text",
        target_cols=["label"],
        data_splits=frames,
        seed=seed,
        num_labels=len(numbers),
        max_length=job["max_length"],
        mlflow_tracking_uri=f"{folder}/mlruns",
    )
    tuner.initialize_model_choices({"encoder": job["encoder"]})
    low, high = job["space"]["lr"]
    tuner.initialize_search_space(
        {"learning_rate": {"low": low, "high": high, "log": True}, "batch_size": job["space"]["batch_size"]}
        | _BERTUNER_FIXED
    )
    return tuner
