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

from flows.command.arguments import parse


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Exit codes: 0 done, 2 bad input, configuration or data, 1 anything else."""
    args = parse(argv)
    out = _own_stdout()
    code = _guarded(args, out)
    out.close()
    return code


def _guarded(args: argparse.Namespace, out: IO[str]) -> int:
    from bertft_core.base.errors import BertftError

    try:
        args.tell = partial(_tell, args, out)
        if (result := _VERBS[args.verb](args)) is not None:
            args.tell(result)
        return 0
    except BertftError as fault:
        document = getattr(fault, "document", None)  # a night ends in one, however it ends
        if document and args.json:
            out.write(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
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


def _open_home(args: argparse.Namespace) -> Path:
    from bertft_core.base.home import LEAST_FREE, open_home

    # a night writes down that the disk is full; gc makes room
    least = 0 if args.verb in ("gc", "nightly", "nights") else LEAST_FREE
    return open_home(os.environ.get("BERTFT_HOME", ".bertft"), least)


def _home(args: argparse.Namespace) -> Path:
    from flows.command.session import watch_over
    from flows.environment import prepare_environment

    home = _open_home(args)
    watch_over(args.verb, is_served=prepare_environment(home))
    return home


def _flow_parameters(args: argparse.Namespace, home: Path) -> dict[str, Any]:
    """The parameters that every flow over a configuration takes."""
    return {"config_path": str(Path(args.config).resolve()), "overrides": list(args.overrides), "home": str(home)}


def _mlflow_file(args: argparse.Namespace) -> str | None:
    return str(Path(args.mlflow).resolve()) if args.mlflow else None


def _check(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.config.run import load_config
    from bertft_core.config.store import load_mlflow_config
    from bertft_core.recipe.check import plan

    config = load_config(args.config, args.overrides)
    return plan(config, _home(args), load_mlflow_config(args.mlflow, config.base_dir, Path.cwd()))


def _flow(args: argparse.Namespace, last: str) -> dict[str, Any]:
    from bertft_core.config.run import load_config
    from bertft_core.config.store import load_mlflow_config
    from bertft_core.model.pretrained import resolve_pretrained

    config = load_config(args.config, args.overrides)
    load_mlflow_config(args.mlflow, config.base_dir, Path.cwd())
    resolve_pretrained(config)
    home = _home(args)
    from flows.pipeline import pipeline

    again = getattr(args, "again", False)
    result: dict[str, Any] = pipeline(
        **_flow_parameters(args, home), mlflow_file=_mlflow_file(args), again=again, last=last
    )
    return result


def _nightly(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.base.errors import InputError
    from bertft_core.config.run import load_config

    if args.live and not args.as_of:
        raise InputError("--live goes with --as-of: a night of today is live")
    config, home = load_config(args.config, args.overrides), _home(args)
    from flows.nightly import NightFailed, night_despite, nightly

    try:
        chosen = {"as_of": args.as_of, "force": args.force, "live": args.live}
        night: dict[str, Any] = nightly(**_flow_parameters(args, home), mlflow_file=_mlflow_file(args), **chosen)
        return night
    except NightFailed:
        raise
    except Exception as fault:
        return night_despite(home, config.name, args.as_of, fault)


def _deployed(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.config.run import load_config
    from flows.environment import prepare_environment

    load_config(args.config, args.overrides)
    home = _open_home(args)
    is_served = prepare_environment(home)
    from flows import deployments

    deployments.require_server(is_served=is_served)
    plan = deployments.Plan(
        config_path=Path(args.config).resolve(),
        overrides=tuple(args.overrides),
        home=home,
        mlflow_file=Path(args.mlflow).resolve() if args.mlflow else None,
        cron=args.cron,
        timezone=args.timezone,
        collision=args.collision,
        is_paused=args.paused,
    )
    if args.verb == "deploy":
        return deployments.deploy(plan, args.pool)
    deployments.serve_here(plan)
    return {"name": plan.config_path.stem, "served": False}


def _nights(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.recipe.nights.log import NightLog

    nights = NightLog(_home(args), args.name).nights()
    return {"name": args.name, "nights": [asdict(night) for night in nights]}


def _search(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.base.errors import InputError

    if args.join and args.report:
        raise InputError("--join works on the search, --report only reports on it: give one of them")
    if not args.join and not args.report:
        return _flow(args, "search")
    from bertft_core.config.run import load_config

    config, home = load_config(args.config, args.overrides), _home(args)
    if args.report:
        from bertft_core.recipe.chain import search_report
        from flows.environment import study_storage

        return search_report(config, home, study_storage())
    from flows.search import join

    joined: dict[str, Any] = join(**_flow_parameters(args, home))
    return joined


def _predict(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.config.store import load_mlflow_config

    home = _home(args)
    from bertft_core.recipe.predict import predict_file
    from flows.terminal.progress import Reporter

    config, report = load_mlflow_config(args.mlflow, Path.cwd(), Path.cwd()), Reporter()
    with report.stage("predict"):
        return predict_file(
            args.model,
            Path(args.input),
            Path(args.output),
            config,
            home,
            text=args.text,
            text_pair=args.text_pair,
            on_rows=lambda count: report.rows("scored", count),
        )


def _store(args: argparse.Namespace) -> Any:
    from bertft_core.config.store import load_mlflow_config

    home = _home(args)
    from bertft_core.tracking.store import open_store

    return open_store(load_mlflow_config(args.mlflow, Path.cwd(), Path.cwd()), home)


def _promote(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.base.errors import InputError

    if args.force != bool((args.reason or "").strip()) or (args.force and args.approve):
        raise InputError('--force wants --reason "…" (and --reason wants --force); --approve goes with neither')
    if args.force:
        store = _store(args)
        from bertft_core.registry import overrides

        return asdict(overrides.force(store, args.name, args.version, args.reason))
    home = _home(args)
    from flows.release import promote

    return promote(name=args.name, version=args.version, home=str(home), mlflow_file=args.mlflow, approve=args.approve)


def _rollback(args: argparse.Namespace) -> dict[str, Any]:
    reason, store = _given_reason(args), _store(args)
    from bertft_core.registry import overrides

    return asdict(overrides.rollback(store, args.name, reason, args.to))


def _resume(args: argparse.Namespace) -> dict[str, Any]:
    reason, store = _given_reason(args), _store(args)
    from bertft_core.registry import overrides

    return asdict(overrides.resume(store, args.name, reason))


def _given_reason(args: argparse.Namespace) -> str:
    from bertft_core.base.errors import InputError

    if not args.reason.strip():
        raise InputError("--reason is empty: say why, the ledger keeps it")
    return str(args.reason)


def _history(args: argparse.Namespace) -> dict[str, Any]:
    store = _store(args)
    from bertft_core.registry import overrides

    return overrides.history(store, args.name)


def _compare(args: argparse.Namespace) -> dict[str, Any]:
    store = _store(args)
    from bertft_core.registry.comparison import compare_versions

    return compare_versions(store, args.name, args.first, args.second, Path(args.data), args.label)


def _gc(args: argparse.Namespace) -> dict[str, Any]:
    store = _store(args)
    from bertft_core.recipe.cleanup import clean_up
    from flows.terminal.progress import Reporter

    return clean_up(store, args.keep, args.days, args.apply, Reporter().say)


def _report(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.recipe.runs import report_of

    return report_of(_home(args) / "runs", args.run)


def _up(args: argparse.Namespace) -> None:
    from flows.command.session import watch_over
    from flows.stack.up import Ports, own_store, up
    from flows.terminal.progress import Reporter

    ports = Ports(
        prefect=args.prefect_port, mlflow=args.mlflow_port, dashboard=args.dashboard_port if args.dashboard else None
    )
    home = _open_home(args)
    store = own_store(args.mlflow, home, ports)
    watch_over("up", is_served=True)
    up(home, store, ports, args.tell, Reporter().say)


def _render(verb: str, result: dict[str, Any]) -> str:
    from flows.command.tables import render

    return render(verb, result)


_VERBS: dict[str, Callable[[argparse.Namespace], dict[str, Any] | None]] = {
    "check": _check,
    "run": lambda args: _flow(args, "promote"),
    "search": _search,
    "finetune": lambda args: _flow(args, "finetune"),
    "evaluate": lambda args: _flow(args, "evaluate"),
    "predict": _predict,
    "nightly": _nightly,
    "nights": _nights,
    "deploy": _deployed,
    "serve": _deployed,
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
