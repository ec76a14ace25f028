"""Further pre-training of an encoder on text without labels."""
