"""The served artefact: tokenizer, truncation, labels and weights in one folder, and the predictor over it."""
