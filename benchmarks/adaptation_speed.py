"""How many tokens a second does an adaptation read, against transformers' Trainer with its own masking collator?

python benchmarks/adaptation_speed.py [--rounds N] [--steps N] [--batch N] [--length N] [--threads N] [--out FILE]

MiniLM (6 layers), blocks of film reviews, {BATCH} blocks of {LENGTH} tokens a step, 15 % of them masked, everything
trains, float32; the same blocks on both sides. Peer, `AutoModelForMaskedLM`, `Trainer` and
`DataCollatorForLanguageModeling`: `default` as its users write it (attention dropout 0.1), `best` with attention
dropout 0 and fused AdamW. It computes a logit of every id at every position; ours at masked positions alone, and the
top layer's query, output and feed-forward there alone.

Each side in a fresh process with as many threads; a warm-up step comes first. Ours: the step of adaptation.loop (masks,
gradient, update). Peer: from the first batch to the end of the last step. Sides alternate, ratios are of medians.

floor: FLOPs of our step (a multiply-add is 2; forward, and twice that backward) over the matmul peak of this process,
as in machine_limit.py; share: floor over what the step takes. Not counted: embeddings, norms, activations, the softmax
over the vocabulary, dropout, the optimizer.

About 2 minutes on 2 quiet cores of an AMD EPYC with AVX2 alone (2 rounds of 3 steps; an estimate).
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from peers import in_child, require_accelerate
from records import Records, conclude
from workloads import ENCODER, SOURCES

from bertft_core.adaptation.corpus import write_documents
from bertft_core.base.files import read_json
from bertft_core.config.run import DataConfig
from bertft_core.data.readers import read_texts, texts_alone
from bertft_core.data.sources import inspect_source, resolve_package, resolve_source

BATCH, LENGTH, MASK = 32, 128, 0.15
SIDES = ("ours", "default", "best")
_DOCUMENTS = 600  # of about 290 tokens: 1,300 blocks of 128


def step_flops(batch: int, length: int, config: dict[str, int]) -> float:
    """FLOPs of one step of ours: of the top layer keys and values see every token, all else the masked ones."""
    layers, width, inner = config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"]
    masked = MASK * length
    weights, attention = 4 * width**2 + 2 * width * inner, 4 * length * width  # of one query, forward
    below = (layers - 1) * length * (2 * weights + attention)
    top = length * 2 * 2 * width**2 + masked * (2 * (weights - 2 * width**2) + attention)
    head = masked * 2 * (width**2 + width * config["vocab_size"])
    return 3 * batch * (below + top + head)


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each step of an adaptation in this process, and the machine's matmul peak before and after."""
    import time

    from machine_limit import matmul_peak

    from bertft_core.adaptation import loop
    from bertft_core.adaptation.results import AdaptationSpec

    times: list[float] = []
    inner, take = loop._gradient, loop.take_step
    loop._HEAD_SHARE, loop._HELD_BLOCKS, loop._SCORINGS = 1e-9, 1, 1  # the head alone in the step that warms up

    def gradient(run: Any, chosen: Any, epoch: int) -> Any:
        times.append(-time.perf_counter())
        return inner(run, chosen, epoch)

    def update(*arguments: Any) -> None:
        take(*arguments)
        times[-1] += time.perf_counter()

    loop._gradient, loop.take_step = gradient, update
    peaks = [matmul_peak("float32")]
    loop.adapt(AdaptationSpec.from_json(job["spec"]))
    peaks.append(matmul_peak("float32"))
    return {"seconds": sum(times[1:]), "steps": len(times) - 1, "peak": max(peaks)}


