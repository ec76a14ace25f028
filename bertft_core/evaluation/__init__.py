"""Evaluation: scores, intervals, the TF-IDF floor, the report and the promotion decision. No torch."""
