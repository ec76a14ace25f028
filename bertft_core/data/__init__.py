"""From a labelled table to token arrays: sources, gate, splits, tokenization."""
