"""Every verb on one page: its group, what it does, an example. Help, completion and documentation read it from here."""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """What `bertft --help` says of a verb, and an example of it."""

    text: str
    example: str


GROUPS: dict[str, dict[str, Verb]] = {
    "begin": {
        "init": Verb("write a commented configuration for a table", "bertft init tickets.csv --label Queue"),
        "check": Verb("print the plan, the minutes, the disk; train nothing", "bertft check tickets.yaml"),
        "run": Verb("labelled text to a registered and, if better, promoted model", "bertft run tickets.yaml"),
    },
    "one stage": {
        "search": Verb("search hyperparameters up to search.trials trials", "bertft search tickets.yaml --report"),
        "finetune": Verb("the final fit (searches first where trials are missing)", "bertft finetune tickets.yaml"),
        "evaluate": Verb("judge the latest finished fit on the test split", "bertft evaluate tickets.yaml"),
    },
    "use a model": {
        "predict": Verb(
            "label a file with a registered model",
            "bertft predict --model models:/tickets@champion --input a.csv --output b.csv",
        ),
        "label": Verb(
            "the rows worth labelling next, and the labelled ones taken back",
            "bertft label tickets.yaml --unlabelled new.csv --rows 100",
        ),
        "export": Verb("a version once more as an ONNX file, for the gate to judge", "bertft export tickets --int8"),
        "distill": Verb("a smaller version taught by a larger one", "bertft distill tickets --layers 3"),
        "compare": Verb("two versions on a labelled file", "bertft compare tickets 3 4 --data march.csv"),
        "report": Verb("the HTML report of a run: where it lies, its verdict", "bertft report --open"),
    },
    "decide": {
        "promote": Verb("run the gate for a version; move champion if it holds", "bertft promote tickets 4"),
        "rollback": Verb("return to an earlier champion; hold promotions", 'bertft rollback tickets --reason "…"'),
        "resume": Verb("lift the hold that a rollback set", 'bertft resume tickets --reason "labels mended"'),
        "adopt": Verb("go on with a registry that lost its champion", 'bertft adopt tickets --reason "it is lost"'),
        "history": Verb("every decision on a model: when, who, why", "bertft history tickets"),
    },
    "every night": {
        "nightly": Verb("train and release if there is reason to; say why if not", "bertft nightly tickets.yaml"),
        "nights": Verb("how every night ended, and why", "bertft nights tickets"),
        "board": Verb("one page over all models: champions, nights, what waits", "bertft board --open"),
        "deploy": Verb("put the nights on a schedule at Prefect", 'bertft deploy tickets.yaml --cron "30 2 * * *"'),
        "serve": Verb("run those schedules in this process; serves no model", "bertft serve tickets.yaml"),
        "up": Verb("Prefect server, MLflow server and a worker, here", "bertft up"),
    },
    "keep house": {
        "doctor": Verb("what is wrong with a home and its registry; --repair", "bertft doctor --repair"),
        "gc": Verb("list what nobody needs; --apply removes it", "bertft gc --days 60"),
        "completion": Verb("print a completion script for your shell", "source <(bertft completion bash)"),
    },
}
VERBS: dict[str, Verb] = {name: verb for group in GROUPS.values() for name, verb in group.items()}


def overview() -> str:
    """All verbs by group, each with its example, within 80 columns."""
    lines = ["every verb, with an example; `bertft VERB --help` has its options:"]
    for title, group in GROUPS.items():
        lines += ["", f"{title}:"]
        for name, verb in group.items():
            lines += [f"  {name:<11} {verb.text}", f"              {verb.example}"]
    return "\n".join([*lines, "", "exit codes: 0 done, 2 bad input, 3 the gate says no (promote), 1 anything else"])
