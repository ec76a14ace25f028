"""One function per verb; each calls one flow or one core function. Read once the arguments are right.

What loads prefect, mlflow or transformers is imported where it is used: `prepare_environment` comes before it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from bertft_core.base.addresses import sqlite_file
from bertft_core.base.display import visible
from bertft_core.base.errors import BertftError, InputError
from bertft_core.base.home import LEAST_FREE, board_file, open_home, others_may_read
from bertft_core.base.locks import work_in
from bertft_core.config.run import load_config
from bertft_core.config.store import Store, load_mlflow_config
from bertft_core.recipe.process.client import start_ahead
from flows.command.session import watch_over
from flows.environment import prepare_environment, server_address, study_storage
from flows.server import begin_server, require_answer, require_server

_SERVER_ROOM = 30_000_000  # bytes: the database of an own Prefect server, and what it writes beside it


def _open_home(args: argparse.Namespace) -> Path:
    # a night writes down that the disk is full; gc makes room
    least = 0 if args.verb in ("gc", "nightly", "nights", "board") else LEAST_FREE
    home = open_home(os.environ.get("BERTFT_HOME", ".bertft"), least)
    if warning := others_may_read(home):
        print(f"bertft: {visible(warning)}", file=sys.stderr)
    return home


def _home(args: argparse.Namespace) -> Path:
    home = _open_home(args)
    if args.verb != "gc":  # which wants to be alone in it
        work_in(home)
    watch_over(args.verb, is_served=prepare_environment(home))
    return home


def _flow_parameters(args: argparse.Namespace, home: Path) -> dict[str, Any]:
    """The parameters that every flow over a configuration takes; absolute, since a flow may run in another folder."""
    return {
        "config_path": str(Path(args.config).resolve()),
        "overrides": list(args.overrides),
        "home": str(home),
        "mlflow_file": str(Path(args.mlflow).resolve()) if args.mlflow else None,
    }


def _check(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.model.pretrained import resolve_pretrained

    config = load_config(args.config, args.overrides)
    resolve_pretrained(config)  # what its files tell is told before torch is imported
    from bertft_core.recipe.check import plan

    return plan(config, _home(args), load_mlflow_config(args.mlflow, config.base_dir, Path.cwd()))


def _asked(args: argparse.Namespace) -> Any:
    from bertft_core.recipe.proposal.configuration import Asked

    return Asked(label=tuple(args.label), text=args.text, text_pair=args.text_pair, model=args.model)


def _init(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.recipe.proposal.configuration import propose, require_new, write_new

    out = Path(args.out) if args.out else None
    if out:
        require_new(out)
    prepare_environment(Path(".bertft"))
    proposal = propose(args.file, Path.cwd(), _asked(args), out.parent if out else Path.cwd())
    target = out or Path(f"{proposal.config.name}.yaml")
    write_new(target, proposal.text)
    return {"configuration": str(target), "rows": proposal.rows, "seconds": proposal.seconds, "text": proposal.text}


def _run(args: argparse.Namespace) -> dict[str, Any]:
    """A run of a configuration, or of a table: then by the proposal that was made of it the first time."""
    from bertft_core.recipe.proposal.plans import is_table, plan_of

    if not is_table(args.config):
        if given := [f"--{n.replace('_', '-')}" for n in ("label", "text", "text_pair", "model") if getattr(args, n)]:
            raise InputError(f"{given[0]} goes with a table; {args.config} is a configuration, which names its columns")
        return _flow(args, "promote")
    home = _open_home(args)
    prepare_environment(home)
    file, is_new = plan_of(args.config, Path.cwd(), _asked(args), home)
    print(f"{file}{'' if is_new else ', made before; remove it to have it made anew'}:", file=sys.stderr)
    print(visible(file.read_text(encoding="utf-8")), file=sys.stderr)
    args.config = str(file)
    return _flow(args, "promote")


def _flow(args: argparse.Namespace, last: str) -> dict[str, Any]:
    from bertft_core.model.pretrained import resolve_pretrained

    config = load_config(args.config, args.overrides)
    settings = load_mlflow_config(args.mlflow, config.base_dir, Path.cwd())
    resolve_pretrained(config)
    home = _home(args)
    await_server = begin_server()
    start_ahead()
    from flows.pipeline import pipeline

    await_server()
    given = _flow_parameters(args, home)
    result = cast("dict[str, Any]", pipeline(**given, again=getattr(args, "again", False), last=last))
    if last == "promote":
        _refresh_board(settings.store(home))
    return result


def _refresh_board(store: Store) -> None:
    from bertft_core.recipe.board.writing import refresh_board
    from flows.terminal.progress import Reporter

    refresh_board(store, Reporter().say)


def _nightly(args: argparse.Namespace) -> dict[str, Any]:
    if args.live and not args.as_of:
        raise InputError("--live goes with --as-of: a night of today is live")
    try:
        as_of = dt.date.fromisoformat(args.as_of) if args.as_of else None
    except ValueError:
        raise InputError(f"--as-of {args.as_of!r} is no date such as 2026-01-31") from None
    config, home = load_config(args.config, args.overrides), _home(args)
    from flows.nightly import NightFailed, night_despite, nightly

    try:
        open_home(home, _SERVER_ROOM)  # on a full disk Prefect would try for minutes to start its server
        require_server()
        night: dict[str, Any] = nightly(**_flow_parameters(args, home), as_of=as_of, force=args.force, live=args.live)
        return night
    except NightFailed:
        raise
    except Exception as fault:
        try:
            return night_despite(home, config.name, args.as_of, fault, config.nightly.notify)
        finally:
            with suppress(BertftError):  # a faulty mlflow.yaml is what the night failed for
                _refresh_board(load_mlflow_config(args.mlflow, config.base_dir, Path.cwd()).store(home))


def _deployed(args: argparse.Namespace) -> dict[str, Any]:
    load_config(args.config, args.overrides)
    home = _open_home(args)
    if not prepare_environment(home):  # a server that Prefect embeds would end with this command
        raise InputError(
            "no Prefect server: `bertft up` starts one; then set PREFECT_API_URL, as it prints, or a Prefect profile"
        )
    require_server()
    from prefect import serve

    from flows.deployments import Plan, deploy, deployments

    plan = Plan(
        config_path=Path(args.config).resolve(),
        overrides=tuple(args.overrides),
        home=home,
        mlflow_file=Path(args.mlflow).resolve() if args.mlflow else None,
        cron=args.cron,
        timezone=args.timezone,
        collision=args.collision,
        is_paused=args.paused,
        folders=tuple(Path(folder).resolve() for folder in args.files or ["."]),
        job_variables=_job_variables(getattr(args, "job_variable", [])),
    )
    if args.verb == "deploy":
        return deploy(plan, args.pool)
    serve(*deployments(plan), print_starting_message=True)  # until Ctrl-C; runs are child processes of this one
    return {"name": plan.config_path.stem, "served": False}


def _job_variables(given: list[str]) -> dict[str, Any]:
    """KEY=VALUE as Prefect takes them: a value is JSON, else text."""
    variables: dict[str, Any] = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not (key and sign):
            raise InputError(f"--job-variable {text!r}: wanted KEY=VALUE, such as image=registry/team/mail:1")
        try:
            variables[key] = json.loads(value)
        except ValueError:
            variables[key] = value
    return variables


def _nights(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.recipe.nights.log import NightLog

    home = _home(args)
    log = NightLog(home, args.name)
    nights = log.nights()
    if not log.file.exists():  # a fresh home: the registry has them, unless that lies in it and has yet to begin
        settings = load_mlflow_config(args.mlflow, Path.cwd(), Path.cwd()).of(args.name)
        file = sqlite_file(settings.store(home).tracking_uri)
        if file is None or file.exists():
            from bertft_core.recipe.nights.record import nights_in
            from bertft_core.tracking.store import open_store

            nights = nights_in(open_store(settings, home), args.name)
    return {"name": args.name, "nights": [asdict(night) for night in nights], "unreadable": log.faults()}


def _board(args: argparse.Namespace) -> dict[str, Any]:
    home = _home(args)
    from bertft_core.recipe.board.writing import write_board
    from flows.stack.board import board_place

    page = write_board(load_mlflow_config(args.mlflow, Path.cwd(), Path.cwd()).store(home))
    _show(board_file(home), args)
    place = board_place(home)
    return {
        "board": str(board_file(home)),
        "address": place if place.startswith("http") else None,
        "models": [card.name for card in page.models],
        "waiting": [
            {"model": card.name, "what": notice.text, "command": notice.command}
            for card in page.models
            for notice in card.waiting
        ],
        "faults": list(page.faults),
    }


def _search(args: argparse.Namespace) -> dict[str, Any]:
    if args.join and args.report:
        raise InputError("--join works on the search, --report only reports on it: give one of them")
    if not args.join and not args.report:
        return _flow(args, "search")
    config, home = load_config(args.config, args.overrides), _home(args)
    if args.report:
        from bertft_core.recipe.chain import search_report

        return search_report(config, home, study_storage())
    require_server()
    from flows.search import join

    joined: dict[str, Any] = join(str(Path(args.config).resolve()), list(args.overrides), str(home))
    return joined


def _predict(args: argparse.Namespace) -> dict[str, Any]:
    store = _store(args)
    from bertft_core.recipe.predict import is_sharded, predict_file, predict_folder, scoring
    from bertft_core.serving.tables import TableSettings
    from flows.terminal.progress import Reporter

    settings = TableSettings(
        text=args.text, text_pair=args.text_pair, encoding=args.encoding, strict=args.strict, verbatim=args.verbatim
    )
    report, target = Reporter(), Path(args.output)
    if is_sharded(args.input, args.output):
        with report.stage("predict"), scoring(args.model, args.input, target, store, settings, args.shard_rows) as job:
            return predict_folder(job, args.processes, lambda done, total: report.rows("scored", done, total))
    if args.processes > 1 or args.shard_rows:
        raise InputError(
            f"--processes and --shard-rows go with a folder of answers; --output {target} is a file: name a folder"
        )
    with report.stage("predict"):
        return predict_file(
            args.model, Path(args.input), target, store, settings, on_rows=lambda count: report.rows("scored", count)
        )


def _label(args: argparse.Namespace) -> dict[str, Any]:
    config, home = load_config(args.config, args.overrides), _home(args)
    from bertft_core.recipe.labelling import offer, take_back

    if args.labelled:
        return take_back(config, Path(args.labelled), home)
    from bertft_core.tracking.store import open_store

    settings = load_mlflow_config(args.mlflow, config.base_dir, Path.cwd())
    target = Path(args.output or f"{config.name}.to-label.csv")
    registered = settings.model_name(config.name)
    return offer(config, Path(args.unlabelled), args.rows, target, open_store(settings, home), registered)


def _store(args: argparse.Namespace) -> Any:
    home = _home(args)
    from bertft_core.tracking.store import open_store

    return open_store(load_mlflow_config(args.mlflow, Path.cwd(), Path.cwd()), home)


def _promote(args: argparse.Namespace) -> dict[str, Any]:
    if args.force != bool((args.reason or "").strip()) or (args.force and args.approve):
        raise InputError('--force wants --reason "…" (and --reason wants --force); --approve goes with neither')
    if args.force:
        return _override(args)
    home = _home(args)
    require_server()
    from flows.release import promote

    return promote(name=args.name, version=args.version, home=str(home), mlflow_file=args.mlflow, approve=args.approve)


def _override(args: argparse.Namespace) -> dict[str, Any]:
    """What a person decides in place of the gate: promote --force, rollback, resume."""
    if not args.reason.strip():
        raise InputError("--reason is empty: say why, the ledger keeps it")
    store = _store(args)
    from bertft_core.registry import overrides

    if args.verb == "promote":
        return _announce(overrides.force(store, args.name, args.version, args.reason), store)
    if args.verb == "rollback":
        return _announce(overrides.rollback(store, args.name, args.reason, args.to), store)
    resumed = overrides.resume(store, args.name, args.reason)
    return {**_announce(resumed, store), "barred": overrides.barred(store, args.name)}


def _announce(release: Any, store: Store) -> dict[str, Any]:
    """Show a release on the board and tell it to a Prefect server of the user's own, if one answers; its document."""
    _refresh_board(store)
    if found := server_address():
        try:
            require_answer(*found)
        except InputError as fault:
            print(f"Prefect is not told: {fault}", file=sys.stderr)
        else:
            from tasks.events import tell_release

            tell_release(release)
    return asdict(release)


