"""The page of one search."""
