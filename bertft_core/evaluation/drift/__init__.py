"""How tonight's rows differ from those of the last training."""
