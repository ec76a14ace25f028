"""The exception tree.

BertftError                  exit code 1
├── InputError               exit code 2: the user can mend it
│   ├── ConfigError          a configuration key
│   ├── DataError            a file, column or row
│   └── ModelError           an encoder or model folder
├── TrialPruned              a fit that ended early for a stored reason (nonfinite, oom, timeout)
├── TrainerDied              the trainer process ended without an answer
├── SearchStopped            a trial was given back because the search stops
├── LeaseLost                another coordinator took a trial over
├── ArtifactError            an artefact is missing, damaged or answers differently
│   └── DamagedFile          a small file or tag that was written here can no longer be read
├── RegistryError            the MLflow store refused or contradicts itself
│   └── LostError            the registry has lost a champion that this home remembers, or its files
├── StorageError             a database or a store of rows does not answer, or is of no use
├── StackError               a service of `bertft up` did not come up, or ended
└── BusyError                another process holds this run

What an error says is for people, and goes far: to logs, MLflow, Prefect, a webhook. So a message is cleaned of secrets
and control signs where it is made (`base/display.py`); `fault_text` and `no_secrets` do it for the errors of others.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from bertft_core.base.display import cleaned, masked

P = ParamSpec("P")
T = TypeVar("T")


class BertftError(Exception):
    """Base of all errors raised on purpose; the message says what was wanted, found and what to do, and no secret."""

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(cleaned(str(message)))


class InputError(BertftError):
    """Bad input, configuration or data."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration key is unknown, of a wrong type or impossible."""


class DataError(InputError):
    """A file, column or row cannot be used."""


class ModelError(InputError):
    """A model folder is missing or of an unknown structure."""


class TrialPruned(BertftError):
    """A fit ended early; `reason` starts with nonfinite, oom or timeout."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = str(self)


class TrainerDied(BertftError):
    """The trainer process ended before it answered; `signal` is what killed it, 0 for an exit of its own."""

    def __init__(self, message: str, signal: int = 0) -> None:
        super().__init__(message)
        self.signal = signal


class ArtifactError(BertftError):
    """An artefact is missing, damaged, or predicts something else than it should."""


class DamagedFile(ArtifactError):
    """A small file, tag or line that bertft wrote is cut off or holds something else; the message says what to do."""


class RegistryError(BertftError):
    """The MLflow store refused a call or contradicts itself."""


class LostError(RegistryError):
    """The registry does not have a champion that this home remembers, or its champion cannot answer any more."""


class StorageError(BertftError):
    """A database does not answer, lost the connection for too long, or holds something else."""


class StackError(BertftError):
    """A service of the local stack did not come up or ended; the message ends with its log."""


class BusyError(BertftError):
    """Another process works on the same run or study."""


class LeaseLost(BertftError):
    """A trial was taken over by another coordinator while this one did not renew its lease."""


class SearchStopped(BertftError):
    """A trial was given back unfinished because its search stops."""


class MaskedFault(Exception):
    """Another library's error whose text held a secret: its type and its text without that."""


def fault_text(fault: BaseException) -> str:
    """An error for people: our own as it is, another with its type; no secret, no control sign."""
    return str(fault) if isinstance(fault, BertftError | MaskedFault) else cleaned(f"{type(fault).__name__}: {fault}")


@contextmanager
def no_secrets() -> Iterator[None]:
    """What leaves the block as an error tells no secret, nor do the errors that it came from.

    For the borders at which somebody else writes down an error with all that it came from, as Prefect does. Another
    library's error that holds a secret becomes a MaskedFault; the chain of errors becomes a note.
    """
    try:
        yield
        return
    except Exception as fault:
        found = fault
    if all(masked(str(one)) == str(one) for one in _chain(found)):
        raise found
    told = (
        found if isinstance(found, BertftError) else MaskedFault(fault_text(found)).with_traceback(found.__traceback__)
    )
    told.add_note(cleaned("".join(traceback.format_exception(found))))
    told.__cause__ = told.__context__ = None
    raise told


def _chain(fault: BaseException | None) -> Iterator[BaseException]:
    """An error and all that it came from."""
    if fault is not None:
        yield fault
        yield from _chain(fault.__cause__)
        yield from _chain(fault.__context__ if fault.__context__ is not fault.__cause__ else None)


def telling_no_secrets(function: Callable[P, T]) -> Callable[P, T]:
    """The function within `no_secrets`; below Prefect's @flow and @task."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        with no_secrets():
            return function(*args, **kwargs)

    return guarded
