"""A configuration proposed from a table alone: its columns guessed and said why, a plan for this machine."""