def peer(job: dict[str, Any]) -> dict[str, Any]:
    """The same blocks through transformers' Trainer; the first step warms up."""
    import time

    from transformers import (
        AutoModelForMaskedLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        """The end of each step."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    is_best = job["variant"] == "best"
    changes = {"attention_probs_dropout_prob": 0.0} if is_best else {}
    blocks = np.load(job["blocks"])
    tokenizer = AutoTokenizer.from_pretrained(job["encoder"])
    special = tokenizer.all_special_ids
    rows = [{"input_ids": b.tolist(), "special_tokens_mask": np.isin(b, special).astype(int).tolist()} for b in blocks]
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="peer-"),
        per_device_train_batch_size=job["batch"],
        max_steps=job["steps"],
        learning_rate=1e-4,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        remove_unused_columns=False,
        **({"optim": "adamw_torch_fused"} if is_best else {}),
    )
    Trainer(
        model=AutoModelForMaskedLM.from_pretrained(job["encoder"], **changes),
        args=arguments,
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASK),
        callbacks=[Clock()],
    ).train()
    return {"seconds": ends[-1] - ends[0], "steps": len(ends) - 1}


def measure(args: argparse.Namespace, records: Records) -> None:
    """What is missing, round by round."""
    from bertft_core.adaptation.corpus import blocks_of, choose_documents
    from bertft_core.adaptation.masking import Masking
    from bertft_core.adaptation.results import AdaptationSpec
    from bertft_core.config.adaptation import AdaptationConfig

    encoder = resolve_package(ENCODER, "model.pretrained")
    with tempfile.TemporaryDirectory(prefix="adaptation-speed-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        data = texts_alone(DataConfig(source=SOURCES["reviews"]))
        source = resolve_source(SOURCES["reviews"], Path())
        texts = next(read_texts(source, data, inspect_source(source, data)))[:_DOCUMENTS]
        write_documents([texts], np.zeros(0, dtype=np.uint64), encoder, corpus)
        masking = Masking.of(encoder, MASK, seed=1)
        np.save(
            Path(folder) / "blocks.npy", blocks_of(corpus, choose_documents(corpus).train, masking.marks, args.length)
        )
        config = AdaptationConfig(steps=args.steps + 1, batch_size=args.batch, max_length=args.length, mask=MASK)
        for number in range(args.rounds):
            for side in SIDES:
                if records.get(f"round {number}, {side}") is not None:
                    continue
                if side == "ours":
                    spec = AdaptationSpec(
                        config=config,
                        key=f"{number}",
                        pretrained=str(encoder),
                        corpus=str(corpus),
                        output=f"{folder}/{number}",
                        seed=1,
                        precision="float32",
                        device="cpu",
                        threads=args.threads,
                        checkpoint_seconds=3600.0,
                    )
                    job: dict[str, Any] = {"spec": spec.to_json()}
                    found = in_child("adaptation_speed:ours", job, args.threads, {"GOMP_SPINCOUNT": "10000"})
                else:
                    job = {"variant": side, "blocks": f"{folder}/blocks.npy", "encoder": str(encoder)}
                    job |= {"batch": args.batch, "steps": args.steps + 1}
                    found = in_child("adaptation_speed:peer", job, args.threads)
                kept = records.add(f"round {number}, {side}", found)
                rate = args.batch * args.length * kept["steps"] / kept["seconds"]
                print(f"round {number}, {side}: {rate:.0f} tokens a second", file=sys.stderr, flush=True)


def document(args: argparse.Namespace, records: Records) -> dict[str, Any]:
    """Medians over the rounds, ratios, the floor."""
    tokens = args.batch * args.length
    rounds = {side: [records.get(f"round {n}, {side}") or {} for n in range(args.rounds)] for side in SIDES}
    seconds = {side: statistics.median(r["seconds"] / r["steps"] for r in found) for side, found in rounds.items()}
    sizes = read_json(resolve_package(ENCODER, "model.pretrained") / "config.json")
    floor = step_flops(args.batch, args.length, sizes) / max(r["peak"] for r in rounds["ours"])
    return {
        "tokens_per_second": {side: tokens / value for side, value in seconds.items()},
        "vs_default": seconds["default"] / seconds["ours"],
        "vs_best": seconds["best"] / seconds["ours"],
        "flops_per_token": step_flops(args.batch, args.length, sizes) / tokens,
        "peak_gflops": max(r["peak"] for r in rounds["ours"]) / 1e9,
        "floor_seconds": floor,
        "step_seconds": seconds["ours"],
        "share_of_peak": floor / seconds["ours"],
    }


def show(found: dict[str, Any]) -> None:
    """For people."""
    for side, rate in found["tokens_per_second"].items():
        print(f"{side:<10}{rate:>10.0f} tokens a second")
    print(f"{found['vs_default']:.2f} times the Trainer's default, {found['vs_best']:.2f} times its best settings")
    print(
        f"a step takes {found['step_seconds']:.2f} s, its floor is {found['floor_seconds']:.2f} s at "
        f"{found['peak_gflops']:.0f} GFLOP/s: {found['share_of_peak']:.0%} of the peak"
    )


def main() -> None:
    """Measure, or show what was measured."""
    text = (__doc__ or "").replace("{BATCH}", str(BATCH)).replace("{LENGTH}", str(LENGTH))
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    whole = functools.partial(parser.add_argument, type=int)
    whole("--rounds", default=2)
    whole("--steps", default=3)
    whole("--batch", default=BATCH)
    whole("--length", default=LENGTH)
    whole("--threads", default=2)
    parser.add_argument("--out", type=Path, help="JSON lines file; a second start skips what it holds")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    args = parser.parse_args()
    require_accelerate()
    out = args.out or Path(tempfile.mkdtemp(prefix="adaptation-speed-")) / "records.jsonl"
    records = Records(out, {name: getattr(args, name) for name in ("steps", "batch", "length", "threads")})
    measure(args, records)
    conclude(document(args, records), show, out, is_json=args.json)


if __name__ == "__main__":
    main()
