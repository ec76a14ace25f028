"""The board of a home: one page over all models of its registry."""
