"""Names at Prefect."""

from __future__ import annotations

import re

from bertft_core.base.hashes import hash_json

_LONGEST = 80


def artifact_key(what: str, model: str) -> str:
    """The key of a model's artifact: Prefect takes lower-case letters, digits and dashes.

    Names that differ have keys that differ, since one that had to be changed gets six signs of its hash.

    >>> artifact_key("rows", "news"), artifact_key("rows", "News & co")
    ('bertft-rows-news', 'bertft-rows-news-co-425c74')
    """
    plain = re.sub("[^a-z0-9]+", "-", model.lower()).strip("-")[:_LONGEST]
    parts = ["bertft", what, plain] if plain == model else ["bertft", what, plain, hash_json(model)[:6]]
    return "-".join(filter(None, parts))