def _adopt(args: argparse.Namespace) -> dict[str, Any]:
    store = _store(args)
    from bertft_core.registry import overrides

    return _announce(overrides.adopt(store, args.name, args.reason), store)


def _export(args: argparse.Namespace) -> dict[str, Any]:
    store = _store(args)
    from bertft_core.recipe.export import export
    from flows.terminal.progress import Reporter

    return export(store, args.name, args.version, int8=args.int8, say=Reporter().say)


def _distill(args: argparse.Namespace) -> dict[str, Any]:
    store = _store(args)
    start_ahead()
    from bertft_core.recipe.distill import Wanted, distill
    from flows.terminal.progress import Reporter

    report, wanted = Reporter(), Wanted(layers=args.layers, encoder=args.encoder or "", unlabelled=args.unlabelled)
    with report.stage("distill"):
        return distill(store, args.name, args.version, wanted, report.say, report.fraction)


def _history(args: argparse.Namespace) -> dict[str, Any]:
    store = _store(args)
    from bertft_core.registry import overrides

    return overrides.history(store, args.name)


def _compare(args: argparse.Namespace) -> dict[str, Any]:
    store = _store(args)
    from bertft_core.registry.comparison import compare_versions

    return compare_versions(store, args.name, args.first, args.second, Path(args.data), args.label, args.encoding)


