"""Tiny encoders, the contract of an encoder's structure, a PostgreSQL of one's own."""
