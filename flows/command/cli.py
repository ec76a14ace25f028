"""The front door: reads the arguments, runs one verb, answers on stdout, and turns a fault into one line on stderr.

Importing this module, and `--help`, import no torch, transformers, prefect or mlflow.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from typing import Any, TextIO, cast

from bertft_core.base.display import cleaned, masked, visible, visible_json
from bertft_core.base.errors import BertftError, fault_text
from flows.command.arguments import parse

GATE_SAID_NO = 3  # `promote` alone: `run` and `nightly` have done what they were asked to


def is_refused(release: dict[str, Any]) -> bool:
    """Whether a release ended without the version becoming, staying or waiting to be champion: kept or held."""
    is_champion = release["champion_after"] == release["version"]
    return release["outcome"] in ("kept", "held") and not is_champion


class _Masked:
    """A stream whose texts hold no secret, whoever writes them: a library's print, its log, a warning."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(masked(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def exit_code(verb: str, result: dict[str, Any]) -> int:
    """The exit code of a verb that has answered: what it says of a version, or of a home, may be bad news."""
    if verb == "promote" and is_refused(result):
        return GATE_SAID_NO
    return 1 if verb == "doctor" and not result["is_sound"] else 0


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Exit codes: 0 done, 2 bad input, configuration or data, 3 the gate said no, 1 anything else."""
    args = parse(argv)
    if args.verb == "completion":
        from flows.command.completion import script

        print(script(args.shell))
        return 0
    try:
        os.getcwd()
    except FileNotFoundError:  # which every relative path would fail at, each in its own words
        print(f"bertft {args.verb}: the working directory was deleted: cd to a folder that is there", file=sys.stderr)
        return 2
    from bertft_core.base.files import keep_private  # numpy; `--help` needs none

    keep_private()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")  # stdout is for our own document alone:
    os.dup2(2, 1)  # whatever libraries print there goes to stderr
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Masked(stream)) for stream in streams)

    def write_result(result: dict[str, Any]) -> None:
        from flows.command.tables import fitted, render

        if args.json:
            out.write(visible_json(json.dumps(result, ensure_ascii=False, indent=1)))
        else:
            text = visible(render(args.verb, result))
            # the text of `init` is that of its file
            is_fitted = out.isatty() and args.verb != "init"
            out.write(fitted(text, shutil.get_terminal_size().columns) if is_fitted else text)
        out.write("\n")
        out.flush()

    try:
        from flows.command.verbs import VERBS

        args.write_result = write_result  # for `up`, which goes on after its answer
        if (result := VERBS[args.verb](args)) is None:
            return 0
        write_result(result)
        return exit_code(args.verb, result)
    except KeyboardInterrupt:
        print(f"bertft {args.verb}: interrupted; the same command continues", file=sys.stderr)
        return 1
    except Exception as fault:  # the last line of defence: one line instead of a traceback
        if args.json and isinstance(fault, BertftError) and getattr(fault, "document", None):
            write_result(fault.document)  # type: ignore[attr-defined]  # a night ends in one, however it ends
        from flows.server import lost_server

        message = fault_text(fault) if isinstance(fault, BertftError) else lost_server(fault)
        message = message or f"{fault_text(fault)} (--debug shows where)"
        if args.debug:
            message = cleaned("".join(traceback.format_exception(fault)))
        elif isinstance(fault, OSError):
            where = f" {fault.filename}" if fault.filename else ""
            message = cleaned(f"{fault.strerror or fault}{where}: check the path and free space")
        print(f"bertft {args.verb}: {message}", file=sys.stderr)
        return fault.exit_code if isinstance(fault, BertftError) else 1
    finally:
        out.close()
        sys.stdout, sys.stderr = streams


if __name__ == "__main__":
    sys.exit(main())
