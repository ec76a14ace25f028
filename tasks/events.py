"""What Prefect is told of a model: events that automations are built on, and named states that flow runs end in.

A decision is told once, where it was taken: a night that trained leaves it to its release. No event is worth a night:
a server that is away loses it.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from prefect.events import emit_event
from prefect.states import Completed, Failed

from bertft_core.base.display import cleaned
from bertft_core.base.hashes import hash_json
from bertft_core.recipe.nights import log as nights
from bertft_core.registry import entries
from bertft_core.registry.ledger import AWAITING_APPROVAL, Release

# outcome of a release, of the chain or of a night -> (event without its prefix, name of the state)
_NAMES = {
    **dict.fromkeys(entries.PROMOTIONS, ("promoted", "Promoted")),
    entries.KEPT: ("kept", "Kept"),
    **dict.fromkeys((nights.SKIPPED, "unchanged"), ("skipped", "Skipped")),
    AWAITING_APPROVAL: ("awaiting_approval", "AwaitingApproval"),
    entries.HELD: ("held", "Held"),
    entries.ROLLED_BACK: ("rolled_back", "RolledBack"),
    entries.RESUMED: ("resumed", "Resumed"),
    entries.ADOPTED: ("adopted", "Adopted"),
    nights.REJECTED: ("rejected", "Rejected"),
    nights.FAILED: ("failed", "Failed"),
}
_LONGEST_KEY = 80  # characters of a model's name in it
_SHOWN = ("outcome", "reason", "version", "champion_before", "champion_after", "by", "run_id", "night", "facts")


def artifact_key(what: str, model: str) -> str:
    """The key of a model's artifact: Prefect takes lower-case letters, digits and dashes.

    Names that differ have keys that differ, since one that had to be changed gets six signs of its hash.

    >>> artifact_key("rows", "news"), artifact_key("rows", "News & co")
    ('bertft-rows-news', 'bertft-rows-news-co-425c74')
    """
    plain = re.sub("[^a-z0-9]+", "-", model.lower()).strip("-")[:_LONGEST_KEY]
    parts = ["bertft", what, plain] if plain == model else ["bertft", what, plain, hash_json(model)[:6]]
    return "-".join(filter(None, parts))


def tell(model: str, document: dict[str, Any]) -> None:
    """Emit `bertft.OUTCOME` about the resource `bertft.model.MODEL`; the run at work is among its related resources.

    model: the registered model's name. document: of a release or a night; what it says of them is the payload.
    """
    name, _ = _NAMES.get(document["outcome"], (None, None))
    if name is not None:
        resource = {"prefect.resource.id": f"bertft.model.{model}", "prefect.resource.name": model}
        shown = {key: document[key] for key in _SHOWN if document.get(key) is not None}
        payload = {"model": model, **{k: cleaned(v) if isinstance(v, str) else v for k, v in shown.items()}}
        emit_event(f"bertft.{name}", resource, payload=payload)


def tell_release(release: Release) -> Release:
    """The release, told."""
    tell(release.registered_model, asdict(release))
    return release


def final_state(document: dict[str, Any], fault: Exception | None = None) -> dict[str, Any]:
    """The state that a flow run ends in, to be returned by the flow: named by the outcome, with the reason as message.

    Whoever calls the flow gets the document, or meets the fault, as if the flow had returned or raised it; hence the
    type. A document without an outcome stays what it is, which Prefect calls Completed.
    """
    if "outcome" not in document:
        return document
    _, name = _NAMES.get(document["outcome"], (None, None))
    message = cleaned(str(document["reason"]))
    state: Any = (
        Completed(name=name or "Completed", message=message, data=document)
        if fault is None
        else Failed(name=name or "Failed", message=message, data=fault)
    )
    return state  # type: ignore[no-any-return]
