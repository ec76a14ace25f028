"""The front door: one small function per verb; each calls one flow or one core function.

Importing this module, and `--help`, import no torch, transformers, prefect or mlflow.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
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
        if verb == "search":
            sub.add_argument("--join", action="store_true", help="work on a search that runs elsewhere, to its end")
            sub.add_argument("--report", action="store_true", help="report on the search as it stands; trains nothing")
        if verb == "run":
            sub.add_argument("--again", action="store_true", help="run even if nothing changed since the last run")
    sub = verbs.add_parser("predict", help="score a file with a registered model")
    sub.add_argument("--model", required=True, help="models:/NAME@champion, models:/NAME/3 or a model folder")
    sub.add_argument("--input", required=True, help=".csv, .tsv, .jsonl or .parquet")
    sub.add_argument("--output", required=True, help=".csv, .jsonl or .parquet to write")
    sub.add_argument("--text", help="text column, where it differs from the training column")
    sub.add_argument("--text-pair", help="second text column")
    _common(sub)
    _registry_verbs(verbs)
    _stack_verb(verbs)
    return parser


def _registry_verbs(verbs: Any) -> None:
    def named(verb: str, text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = verbs.add_parser(verb, help=text, description=text)
        if verb != "gc":
            sub.add_argument("name", metavar="NAME", help="registered model")
        _common(sub)
        return sub

    sub = named("promote", "run the gate for a registered version; move champion if the rule holds")
    sub.add_argument("version", metavar="VERSION", nargs="?", help="default: the challenger")
    sub.add_argument("--approve", action="store_true", help="give the approval that was asked for")
    sub.add_argument("--force", action="store_true", help="past gate and hold; the version must still load and answer")
    sub.add_argument("--reason", help="why --force is right; kept in the ledger")
    sub = named("rollback", "return to an earlier champion and hold further promotions until `resume`")
    sub.add_argument("--to", metavar="VERSION", help="default: the last champion that was never rolled back")
    sub.add_argument("--reason", required=True, help="kept in the ledger; the same reason again changes nothing")
    sub = named("resume", "lift the hold that a rollback set")
    sub.add_argument("--reason", required=True, help="kept in the ledger")
    named("history", "every decision on a model: when, who, from which version to which, why")
    sub = named("compare", "two versions on a labelled file that neither was trained on")
    sub.add_argument("first", metavar="V1", help="version, the one compared with")
    sub.add_argument("second", metavar="V2", help="version")
    sub.add_argument("--data", required=True, metavar="FILE", help=".csv, .tsv, .jsonl or .parquet")
    sub.add_argument("--label", metavar="COLUMN", help="label column, where it differs from the training column")
    sub = verbs.add_parser("report", help="where the HTML report of a run lies, and its verdict")
    sub.add_argument("run", metavar="RUN", help="run id, as `run` prints it")
    _common(sub)
    sub = named("gc", "list old runs, downloads, caches and versions that nobody needs; --apply removes them")
    sub.add_argument("--keep", type=_at_least_one, default=3, metavar="N", help="past champions that stay (default 3)")
    sub.add_argument("--days", type=_days, default=30.0, metavar="D", help="what is younger stays (default 30)")
    sub.add_argument("--apply", action="store_true", help="remove what is listed; safe to kill and repeat")


def _stack_verb(verbs: Any) -> None:
    text = "the local stack until Ctrl-C: Prefect server, MLflow server, a worker; all on 127.0.0.1"
    sub = verbs.add_parser("up", help=text, description=text)
    for name, port in (("prefect", 4200), ("mlflow", 5000), ("dashboard", 8080)):
        sub.add_argument(f"--{name}-port", type=int, default=port, metavar="PORT", help=f"default {port}")
    sub.add_argument("--dashboard", action="store_true", help="optuna-dashboard, too; it is a package of its own")
    _common(sub)


def _at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, was {text!r}")
    return int(text)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < 1e6:
        raise argparse.ArgumentTypeError(f"must be a number of days, 0 or more, was {text!r}")
    return days


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
        args.tell = partial(_tell, args, out)
        if (result := _VERBS[args.verb](args)) is not None:
            args.tell(result)
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


def _tell(args: argparse.Namespace, out: IO[str], result: dict[str, Any]) -> None:
    out.write(json.dumps(result, ensure_ascii=False, indent=1) if args.json else _render(args.verb, result))
    out.write("\n")
    out.flush()


def _own_stdout() -> IO[str]:
    """Keep stdout for our own document; whatever libraries print there goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def _home(args: argparse.Namespace) -> Path:
    from bertft_core.state import LEAST_FREE, open_home
    from flows.environment import prepare_environment
    from flows.session import watch_over

    home = open_home(os.environ.get("BERTFT_HOME", ".bertft"), 0 if args.verb == "gc" else LEAST_FREE)
    watch_over(args.verb, is_served=prepare_environment(home))
    return home


