"""Encoder, TF-IDF baseline and their blend on five tables: python benchmarks/blend.py --out FILE --home FOLDER [--fit].

With --fit, fits what is missing (three seeds a table, an hour or two on one core) and keeps each one's answers on
validation and test rows in the records; without it, the blends of what is there are fitted and judged again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from blend_fits import TOKENIZATION, TRAINING, fit_all, tables
from records import Records


def main() -> None:
    """Fit what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="records, JSON lines")
    parser.add_argument("--home", type=Path, required=True, help="for rows, tokens and fits at work")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fit", action="store_true")
    options = parser.parse_args()
    records = Records(options.out, {"training": TRAINING, "tokenization": TOKENIZATION})
    if options.fit:
        fit_all(tables(), options.seeds, records, options.home)


if __name__ == "__main__":
    main()
