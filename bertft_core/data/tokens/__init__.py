"""From texts to token ids on disk, and from those to batches."""
