"""The Prefect task over an encoder that is made first, of text without labels or of several tasks."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from bertft_core.base.errors import telling_no_secrets
from bertft_core.config.run import RunConfig
from bertft_core.recipe import adapt as adapting
from bertft_core.recipe.adapt import Adapted, EncoderChoice
from bertft_core.recipe.context import RunContext
from tasks.events import artifact_key


@task(name="adapt", cache_policy=NO_CACHE)
@telling_no_secrets
def adapt_encoder(context: RunContext, progress: Any) -> Adapted:
    """The encoder that the run's fits begin with; one that is there already is read back."""
    planned = context.prepared.adaptation
    assert planned is not None, "the caller asked for one"
    progress.say(f"  {planned}; {planned.why}")

    def show(fraction: float, facts: dict[str, Any]) -> None:
        if "step" in facts:
            progress.fraction(fraction, f"adaptation: step {facts['step']} of {facts['total_steps']}")

    adapted = adapting.adapt(context, show, progress.doing)
    assert adapted is not None, "one is planned"
    progress.say(f"  {adapted}")
    key = artifact_key("adaptation", context.config.name)
    create_table_artifact(
        key=key, table=adapted.encoder.result.table(), description=f"{context.config.name}: {adapted}"
    )
    return adapted


@task(name="choose-encoder", cache_policy=NO_CACHE)
@telling_no_secrets
def choose_between(context: RunContext, winner: RunConfig, progress: Any) -> EncoderChoice:
    """The search's winner on the configured and on the adapted encoder, where the search had both; the better one."""

    def show(fraction: float, facts: dict[str, Any]) -> None:
        if "step" in facts:
            progress.fraction(fraction, f"base against adapted: step {facts['step']} of {facts['total_steps']}")

    choice = adapting.choose_encoder(context, winner, show)
    if choice.gain is not None:
        progress.say(f"  {choice.gain}")
    return choice
