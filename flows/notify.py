"""Tell people of a bad night: a Prefect notification block, or a webhook whose URL lies in an environment variable."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import httpx
from prefect.blocks.core import Block
from pydantic import SecretStr

from bertft_core.base.display import masked
from bertft_core.base.errors import fault_text

_SECONDS = 15.0


def notify(targets: Sequence[str], subject: str, text: str) -> list[str]:
    """Send to each of nightly.notify; returns what went wrong, in words without secrets."""
    faults = []
    for target in targets:
        hidden: list[str] = []  # addresses that are secrets as a whole
        try:
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


def _parts(url: str) -> list[str]:
    """A webhook's address, and what stands behind its host: there is its secret."""
    path = url.partition("://")[2].partition("/")[2]
    return [part for part in (url, path, *re.split("[/?&=]", path)) if len(part) > 5]
