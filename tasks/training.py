"""The Prefect task over fine-tuning. The trainer process does the work; MLflow is written here."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from bertft_core.base.errors import telling_no_secrets
from bertft_core.recipe import fit as fitting
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.prepare import at_hand
from bertft_core.training.results import TrainingResult
from bertft_core.training.spec import micro_batch_line
from tasks.events import artifact_key


@task(name="finetune", cache_policy=NO_CACHE)
@telling_no_secrets
def finetune_model(context: RunContext, progress: Any) -> TrainingResult:
    """The final fit on all training rows."""
    said: set[Any] = set()  # progress is repeated while nothing new happens

    def show(fraction: float, facts: dict[str, Any]) -> None:
        steps = f"step {facts['step']} of {facts['total_steps']}" if "step" in facts else "begins"
        progress.fraction(fraction, f"fine-tuning: {steps}")
        if "epoch" in facts and facts["epoch"] not in said:
            said.add(facts["epoch"])
            progress.say(f"  epoch {facts['epoch']}: validation score {facts['score']:.4f}, {facts['seconds']:.0f} s")
        if "micro_batch" in facts and (line := micro_batch_line(facts)) not in said:
            said.add(line)
            progress.say(f"  {line}")

    settings = fitting.machine_settings(context, progress.doing)
    prepared = at_hand(context.config, context.prepared, context.home)
    progress.say(f"  {fitting.prefix_plan(context.config, prepared, settings.precision, None)}")
    result = fitting.finetune(context, show)
    if result.prefix and result.prefix["reason"]:
        progress.say(f"  the prefix cache is not used for all rows: {result.prefix['reason']}")
    for text in filter(None, (result.fault, result.note)):
        progress.say(f"  warning: {text}")
    rows = [asdict(epoch) for epoch in result.history]
    key = artifact_key("epochs", context.config.name)
    create_table_artifact(key=key, table=rows, description=f"{context.config.name}: {result}")
    return result
