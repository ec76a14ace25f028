"""Whose process a flow of ours runs in: only one of our own is changed, somebody else's flow is left as it is.

Our own are the commands of `bertft`, and runs of deployments whose flow is ours. In a flow or a script of a user a
flow of ours is a guest: signals, timers, standard output and logging are the host's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.runtime import flow_run

from bertft_core.base.errors import BertftError, no_secrets
from bertft_core.config.run import load_config
from flows.signals import end_after_sigterm, is_command

P = ParamSpec("P")
T = TypeVar("T")


def is_guest() -> bool:
    """Whether this process belongs to somebody else: to a flow that called ours, or to a script."""
    flow = FlowRunContext.get()
    run = flow.flow_run if flow else None
    return not is_command() and (run is None or run.deployment_id is None or run.parent_task_run_id is not None)


def at_home(function: Callable[P, T]) -> Callable[P, T]:
    """The function of a flow: its errors tell no secret, and a process of ours ends soon after SIGTERM."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if not is_guest():
            end_after_sigterm()
        with no_secrets():
            return function(*args, **kwargs)

    # Prefect reads types by name in the module of what it is given, which is this one
    signature = inspect.signature(function, eval_str=True)
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
    return run


def model_of_run() -> str:
    """The name in the configuration that the flow run at work was given; its file's where it cannot be read."""
    path = flow_run.parameters["config_path"]
    try:
        return load_config(path, flow_run.parameters.get("overrides") or []).name
    except (BertftError, OSError):  # the flow says so in a moment
        return Path(path).stem


def tag_run(model: str) -> None:
    """The flow run at work, and what begins in it, is found by the tags `bertft` and the model's name."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    wanted = {*context.flow_run.tags, "bertft", model}
    if wanted != set(context.flow_run.tags):
        with suppress(Exception), get_client(sync_client=True) as client:  # no tag is worth a night
            client.update_flow_run(context.flow_run.id, tags=wanted)
