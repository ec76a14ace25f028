"""The front door: one small function per verb; each calls one flow or one core function.

Importing this module, and `--help`, import no torch, transformers, prefect or mlflow.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

_CONFIG_VERBS = {
    "check": "print the plan and train nothing: rows, token lengths, rates and phases per layer, what goes where",
    "run": "the whole chain: labelled text to a registered and, if better, promoted model",
    "search": "search the hyperparameters up to search.trials finished trials",
    "finetune": "the final fit with the best parameters (searches first where trials are missing)",
    "evaluate": "evaluate the latest finished fit of this configuration on the test split",
}


def build_parser() -> argparse.ArgumentParser:
    """The command line as argparse sees it."""
    parser = argparse.ArgumentParser(
        prog="bertft", description="Search, fine-tune, judge and release BERT-style text classifiers."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, text in _CONFIG_VERBS.items():
        sub = verbs.add_parser(verb, help=text, description=text)
        sub.add_argument("config", metavar="CONFIG", help="YAML file, see examples/")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="such as training.lr=3e-5")
        _common(sub)
        if verb == "run":
            sub.add_argument("--again", action="store_true", help="run even if nothing changed since the last run")
    sub = verbs.add_parser("predict", help="score a file with a registered model")
    sub.add_argument("--model", required=True, help="models:/NAME@champion, models:/NAME/3 or a model folder")
    sub.add_argument("--input", required=True, help=".csv, .tsv, .jsonl or .parquet")
    sub.add_argument("--output", required=True, help=".csv, .jsonl or .parquet to write")
    sub.add_argument("--text", help="text column, where it differs from the training column")
    sub.add_argument("--text-pair", help="second text column")
    _common(sub)
    sub = verbs.add_parser("promote", help="run the gate for a registered version; move champion if the rule holds")
    sub.add_argument("name", metavar="NAME", help="registered model")
    sub.add_argument("version", metavar="VERSION", nargs="?", help="default: the challenger")
    sub.add_argument(
        "--approve", action="store_true", help="give the approval that promotion.require_approval asks for"
    )
    _common(sub)
    return parser


def _common(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="one JSON document on stdout")
    sub.add_argument("--mlflow", metavar="FILE", help="mlflow.yaml to use")
    sub.add_argument("--debug", action="store_true", help="show tracebacks")


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Exit codes: 0 done, 2 bad input, configuration or data, 1 anything else."""
    args = _parse(argv)
    out = _own_stdout()
    code = _guarded(args, out)
    out.close()
    return code


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse, with key=value overrides allowed after options too (argparse alone refuses them there)."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(args, "overrides") or any(r.startswith("-") or "=" not in r for r in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def _guarded(args: argparse.Namespace, out: IO[str]) -> int:
    from bertft_core.errors import BertftError

    try:
        result = _VERBS[args.verb](args)
        out.write(json.dumps(result, ensure_ascii=False, indent=1) if args.json else _render(args.verb, result))
        out.write("\n")
        return 0
    except BertftError as fault:
        if args.debug:
            raise
        print(f"bertft {args.verb}: {fault}", file=sys.stderr)
        return fault.exit_code
    except KeyboardInterrupt:
        print(f"bertft {args.verb}: interrupted; the same command continues", file=sys.stderr)
        return 1
    except OSError as fault:
        if args.debug:
            raise
        where = f" {fault.filename}" if fault.filename else ""
        print(f"bertft {args.verb}: {fault.strerror or fault}{where}: check the path and free space", file=sys.stderr)
        return 1
    except Exception as fault:  # the last line of defence: one line instead of a traceback
        if args.debug:
            raise
        print(f"bertft {args.verb}: {type(fault).__name__}: {fault} (--debug shows where)", file=sys.stderr)
        return 1


def _own_stdout() -> IO[str]:
    """Keep stdout for our own document; whatever libraries print there goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def _home() -> Path:
    from bertft_core.state import open_home
    from flows.environment import prepare_environment

    home = open_home(os.environ.get("BERTFT_HOME", ".bertft"))
    prepare_environment(home)
    return home


def _check(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.config import load_config
    from bertft_core.mlflow_config import load_mlflow_config
    from bertft_core.plan import plan

    config = load_config(args.config, args.overrides)
    return plan(config, _home(), load_mlflow_config(args.mlflow, config.base_dir, Path.cwd()))


def _flow(args: argparse.Namespace, last: str) -> dict[str, Any]:
    from bertft_core.config import load_config
    from bertft_core.mlflow_config import load_mlflow_config
    from bertft_core.model.pretrained import resolve_pretrained

    config = load_config(args.config, args.overrides)
    load_mlflow_config(args.mlflow, config.base_dir, Path.cwd())
    resolve_pretrained(config)
    home = _home()
    from flows.pipeline import pipeline

    return pipeline(
        config_path=str(Path(args.config).resolve()), overrides=list(args.overrides), home=str(home),
        mlflow_file=args.mlflow and str(Path(args.mlflow).resolve()), again=getattr(args, "again", False), last=last,
    )  # fmt: skip


def _predict(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.mlflow_config import load_mlflow_config

    home = _home()
    from flows.progress import Reporter
    from tasks.scoring import predict_file

    config, report = load_mlflow_config(args.mlflow, Path.cwd(), Path.cwd()), Reporter()
    with report.stage("predict"):
        return predict_file(
            args.model, Path(args.input), Path(args.output), config, home, text=args.text, text_pair=args.text_pair,
            on_rows=lambda count: report.rows("scored", count),
        )  # fmt: skip


def _promote(args: argparse.Namespace) -> dict[str, Any]:
    home = _home()
    from flows.release import promote

    return promote(name=args.name, version=args.version, home=str(home), mlflow_file=args.mlflow, approve=args.approve)


def _render(verb: str, result: dict[str, Any]) -> str:
    from flows.tables import render

    return render(verb, result)


_VERBS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "check": _check,
    "run": lambda args: _flow(args, "promote"),
    "search": lambda args: _flow(args, "search"),
    "finetune": lambda args: _flow(args, "finetune"),
    "evaluate": lambda args: _flow(args, "evaluate"),
    "predict": _predict,
    "promote": _promote,
}

if __name__ == "__main__":
    sys.exit(main())
