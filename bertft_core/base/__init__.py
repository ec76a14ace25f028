"""Errors, files, hashes, locks, text, PostgreSQL: imports nothing of ours."""
