"""The board: one page over all models of a registry."""
