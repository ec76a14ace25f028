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
├── StorageError             a study's or MLflow's database does not answer, or is of no use
├── StackError               a service of `bertft up` did not come up, or ended
└── BusyError                another process holds this run
"""

from __future__ import annotations


class BertftError(Exception):
    """Base of all errors raised on purpose; the message says what was wanted, found and what to do."""

    exit_code = 1


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
        self.reason = reason


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
