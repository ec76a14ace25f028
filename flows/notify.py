"""Tell people of a bad night: a Prefect notification block, a webhook whose URL lies in an environment variable, or a
plug-in, which is one function of the event, a plain dict, declared as an entry point of the group bertft.notifiers
(docs/plugins.md).
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from prefect.blocks.core import Block
from pydantic import SecretStr

from bertft_core.base import plugins
from bertft_core.base.display import masked
from bertft_core.base.errors import fault_text

_SECONDS = 15.0


def notify(targets: Sequence[str], night: Mapping[str, Any], text: str) -> list[str]:
    """Send to each of nightly.notify; returns what went wrong, in words without secrets.

    night: the document of a night with the configuration's name, which a plug-in gets with `subject` and `text`.
    """
    faults, subject = [], f"bertft {night['name']}"
    for target in targets:
        hidden: list[str] = []  # addresses that are secrets as a whole
        try:
            if target.startswith("plugin:"):
                event = {"subject": subject, "text": text, **copy.deepcopy(dict(night))}
                _plugged(target.removeprefix("plugin:"), event)
                continue
            if not target.startswith("env:"):
                block: Any = Block.load(target)  # one of the kinds that have `notify`
                hidden = [str(v.get_secret_value()) for v in vars(block).values() if isinstance(v, SecretStr)]
                block.notify(body=text, subject=subject)
                continue
            name = target.removeprefix("env:")
            hidden = [url := os.environ.get(name, "")]
            if not url:
                raise LookupError(f"the environment variable {name} is not set")
            answer = httpx.post(url, json={"subject": subject, "text": f"{subject}: {text}"}, timeout=_SECONDS)
            if answer.is_error:  # its own message would show the URL
                raise ConnectionError(f"the webhook answered {answer.status_code}")
        except Exception as fault:  # whatever a block of the user's or the network raises
            faults.append(
                f"{target}: {masked(fault_text(fault), *(part for url in hidden for part in _parts(url)))[:200]}"
            )
    return faults


def _plugged(name: str, event: dict[str, Any]) -> None:
    entry = plugins.find(plugins.NOTIFIERS, name)
    if entry is None:
        known = ", ".join(sorted(plugins.installed(plugins.NOTIFIERS).names)) or "none"
        raise LookupError(f"no entry point of {plugins.NOTIFIERS} has this name (installed: {known})")
    plugins.load("nightly.notify", entry)(event)


def _parts(url: str) -> list[str]:
    """A webhook's address, and what stands behind its host: there is its secret."""
    path = url.partition("://")[2].partition("/")[2]
    return [part for part in (url, path, *re.split("[/?&=]", path)) if len(part) > 5]
