"""Evaluation: scores, intervals, the TF-IDF baseline, the report and the promotion decision. No torch."""
