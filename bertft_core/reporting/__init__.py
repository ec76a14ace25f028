"""The HTML report: plain values in, one self-contained page out. No torch."""
