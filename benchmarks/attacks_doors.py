"""Attacks on local servers, through git, and by what a registered version holds."""

from __future__ import annotations

from attacks import Attack

ATTACKS: list[Attack] = []
