"""Tiny encoders, the contracts of plug-ins (`check_structure`, `check_source`, `check_metric`, `check_notifier`), a
PostgreSQL of one's own.
"""

from bertft_core.testing.plugins import check_metric, check_notifier, check_source
from bertft_core.testing.structure import check_structure

__all__ = ["check_metric", "check_notifier", "check_source", "check_structure"]