def _check(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.config import load_config
    from bertft_core.mlflow_config import load_mlflow_config
    from bertft_core.plan import plan

    config = load_config(args.config, args.overrides)
    return plan(config, _home(args), load_mlflow_config(args.mlflow, config.base_dir, Path.cwd()))


def _flow(args: argparse.Namespace, last: str) -> dict[str, Any]:
    from bertft_core.config import load_config
    from bertft_core.mlflow_config import load_mlflow_config
    from bertft_core.model.pretrained import resolve_pretrained

    config = load_config(args.config, args.overrides)
    load_mlflow_config(args.mlflow, config.base_dir, Path.cwd())
    resolve_pretrained(config)
    home = _home(args)
    from flows.pipeline import pipeline

    return pipeline(
        config_path=str(Path(args.config).resolve()), overrides=list(args.overrides), home=str(home),
        mlflow_file=args.mlflow and str(Path(args.mlflow).resolve()), again=getattr(args, "again", False), last=last,
    )  # fmt: skip


def _search(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.errors import InputError

    if args.join and args.report:
        raise InputError("--join works, --report only looks: give one of them")
    if not args.join and not args.report:
        return _flow(args, "search")
    from bertft_core.config import load_config

    config, home = load_config(args.config, args.overrides), _home(args)
    if args.report:
        from bertft_core.recipe import search_report
        from flows.environment import study_storage

        return search_report(config, home, study_storage())
    from flows.search import join

    return join(config_path=str(Path(args.config).resolve()), overrides=list(args.overrides), home=str(home))


def _predict(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.mlflow_config import load_mlflow_config

    home = _home(args)
    from flows.progress import Reporter
    from tasks.scoring import predict_file

    config, report = load_mlflow_config(args.mlflow, Path.cwd(), Path.cwd()), Reporter()
    with report.stage("predict"):
        return predict_file(
            args.model, Path(args.input), Path(args.output), config, home, text=args.text, text_pair=args.text_pair,
            on_rows=lambda count: report.rows("scored", count),
        )  # fmt: skip


def _store(args: argparse.Namespace) -> Any:
    from bertft_core.mlflow_config import load_mlflow_config

    home = _home(args)
    from tasks.tracking import open_store

    return open_store(load_mlflow_config(args.mlflow, Path.cwd(), Path.cwd()), home)


def _promote(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.errors import InputError

    if args.force != bool((args.reason or "").strip()) or (args.force and args.approve):
        raise InputError('--force wants --reason "…" (and --reason wants --force); --approve goes with neither')
    if args.force:
        store = _store(args)
        from tasks import overrides

        return asdict(overrides.force(store, args.name, args.version, args.reason))
    home = _home(args)
    from flows.release import promote

    return promote(name=args.name, version=args.version, home=str(home), mlflow_file=args.mlflow, approve=args.approve)


def _rollback(args: argparse.Namespace) -> dict[str, Any]:
    reason, store = _given_reason(args), _store(args)
    from tasks import overrides

    return asdict(overrides.rollback(store, args.name, reason, args.to))


def _resume(args: argparse.Namespace) -> dict[str, Any]:
    reason, store = _given_reason(args), _store(args)
    from tasks import overrides

    return asdict(overrides.resume(store, args.name, reason))


def _given_reason(args: argparse.Namespace) -> str:
    from bertft_core.errors import InputError

    if not args.reason.strip():
        raise InputError("--reason is empty: say why, the ledger keeps it")
    return str(args.reason)


def _history(args: argparse.Namespace) -> dict[str, Any]:
    store = _store(args)
    from tasks import overrides

    return overrides.history(store, args.name)


def _compare(args: argparse.Namespace) -> dict[str, Any]:
    store = _store(args)
    from tasks.comparison import compare_versions

    return compare_versions(store, args.name, args.first, args.second, Path(args.data), args.label)


def _gc(args: argparse.Namespace) -> dict[str, Any]:
    store = _store(args)
    from flows.progress import Reporter
    from tasks.cleanup import clean_up

    return clean_up(store, args.keep, args.days, args.apply, Reporter().say)


def _report(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.runs import report_of

    return report_of(_home(args) / "runs", args.run)


def _up(args: argparse.Namespace) -> None:
    from bertft_core.state import open_home
    from flows.progress import Reporter
    from flows.session import watch_over
    from flows.stack import Ports, own_store, up

    ports = Ports(
        prefect=args.prefect_port, mlflow=args.mlflow_port, dashboard=args.dashboard_port if args.dashboard else None
    )
    home = open_home(os.environ.get("BERTFT_HOME", ".bertft"))
    store = own_store(args.mlflow, home, ports)
    watch_over("up", is_served=True)
    up(home, store, ports, args.tell, Reporter().say)


def _render(verb: str, result: dict[str, Any]) -> str:
    from flows.tables import render

    return render(verb, result)


_VERBS: dict[str, Callable[[argparse.Namespace], dict[str, Any] | None]] = {
    "check": _check,
    "run": lambda args: _flow(args, "promote"),
    "search": _search,
    "finetune": lambda args: _flow(args, "finetune"),
    "evaluate": lambda args: _flow(args, "evaluate"),
    "predict": _predict,
    "promote": _promote,
    "report": _report,
    "rollback": _rollback,
    "resume": _resume,
    "history": _history,
    "compare": _compare,
    "gc": _gc,
    "up": _up,
}

if __name__ == "__main__":
    sys.exit(main())
