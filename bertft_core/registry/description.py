"""What MLflow's page of a registered model says in words: its champion, since when, and the last decision."""

from __future__ import annotations

import logging
from pathlib import Path

from bertft_core.base.display import one_line
from bertft_core.base.errors import fault_text
from bertft_core.base.home import board_file
from bertft_core.base.text import plain
from bertft_core.config.store import Store
from bertft_core.registry import entries
from bertft_core.registry.entries import Entries, LedgerEntry
from bertft_core.tracking.store import client

_BEGIN, _END = "<!-- bertft: written anew with each decision -->", "<!-- bertft -->"  # MLflow's pages do not show them
_FORMER = "All models on one page: "  # how the description of an earlier release begins: it had nothing else
_MOST = 600  # characters of a reason
_LOGGER = logging.getLogger(__name__)


def describe_model(store: Store, name: str, known: Entries) -> None:
    """Write the description anew; what people wrote before or behind it stays.

    A store that refuses it gets a warning: it decides nothing.
    """
    from mlflow.exceptions import MlflowException

    try:
        api = client(store)
        now = api.get_registered_model(name).description or ""
        api.update_registered_model(name, description=renewed(now, text_of(store, name, known)))
    except MlflowException as fault:
        _LOGGER.warning("the description of %s was not written: %s", name, fault_text(fault))


def first_description(store: Store, name: str) -> str:
    """The description of a model without any decision."""
    return renewed("", text_of(store, name, ()))


def renewed(description: str, text: str) -> str:
    """`description` with `text` in the place of the one that was written there before; at its end without one."""
    block = f"{_BEGIN}\n{text}\n{_END}"
    before, found, rest = description.partition(_BEGIN)
    if not found:
        theirs = "" if description.startswith(_FORMER) else description.strip()
        return f"{theirs}\n\n{block}" if theirs else block
    return f"{before}{block}{rest.partition(_END)[2]}"


def text_of(store: Store, name: str, known: Entries) -> str:
    """Champion, hold, last decision and where to read on, as Markdown."""
    champion, made = entries.expected_champion(known), entries.last_change(known)
    said = ["**No champion.**"]
    if champion and made:
        said = [f"**Champion: version {champion}** since {_moment(made)} ({made.action} by {plain(made.by)})."]
    if hold := entries.hold(known):
        said.append(f"On hold: {plain(hold)[:_MOST]}")
    if decided := entries.carried_out(known):
        last = decided[-1]
        what = f"version {last.version} {last.action.replace('_', ' ')} on {_moment(last)}"
        said.append(f"Last decision: {what}: {plain(last.reason)[:_MOST]}")
    board = one_line(str(board_file(Path(store.home))))
    said.append(
        f"All decisions: `bertft history {name}`, and `ledger.jsonl` of each version's run. All models on one page: "
        f"`{board}`, which `bertft up` serves as /board/ on its MLflow server."
    )
    return "\n\n".join(said)


def _moment(entry: LedgerEntry) -> str:
    return f"{entry.at[:16].replace('T', ' ')} UTC"
