"""`bertft completion SHELL`: a script that completes verbs and options, made of the parser. It calls no bertft."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from flows.command.arguments import build_parser
from flows.command.catalogue import VERBS

_BASH = """_bertft() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" verb="${{COMP_WORDS[1]}}" words=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then words="{verbs} --help --version"
  else case "$verb $prev" in
{choices}
  *) case "$cur" in -*) case "$verb" in
{options}
  esac ;; esac ;;
  esac; fi
  [ -z "$words" ] || COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _bertft bertft"""
_ZSH = """#compdef bertft
_bertft() {{
  local -a verbs options
  verbs=(
{verbs}
  )
  if (( CURRENT == 2 )); then _describe verb verbs; return; fi
  case "$words[2]" in
{options}
  esac
  case "$words[2] $words[CURRENT-1]" in
{choices}
  *) if [[ "$words[CURRENT]" == -* ]]; then _describe option options; else _files; fi ;;
  esac
}}
compdef _bertft bertft"""


def script(shell: str) -> str:
    """The script for bash, zsh or fish."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def _options() -> Iterator[tuple[str, list[argparse.Action]]]:
    """Each verb with its options, each once however many spellings it has."""
    for verb, parser in build_parser()[1].items():
        yield verb, list({id(action): action for action in parser.options().values()}.values())


def _long(action: argparse.Action) -> str:
    return next(option for option in action.option_strings if option.startswith("--"))


def _choices() -> Iterator[tuple[str, str, list[str]]]:
    """(verb, word before, words): of options with a few values, and of positional arguments that are one."""
    for verb, parser in build_parser()[1].items():
        for action in parser._actions:
            if action.choices:
                yield verb, _long(action) if action.option_strings else verb, [str(c) for c in action.choices]


def _bash() -> str:
    options = "\n".join(f'  {verb}) words="{" ".join(map(_long, found))}" ;;' for verb, found in _options())
    choices = "\n".join(f"  '{verb} {word}') words=\"{' '.join(values)}\" ;;" for verb, word, values in _choices())
    return _BASH.format(verbs=" ".join(VERBS), options=options, choices=choices)


def _zsh() -> str:
    def described(word: str, text: str | None) -> str:
        return f"    {_quoted(word)}{_quoted(':' + (text or ''))}"

    verbs = "\n".join(described(name, verb.text) for name, verb in VERBS.items())
    options = "\n".join(
        "  {verb}) options=(\n{lines}\n  ) ;;".format(
            verb=verb, lines="\n".join(described(_long(a), _plain_help(a)) for a in found)
        )
        for verb, found in _options()
    )
    choices = "\n".join(f"  '{verb} {word}') compadd {' '.join(values)} ;;" for verb, word, values in _choices())
    return _ZSH.format(verbs=verbs, options=options, choices=choices)


def _fish() -> str:
    lines = ["complete -c bertft -n __fish_use_subcommand -l version -d 'print the version'"]
    for name, about in VERBS.items():
        lines.append(f"complete -c bertft -f -n __fish_use_subcommand -a {name} -d {_quoted(about.text)}")
    for verb, found in _options():
        for action in found:
            takes = "" if action.nargs == 0 else " -r"
            values = f" -f -a {_quoted(' '.join(map(str, action.choices)))}" if action.choices else ""
            seen = f"'__fish_seen_subcommand_from {verb}'"
            text = _quoted(_plain_help(action))
            lines.append(f"complete -c bertft -n {seen} -l {_long(action).removeprefix('--')}{takes}{values} -d {text}")
    for verb, word, words in _choices():
        if verb == word:
            lines.append(f"complete -c bertft -f -n '__fish_seen_subcommand_from {verb}' -a {_quoted(' '.join(words))}")
    return "\n".join(lines)


def _plain_help(action: argparse.Action) -> str:
    return (action.help or "").replace("%(default)s", str(action.default))


def _quoted(text: str) -> str:
    """In single quotation marks, as all three shells read them."""
    return "'" + text.replace("'", "’") + "'"
