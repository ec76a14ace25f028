"""Metrics, resampling and intervals, for one class a row and for several."""
