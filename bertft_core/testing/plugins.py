"""The contracts of plug-ins, to be run by whoever writes one."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bertft_core.base import plugins
from bertft_core.base.errors import BertftError, ConfigError, DataError
from bertft_core.base.hashes import hash_file

_NOTIFIED_SECONDS = 15.0  # as long as a webhook may take
_NIGHT = {
    "subject": "bertft news",
    "text": "2026-11-30: failed: DataError: news.csv: the file is empty",
    "name": "news",
    "night": "2026-11-30",
    "started": "2026-11-30T02:00:00+00:00",
    "outcome": "failed",
    "reason": "DataError: news.csv: the file is empty",
    "seconds": 2.5,
    "run_id": None,
    "version": None,
    "facts": {"rows": 0},
    "clock": "",
}


def check_source(address: str, query: str | None = None) -> int:
    """Read an address as a run does; the number of rows, if all of it holds.

    There are rows, each a mapping that JSON can hold, and a second reading gives the same: a night compares rows, so
    that a source whose rows change by themselves (a time of reading among them, say) trains every night.

    Raises: DataError and ConfigError that name the first promise that does not hold.
    """
    from bertft_core.data.elsewhere import fetch

    with tempfile.TemporaryDirectory() as place:
        first, second = (fetch(address, query, Path.cwd(), Path(place, str(i)), "data.source") for i in range(2))
        if hash_file(first) != hash_file(second):
            raise DataError(f"{address}: a second reading gives other rows")
        with open(first, encoding="utf-8") as handle:
            return sum(1 for _ in handle)


def check_metric(name: str, *, multi_label: bool = False) -> dict[str, float]:
    """Hold an installed metric against what a report relies on: its values of right, drawn and wrong answers.

    It takes rows of one class each, or with `multi_label` of several; gives a finite number, the same each time and for
    the rows in another order; and right answers are better than drawn ones, which are no worse than wrong ones, in the
    direction that it says.

    Raises: ConfigError that names the first promise that does not hold.
    """
    from bertft_core.evaluation.scores.extra import ExtraScore, extra_scores
    from bertft_core.evaluation.scores.labels import labels_of

    rng, n, classes = np.random.default_rng(0), 60, ("a", "b", "c")
    values = rng.integers(0, 2, (n, 3)) if multi_label else rng.integers(0, 3, n)
    answers = {
        "right": values,
        "drawn": rng.permutation(values),
        "wrong": 1 - values if multi_label else (values + 1) % 3,
    }

    def score(said: Any, order: Any) -> ExtraScore:
        labels = labels_of(values[order], classes)
        p = np.where(said == 1, 0.9, 0.1) if multi_label else np.where(np.eye(3)[said] == 1, 0.8, 0.1)
        (found,) = extra_scores((name,), labels, labels.predictions(p[order], said[order]))
        return found

    plain, found = np.arange(n), dict[str, float]()
    for what, said in answers.items():
        one, again, turned = score(said, plain), score(said, plain), score(said, plain[::-1])
        if one.value is None or again.value is None or turned.value is None:
            raise ConfigError(f"{name}: of {what} answers it {one.fault or again.fault or turned.fault}")
        if one.value != again.value or abs(one.value - turned.value) > 1e-9 * max(1.0, abs(one.value)):
            raise ConfigError(f"{name}: {one.value}, then {again.value}, of the rows in another order {turned.value}")
        found[what] = one.value
    sign = 1 if one.higher_is_better else -1
    if not sign * found["right"] > sign * found["drawn"] >= sign * found["wrong"]:
        raise ConfigError(f"{name}: says that {'more' if sign > 0 else 'less'} is better, but gives {found}")
    return found


def check_notifier(name: str) -> float:
    """Send an installed notifier the event of a night that failed; the seconds that it took.

    It is really called: where it writes to people, they hear of it.

    Raises: ConfigError for one that is not there, fails, or takes longer than 15 s, which a night would wait.
    """
    entry = plugins.find(plugins.NOTIFIERS, name)
    if entry is None:
        raise ConfigError(f"{plugins.NOTIFIERS}: no entry point {name!r} is installed")
    notify, began = plugins.load(plugins.NOTIFIERS, entry), time.monotonic()
    try:
        notify(json.loads(json.dumps(_NIGHT)))
    except BertftError:
        raise
    except Exception as fault:  # somebody else's code
        raise ConfigError(f"{name}: failed ({type(fault).__name__}: {fault})") from fault
    if (seconds := time.monotonic() - began) > _NOTIFIED_SECONDS:
        raise ConfigError(f"{name}: took {seconds:.0f} s, a night would wait so long: at most {_NOTIFIED_SECONDS:.0f}")
    return seconds