def _gc(args: argparse.Namespace) -> dict[str, Any]:
    store = _store(args)
    from bertft_core.recipe.cleanup import clean_up
    from flows.terminal.progress import Reporter

    return clean_up(store, args.keep, args.days, Reporter().say, apply=args.apply)


def _doctor(args: argparse.Namespace) -> dict[str, Any]:
    home = Path(os.environ.get("BERTFT_HOME", ".bertft")).expanduser().resolve()  # opening it would mend, or refuse it
    prepare_environment(home)
    from bertft_core.recipe.doctor.examination import examine

    return examine(home, load_mlflow_config(args.mlflow, Path.cwd(), Path.cwd()), repair=args.repair)


def _report(args: argparse.Namespace) -> dict[str, Any]:
    from bertft_core.recipe.runs import report_of

    found = report_of(_home(args) / "runs", args.run)
    _show(Path(found["report"]), args)
    return found


def _show(page: Path, args: argparse.Namespace) -> None:
    """Open a page in the browser where `--open` asks for it."""
    if args.open and not webbrowser.open(page.as_uri()):
        print(f"bertft: found no browser to open {page} in", file=sys.stderr)


def _up(args: argparse.Namespace) -> None:
    from bertft_core.tracking.store import ensure_store
    from flows.history import require_history
    from flows.stack.up import Ports, own_store, up
    from flows.terminal.progress import Reporter

    ports = Ports(
        prefect=args.prefect_port, mlflow=args.mlflow_port, dashboard=args.dashboard_port if args.dashboard else None
    )
    home = _open_home(args)
    store = own_store(args.mlflow, home, ports)
    require_history(home / "prefect")
    if (database := sqlite_file(store.tracking_uri)) and database.exists():
        ensure_store(store)  # a damaged one is told now, and that of a moved home takes its places along
    _refresh_board(store)
    watch_over("up", is_served=True)
    up(home, store, ports, args.write_result, Reporter().say, is_open=args.open)


