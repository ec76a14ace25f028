"""The sides that are not ours: transformers' Trainer and pipeline, each run in a fresh process.

`in_child` runs one function of a benchmark in a process of its own and hands back its JSON answer. The Trainer needs
`accelerate`, which the product does not: `pip install accelerate` before a benchmark that uses it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VARIANTS = ("default", "best", "best_bf16")
_MEGA = 50  # batches of a block of the length grouping of transformers
_TAIL = 3000  # characters of a child's stderr that are shown when it fails


def in_child(function: str, job: dict[str, Any], threads: int, environment: dict[str, str] | None = None) -> Any:
    """The JSON answer of `module:name` of this folder, called with ``job`` in a fresh process with that many threads.

    Ends the program with the child's last words when it fails.
    """
    own = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="bench-child-") as folder:
        asked, answered = Path(folder) / "job.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(job), encoding="utf-8")
        own["TMPDIR"] = folder  # what a library leaves behind goes with it
        command = [sys.executable, str(Path(__file__)), function, str(asked), str(answered), str(threads)]
        done = subprocess.run(
            command, env={**os.environ, **own, **(environment or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        if done.returncode:
            raise SystemExit(f"{function} failed:\n{done.stderr.decode('utf-8', 'replace')[-_TAIL:]}")
        return json.loads(answered.read_text(encoding="utf-8"))


def variants() -> tuple[str, ...]:
    """VARIANTS that are worth measuring here: not bf16 on a processor that has no instructions for it.

    There it runs at a tenth of float32's speed, and a round of it would take hours.
    """
    import torch

    from bertft_core.training.machine import multiplies_bfloat16

    has_bf16 = multiplies_bfloat16(torch.device("cpu"))
    return tuple(name for name in VARIANTS if has_bf16 or name != "best_bf16")


def require_accelerate() -> None:
    """End the program in words when the Trainer's own requirement is missing."""
    if importlib.util.find_spec("accelerate") is None:
        raise SystemExit("the peer needs accelerate, which bertft does not: pip install accelerate")


def train(job: dict[str, Any]) -> dict[str, Any]:
    """transformers' Trainer on a folder of our tokens, as its users call it: same ids, dynamic padding.

    variant default: model and arguments as they come (attention dropout 0.1, random batches). best: attention dropout
    0, fused AdamW, batches grouped by length. best_bf16: best with bf16=True. warm_rows rows of untimed steps come
    first; seconds: from the first batch to the end of the last step, without evaluation and saving. With `answers`,
    each epoch is judged on validation, and the best one (accuracy) answers on the test rows.
    """
    from transformers import set_seed

    if not job["answers"]:
        _group_as_on_many_rows()
    rows = {split: read_rows(job["tokens"], split) for split in ("train", "validation", "test")}
    if job["warm_rows"]:
        _trainer(job, rows["train"][: job["warm_rows"]], None, epochs=1).train()
    set_seed(job["seed"])
    clock = _clock()
    trainer = _trainer(job, rows["train"], rows["validation"] if job["answers"] else None, epochs=job["epochs"])
    trainer.add_callback(clock)
    trainer.train()
    found = {"seconds": clock.seconds, "steps": clock.steps, "rows": len(rows["train"]) * job["epochs"]}
    if job["answers"]:
        trainer.args.train_sampling_strategy = "random"  # grouped by length, it would predict in another order
        found["answers"] = trainer.predict(rows["test"]).predictions.argmax(axis=1).tolist()
    return found


def _group_as_on_many_rows() -> None:
    """Let the Trainer sort its rows in blocks of 50 batches, as it does from 3,200 rows on.

    On the few rows of a speed measurement it would sort in smaller blocks and pad more than its users see.
    """
    from transformers import trainer_pt_utils

    inner = trainer_pt_utils.get_length_grouped_indices
    trainer_pt_utils.get_length_grouped_indices = functools.partial(inner, mega_batch_mult=_MEGA)


def read_rows(tokens: str, split: str) -> list[dict[str, Any]]:
    """Rows of a tokenized split as the Trainer takes them."""
    from bertft_core.data.tokens.tokenization import open_split

    arrays = open_split(tokens, split)
    bounds = zip(arrays.offsets[:-1], arrays.offsets[1:], arrays.labels, strict=True)
    ids = [(arrays.ids[start:stop].tolist(), int(label)) for start, stop, label in bounds]
    return [{"input_ids": row, "attention_mask": [1] * len(row), "labels": label} for row, label in ids]


def variant_settings(variant: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(changes of the encoder's configuration, training arguments) of a variant of the Trainer."""
    if variant == "default":
        return {}, {}
    arguments = {"optim": "adamw_torch_fused", "train_sampling_strategy": "group_by_length"}
    return {"attention_probs_dropout_prob": 0.0}, arguments | ({"bf16": True} if variant == "best_bf16" else {})


def _trainer(job: dict[str, Any], rows: list[Any], validation: list[Any] | None, *, epochs: int) -> Any:
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    changes, chosen = variant_settings(job["variant"])
    if validation is not None:
        chosen |= {"eval_strategy": "epoch", "save_only_model": True, "save_total_limit": 1}
        chosen |= {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "greater_is_better": True}
    # the warm-up steps of a fit are thrown away, so each Trainer gets a model of its own
    model = AutoModelForSequenceClassification.from_pretrained(job["encoder"], num_labels=job["classes"], **changes)
    tokenizer = AutoTokenizer.from_pretrained(job["encoder"])
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="peer-"),
        per_device_train_batch_size=job["batch_size"],
        per_device_eval_batch_size=job["batch_size"],
        num_train_epochs=epochs,
        learning_rate=job["lr"],
        seed=job["seed"],
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no" if validation is None else "epoch",
        **chosen,
    )
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=validation,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
    )


def accuracy(found: Any) -> dict[str, float]:
    return {"accuracy": float((found.predictions.argmax(axis=1) == found.label_ids).mean())}


def _clock() -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Seconds and steps of training alone: each epoch from its first batch to the end of its last step."""

        seconds, steps, begun, ended = 0.0, 0, 0.0, 0.0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.steps, self.ended = self.steps + 1, time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.seconds += self.ended - self.begun

    return Clock()


def pipeline(job: dict[str, Any]) -> dict[str, Any]:
    """transformers' text-classification pipeline over a CSV of texts: seconds, and each text's (label, score).

    batch_size None is its default (one text at a time). Truncation to max_length on the right, said explicitly.
    """
    import pandas as pd
    from transformers import pipeline as build

    scorer = build("text-classification", model=job["model"], device="cpu")
    chosen = {"truncation": True, "max_length": job["max_length"]}
    chosen |= {"batch_size": job["batch_size"]} if job["batch_size"] else {}
    texts = pd.read_csv(job["file"], keep_default_na=False)["text"].tolist()
    scorer(texts[: job["warm_rows"]], **chosen)
    begun = time.perf_counter()
    found = scorer(texts, **chosen)
    return {"seconds": time.perf_counter() - begun, "answers": [[one["label"], one["score"]] for one in found]}


def _main() -> None:
    function, asked, answered, threads = sys.argv[1:]
    import torch

    torch.set_num_threads(int(threads))
    module, name = function.split(":")
    answer = getattr(importlib.import_module(module), name)(json.loads(Path(asked).read_text(encoding="utf-8")))
    Path(answered).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    _main()
