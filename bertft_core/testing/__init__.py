"""Tiny encoders, the contract of an encoder's structure (`check_structure`), a PostgreSQL of one's own."""

from bertft_core.testing.structure import check_structure

__all__ = ["check_structure"]