def _of_each_task(verb: Callable[[argparse.Namespace], dict[str, Any]]) -> Callable[[argparse.Namespace], Any]:
    """A verb over a configuration that also takes a file of several tasks: then it does each, one after the other.

    key=value goes to the configuration of each task.
    """

    def over(args: argparse.Namespace) -> dict[str, Any]:
        from bertft_core.config.multi_task import is_multi_task, load_multi_task

        if not is_multi_task(args.config):
            return verb(args)
        multi, done = load_multi_task(args.config), {}
        multi.configurations()  # a fault in the last one is told before the first is run
        for name, file in multi.files().items():
            shared = os.path.relpath(Path(args.config).resolve(), file.parent)
            own = {"config": str(file), "overrides": [*args.overrides, f"multi_task={json.dumps(shared)}"]}
            done[name] = verb(argparse.Namespace(**{**vars(args), **own}))
        return {"name": multi.name, "tasks": done}

    return over


VERBS: dict[str, Callable[[argparse.Namespace], dict[str, Any] | None]] = {
    "check": _of_each_task(_check),
    "init": _init,
    "run": _of_each_task(_run),
    "search": _search,
    "finetune": lambda args: _flow(args, "finetune"),
    "evaluate": lambda args: _flow(args, "evaluate"),
    "predict": _predict,
    "label": _label,
    "nightly": _nightly,
    "nights": _nights,
    "deploy": _deployed,
    "serve": _deployed,
    "promote": _promote,
    "report": _report,
    "rollback": _override,
    "resume": _override,
    "adopt": _adopt,
    "export": _export,
    "distill": _distill,
    "history": _history,
    "compare": _compare,
    "gc": _gc,
    "doctor": _doctor,
    "board": _board,
    "up": _up,
}
