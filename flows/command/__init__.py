"""The command line: verbs, arguments, tables."""
