"""The cache of hidden states: what frozen layers compute is computed once."""
