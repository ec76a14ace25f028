"""The command line as argparse sees it: verbs, options, help. Imports nothing heavy."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from bertft_core import __version__
from bertft_core.base.names import model_name, run_name, version_number
from flows.command.catalogue import VERBS, Verb, overview
from flows.environment import POOL

ENCODING = (
    "of the file; default: as the training rows were read (data.encoding, else UTF-8, cp1252 or latin-1 by its bytes)"
)
PREDICT = (
    "label, confidence and all probabilities of each row, in order, by a registered model; memory does not grow with "
    "the rows. A row without a text has its reason in the column `error`. A folder as --output gets shards of "
    "--shard-rows rows: killed, the same command goes on, and finished shards are not scored again"
)
COMPARE = (
    "two versions on a labelled file that neither was trained on: paired difference with interval, McNemar, the rows "
    "on which they disagree"
)
LABEL = (
    "write the rows of a file that are worth labelling most: the champion (else the model of the last run) is unsure "
    "of them and they differ; labels that the report doubts stand on top. --import takes the labelled file back into "
    "data.chosen, whose rows train in every run"
)
SHELLS = ("bash", "zsh", "fish")
# Of verbs over a configuration: more than the overview has room for
_CONFIG_VERBS = {
    "check": "print the plan and train nothing: rows per class and split, token lengths, rates and phases per layer, "
    "minutes and disk on this machine, what goes where",
    "run": "the whole chain: labelled text to a registered and, if better, promoted model; an unchanged configuration "
    "on unchanged rows trains nothing. Of a table instead of a configuration it first writes one, as `bertft init` "
    "does, and prints it. Of a file of several tasks it trains one encoder on all, then runs each",
    "search": "search the hyperparameters up to search.trials finished trials; killed, the same command goes on",
    "finetune": "the final fit with the best parameters (searches first where trials are missing)",
    "evaluate": "evaluate the latest finished fit of this configuration on the test split",
    "nightly": "what a schedule calls: train and release if there is reason to, say why if not",
    "deploy": "create or update the Prefect deployments: nights on a schedule; search, promote, predict by hand",
    "serve": "the same deployments, served by this process until Ctrl-C instead of by a worker. It serves flow runs, "
    "not a model: `mlflow models serve -m models:/NAME@champion` answers requests",
}


class _Parser(argparse.ArgumentParser):
    """Options are written out, and what is none is answered with the nearest that is one."""

    def __init__(self, **values: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **values)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            what = "verb" if action.dest == "verb" else "choice"
            raise argparse.ArgumentError(action, f"{value!r} is no {what}{_hint(str(value), known)}")

    def error(self, message: str) -> NoReturn:
        """One line, with where more stands: the usage of a verb with its options takes a dozen."""
        print(f"{self.prog}: {message}\n`{self.prog} --help` shows what there is", file=sys.stderr)
        sys.exit(2)

    def options(self) -> dict[str, argparse.Action]:
        """Every option by its spelling."""
        return dict(self._option_string_actions)


def _hint(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"


def build_parser() -> tuple[_Parser, dict[str, _Parser]]:
    """The command line as argparse sees it, and the part of each verb."""
    text = "Search, fine-tune, judge and release BERT-style text classifiers."
    parser = _Parser(prog="bertft", description=text, epilog=overview())
    parser.add_argument("--version", action="version", version=f"bertft {__version__}")
    parser.set_defaults(json=False, debug=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    sub = _verb(verbs, "init", "write a commented configuration for a table; never over a file that exists")
    sub.add_argument("file", metavar="FILE", help="labelled texts: .csv .tsv .jsonl .parquet, class folders, hf://…")
    sub.add_argument("--out", metavar="CONFIG", help="file to write (default: FILE's name with .yaml, here)")
    _columns(sub)
    _common(sub)
    for verb, text in _CONFIG_VERBS.items():
        sub = _verb(verbs, verb, text)
        what = "YAML file, see examples/" if verb != "run" else "YAML file, or a table of labelled texts"
        sub.add_argument("config", metavar="CONFIG", help=what)
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="such as training.lr=3e-5")
        _common(sub)
        if verb == "search":
            sub.add_argument("--join", action="store_true", help="work on a search that runs elsewhere, to its end")
            sub.add_argument("--report", action="store_true", help="report on the search as it stands; trains nothing")
        if verb == "run":
            _columns(sub)
            sub.add_argument("--again", action="store_true", help="run even if nothing changed since the last run")
        if verb == "nightly":
            sub.add_argument("--force", action="store_true", help="train whatever the triggers say")
            sub.add_argument("--as-of", metavar="DATE", help="replay the night of DATE on rows up to it (data.date)")
            sub.add_argument("--live", action="store_true", help="let a replay move the live aliases")
        if verb in ("deploy", "serve"):
            sub.add_argument("--cron", default="30 2 * * *", help="when a night begins (default: %(default)s)")
            zone = "of --cron, such as Europe/Berlin (default UTC)"
            sub.add_argument("--timezone", default="UTC", metavar="ZONE", help=zone)
            sub.add_argument(
                "--collision",
                choices=("skip", "queue"),
                default="skip",
                help="a night that comes due while another is at work is left out, or waits (default skip)",
            )
            files = (
                "what the deployed predict may read and write below; may be repeated (default: the working directory)"
            )
            sub.add_argument("--files", action="append", metavar="FOLDER", help=files)
            sub.add_argument("--paused", action="store_true", help="deploy without starting the schedule")
        if verb == "deploy":
            pool = "work pool of any type; one that is missing is made, of type process (default %(default)s)"
            sub.add_argument("--pool", default=POOL, help=pool)
            sub.add_argument(
                "--job-variable",
                action="append",
                default=[],
                metavar="KEY=VALUE",
                help="of the work pool's type, such as image=registry/team/mail:1; may be repeated",
            )
    _row_verbs(verbs)
    _registry_verbs(verbs)
    text = "the local stack until Ctrl-C: Prefect server, MLflow server, a worker; all on 127.0.0.1"
    sub = _verb(verbs, "up", text)
    for name, port in (("prefect", 4200), ("mlflow", 5000), ("dashboard", 8080)):
        sub.add_argument(f"--{name}-port", type=int, default=port, metavar="PORT", help=f"default {port}")
    sub.add_argument("--dashboard", action="store_true", help="optuna-dashboard, too; it is a package of its own")
    sub.add_argument("--open", action="store_true", help="ask nobody on this machine for the secret")
    _common(sub)
    sub = _verb(verbs, "completion")
    sub.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    return parser, dict(verbs.choices)


def _row_verbs(verbs: Any) -> None:
    sub = _verb(verbs, "predict", PREDICT)
    sub.add_argument("--model", required=True, help="models:/NAME@champion, models:/NAME/3 or a model folder")
    text = ".csv, .tsv, .jsonl or .parquet; a folder of them, with what lies below; or a quoted pattern: 'in/*.csv'"
    sub.add_argument("--input", required=True, help=text)
    sub.add_argument("--output", required=True, help=".csv, .jsonl or .parquet to write, or a folder of shards")
    sub.add_argument(
        "--processes",
        type=_at_least_one,
        default=1,
        metavar="N",
        help="that score shards side by side, each with its share of the cores as threads (default %(default)s)",
    )
    shard = "of a shard (default 10,000: what a kill can cost)"
    sub.add_argument("--shard-rows", type=_at_least_one, metavar="N", help=shard)
    sub.add_argument("--text", help="text column, where it differs from the training column")
    sub.add_argument("--text-pair", help="second text column")
    sub.add_argument(
        "--strict", action="store_true", help="end at a row that cannot be scored, instead of saying so in it"
    )
    sub.add_argument(
        "--verbatim",
        action="store_true",
        help="write texts to .csv and .tsv as they are, without the apostrophe before what a spreadsheet would compute",
    )
    sub.add_argument("--encoding", help=ENCODING)
    _common(sub)
    sub = _verb(verbs, "label", LABEL)
    sub.add_argument("config", metavar="CONFIG", help="YAML file, see examples/")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.chosen=more.jsonl")
    way = sub.add_mutually_exclusive_group(required=True)
    way.add_argument("--unlabelled", metavar="FILE", help="rows with the columns of the data, but for the label")
    way.add_argument("--import", dest="labelled", metavar="FILE", help="the file that was written, labels filled in")
    sub.add_argument("--rows", type=_at_least_one, default=100, metavar="N", help="to write (default %(default)s)")
    sub.add_argument("--output", metavar="FILE", help=".csv to write (default: NAME.to-label.csv, here)")
    _common(sub)


def _verb(verbs: Any, name: str, text: str = "") -> _Parser:
    """The parser of a verb that the catalogue has; `text` where there is more to say than there."""
    verb = VERBS.get(name, Verb(text, f"bertft {name}"))
    sub: _Parser = verbs.add_parser(name, description=_wrapped(text or verb.text), epilog=f"example:\n  {verb.example}")
    return sub


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 78)


def _registry_verbs(verbs: Any) -> None:
    def named(verb: str, text: str, of: str = "registered model") -> _Parser:
        sub = _verb(verbs, verb, text)
        if verb != "gc":
            kind = run_name if verb == "nights" else model_name
            sub.add_argument("name", metavar="NAME", type=_named(kind), help=of)
        _common(sub)
        return sub

    version = _named(version_number)
    sub = named("promote", "run the gate for a registered version, on its own test rows; move champion if it holds")
    sub.epilog = (
        f"{sub.epilog}\n\nexit codes: 0 it is the champion, or approval is awaited; 3 the gate says no; 2 bad input; "
        "1 any fault"
    )
    sub.add_argument("version", metavar="VERSION", nargs="?", type=version, help="default: the challenger")
    sub.add_argument("--approve", action="store_true", help="give the approval that was asked for")
    sub.add_argument("--force", action="store_true", help="past gate and hold; the version must still load and answer")
    sub.add_argument("--reason", help="why --force is right; kept in the ledger")
    sub = named(
        "export",
        "register the ONNX form of a version as a version of its own, and measure both; `promote` then asks that it is "
        "not worse by promotion.margin (0.01 where that is null)",
    )
    sub.add_argument("version", metavar="VERSION", nargs="?", type=version, help="default: the champion")
    sub.add_argument("--int8", action="store_true", help="weights of 8 bits: about a quarter of the size")
    sub = named(
        "distill",
        "train a smaller student on the answers of a version, register it as a version of its own, and measure both; "
        "`promote` then asks as of an export. Killed, the same command goes on",
    )
    sub.add_argument("version", metavar="VERSION", nargs="?", type=version, help="default: the champion")
    begin = sub.add_mutually_exclusive_group(required=True)
    begin.add_argument("--layers", type=_at_least_one, metavar="N", help="begin with N of the version's own layers")
    begin.add_argument("--encoder", metavar="FOLDER", help="begin with another encoder, as model.pretrained")
    sub.add_argument("--unlabelled", default="", metavar="FILE", help="further rows; anything that data.source may be")
    sub = named("rollback", "return to an earlier champion, once it loads and answers; hold promotions until `resume`")
    sub.add_argument(
        "--to", metavar="VERSION", type=version, help="default: the last champion that was never rolled back"
    )
    sub.add_argument("--reason", required=True, help="kept in the ledger; the same reason again changes nothing")
    sub = named("resume", "lift the hold that a rollback set")
    sub.add_argument("--reason", required=True, help="kept in the ledger")
    sub = named("adopt", "go on with the registry as it is, where it lost a champion that this home remembers")
    sub.add_argument("--reason", default="", help="kept in the ledger")
    named("nights", "how every night ended, and why", "`name` of the configuration")
    named("history", "every decision on a model: when, who, which version, why; repairs what a kill left")
    sub = named("compare", COMPARE)
    sub.add_argument("first", metavar="V1", type=version, help="version, the one compared with")
    sub.add_argument("second", metavar="V2", type=version, help="version")
    sub.add_argument("--data", required=True, metavar="FILE", help=".csv, .tsv, .jsonl or .parquet")
    sub.add_argument("--label", metavar="COLUMN", help="label column, where it differs from the training column")
    sub.add_argument("--encoding", help=ENCODING)
    sub = _verb(
        verbs,
        "board",
        "write BERTFT_HOME/board.html, one page over all models: champions and since when, nights, scores, what the "
        "test rows can show, what waits for a person and its command, drift, disk. Nights, runs and decisions write it "
        "too",
    )
    sub.add_argument("--open", action="store_true", help="and open it in the browser")
    _common(sub)
    sub = _verb(verbs, "report")
    sub.add_argument("run", nargs="?", metavar="RUN", help="run id, as `run` prints it (default: the one judged last)")
    sub.add_argument("--open", action="store_true", help="show it in the browser")
    _common(sub)
    text = "check a home and its registry whole: small files, digests, databases, ledger, leftovers"
    sub = _verb(verbs, "doctor", text)
    sub.add_argument("--repair", action="store_true", help="mend what can be mended without a loss; safe to repeat")
    sub.epilog = f"{sub.epilog}\n\nexit codes: 0 sound, 1 something is wrong that was not mended, 2 there is no home"
    _common(sub)
    sub = named("gc", "list old runs, downloads, caches and versions that nobody needs; --apply removes them")
    sub.add_argument("--keep", type=_at_least_one, default=3, metavar="N", help="past champions that stay (default 3)")
    sub.add_argument("--days", type=_days, default=30.0, metavar="D", help="what is younger stays (default 30)")
    sub.add_argument("--apply", action="store_true", help="remove what is listed; safe to kill and repeat")


def _named(kind: Callable[[str], str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        try:
            return kind(text)
        except ValueError as fault:
            raise argparse.ArgumentTypeError(f"{fault}, was {text[:80]!r}") from None

    return read


def _at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, was {text!r}")
    return int(text)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < 1e6:
        raise argparse.ArgumentTypeError(f"must be a number of days, 0 or more, was {text!r}")
    return days


def _columns(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--label", action="append", default=[], metavar="COLUMN", help="label column; once for each of several"
    )
    sub.add_argument("--text", metavar="COLUMN", help="text column; guessed where it is left out, as the label is")
    sub.add_argument("--text-pair", metavar="COLUMN", help="second text column")
    sub.add_argument("--model", metavar="ENCODER", help="folder, package://NAME/path or hub id (default: MiniLM)")


def _common(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="one JSON document on stdout")
    sub.add_argument("--mlflow", metavar="FILE", help="mlflow.yaml to use")
    sub.add_argument("--debug", action="store_true", help="show tracebacks")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse, with key=value overrides allowed after options too (argparse alone refuses them there).

    An option that is none ends it before anything is missed on its account: with the nearest of the same verb.
    """
    parser, verbs = build_parser()
    given = sys.argv[1:] if argv is None else list(argv)
    verb = next((word for word in given if word in verbs), None)
    for word in given[: given.index("--")] if "--" in given else given:
        option = word.partition("=")[0]
        owner = verbs[verb] if verb and given.index(verb) < given.index(word) else parser
        if option.startswith("--") and option not in owner.options():
            owner.error(f"{option} is no option{_hint(option, [o for o in owner.options() if o.startswith('--')])}")
    args, rest = parser.parse_known_args(given)
    if rest and (not hasattr(args, "overrides") or any(r.startswith("-") or "=" not in r for r in rest)):
        verbs[args.verb].error(f"not understood: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args
