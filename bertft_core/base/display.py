"""Text as people may see it: no secret in it, no sign that a terminal obeys or that hides what stands there.

Every fault passes here: `BertftError` takes its message through `cleaned`, and `errors.fault_text` any other.
"""

from __future__ import annotations

import base64
import contextlib
import html
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from urllib.parse import parse_qsl, quote, quote_plus, unquote

_MASK = "***"
_LEAST = 4  # signs of a value that is looked for in texts; digits and plain words are too common below these lengths
_LEAST_DIGITS, _PLAIN_WORD = 6, re.compile(r"[a-z]{1,12}|[A-Z]{1,12}|[A-Z][a-z]{1,11}")
_WORDS = "pass(?:w(?:or)?d|phrase)?|pwd|secrets?|tokens?|(?:api)?keys?|credentials?|auth(?:orization)?|sig(?:nature)?"
_SECRET_NAME = re.compile(
    rf"(?i)(?:^|[_-])(?:{_WORDS}|headers|(?:web)?hooks?)(?:[_-]|$)|(?:password|passwd|secret)(?:[_-]|$)"
)
_NO_SECRET = re.compile(r"(?i)(?:^(?:old)?pwd|_(?:sock|path|file|dir|folder|url_path))$")
# user and password of a URL: up to the last @ before its path; or, where a password holds / ? or #, up to the last @
# of the word, unless a port stands there
_USERINFO = re.compile(r"(?<=://)[^\s/?#]*@|(?<=://)[^\s/:@]*:(?!\d{1,5}(?![^\s/?#'\"`,;)\]}>]))\S{0,2000}@")
_QUERY = re.compile(rf"(?i)([?&;][^=&;?\s]{{0,40}}(?:{_WORDS})[^=&;?\s]{{0,40}}=)[^&\s'\"]+")
_SETTING = re.compile(r"(?i)\b(password|passwd|pwd)(\s?=\s?)[^\s&'\",;]+")
_HEADER = re.compile(r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?(?:(?:basic|bearer|token)\s+)?)[^\s'\",]+")
# C0 without tab and line break, DEL, C1, line and paragraph separators, embeddings, overrides and isolates of
# direction, halves of surrogate pairs (a file's name that is no UTF-8 holds them, and no terminal's encoding does)
_SIGNS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_OBEYED = re.compile(f"[{_SIGNS}]")


def cleaned(text: str) -> str:
    """`masked` and `visible`: what an error, a log or a message to people may hold."""
    return visible(masked(text))


def visible(text: str) -> str:
    r"""Control signs (C0 but tab and line break, C1, ANSI escapes), U+2028 and bidi overrides written as escapes.

    >>> print(visible("a\x1b[31mb\u202ec"))
    a\x1b[31mb\u202ec
    """
    if text.isascii() and text.isprintable():
        return text
    return _OBEYED.sub(lambda found: _escape(found[0]), text)


def one_line(text: str) -> str:
    """Text for a line of a table: every white space is one space, and no control sign is in it."""
    return visible(" ".join(text.split()))


def visible_json(text: str) -> str:
    """A JSON document that says the same without a sign that a terminal obeys: they stand as \\uXXXX in its strings."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(sign: str) -> str:
    return f"\\x{ord(sign):02x}" if ord(sign) < 256 else f"\\u{ord(sign):04x}"


def masked(text: str, *secrets: str, environ: Mapping[str, str] | None = None) -> str:
    """`text` with *** in place of secrets.

    These are: user and password of a URL, a query's tokens and keys, `password=…`, an Authorization header, and the
    values of the environment's secret variables: those named by a word such as PASSWORD, TOKEN, KEY, AUTH or WEBHOOK,
    and the passwords of URLs in any variable. They are found as they are, percent-encoded (twice, too), decoded, as
    JSON, HTML and Python write them, and in base64 as HTTP's basic authentication sends them. secrets: further ones.
    Values of less than 4 signs, or less than 6 digits, are masked in URLs and settings alone.

    >>> masked("http://me:hidden@host/x?token=abc", environ={})
    'http://***@host/x?token=***'
    """
    pattern = _known(tuple(_values(os.environ if environ is None else environ)), secrets)
    shown = pattern.sub(_MASK, text) if pattern else text
    if "://" in shown:
        shown = _USERINFO.sub(f"{_MASK}@", shown)
    if "=" in shown:
        shown = _SETTING.sub(rf"\1\2{_MASK}", _QUERY.sub(rf"\1{_MASK}", shown))
    return _HEADER.sub(rf"\1{_MASK}", shown)


def without_credentials(url: str) -> str:
    """A URL that opens a page: without user and password, which the browser asks for.

    >>> without_credentials("http://me:hidden@host/x")
    'http://host/x'
    """
    return _USERINFO.sub("", url)


def _values(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Name and value of each variable that is a secret or holds a URL with a user."""
    for name, value in environ.items():
        is_user = name.upper().endswith("_USERNAME")  # its password's Basic form needs it
        if value and (_is_secret(name) or is_user or ("://" in value and ("@" in value or "=" in value))):
            yield name, value


def _is_secret(name: str) -> bool:
    return bool(_SECRET_NAME.search(name)) and not _NO_SECRET.search(name)


@lru_cache(maxsize=8)
def _known(variables: tuple[tuple[str, str], ...], secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    """What finds the secrets of these variables; None without any."""
    plain = {*secrets}
    for name, value in variables:
        if _is_secret(name):
            plain |= {value, *_of_json(value)}
            if ":" in value and "://" not in value:  # user:password
                plain |= {value.partition(":")[2], _basic(value)}
            user = dict(variables).get(re.sub(r"(?i)PASSWORD$", "USERNAME", name), "")
            plain |= {_basic(f"{user}:{value}")} if user else set()
        if "://" in value:
            plain |= set(_of_url(value))
    forms = {form for secret in plain if _is_telling(secret) for form in _forms(secret)}
    if not forms:
        return None
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    return re.compile("|".join(_as_pattern(form) for form in longest_first))


def _is_telling(secret: str) -> bool:
    return len(secret) >= (_LEAST_DIGITS if secret.isdigit() else _LEAST) and secret.lower() not in ("true", "false")


def _as_pattern(form: str) -> str:
    """A plain word is looked for as a word: the password `postgres` is not part of `postgresql`."""
    return rf"(?<![^\W_]){re.escape(form)}(?![^\W_])" if _PLAIN_WORD.fullmatch(form) else re.escape(form)


def _of_url(url: str) -> Iterator[str]:
    """Passwords of a URL as different readers find them, its secrets in the query, and its Basic form."""
    rest = url.partition("://")[2]
    for end in (rest.split("/")[0].rfind("@"), rest.find("@"), rest.rfind("@")):
        user, _, password = rest[: max(end, 0)].partition(":")
        if password:
            yield from (password, _basic(f"{unquote(user)}:{unquote(password)}"))
    yield from (value for name, value in parse_qsl(url.partition("?")[2]) if re.search(rf"(?i){_WORDS}", name))


def _of_json(value: str) -> Iterator[str]:
    """The strings of a JSON object, such as PREFECT_CLIENT_CUSTOM_HEADERS."""
    if value.lstrip().startswith("{"):
        with contextlib.suppress(ValueError):
            for text in json.loads(value).values():
                yield from {str(text), str(text).split(" ")[-1]}  # "Bearer …" and its token


def _basic(pair: str) -> str:
    return base64.b64encode(pair.encode("utf-8", "surrogateescape")).decode("ascii")


def _forms(secret: str) -> Iterator[str]:
    """A secret as libraries write it."""
    for plain in {secret, unquote(secret)}:
        raw = plain.encode("utf-8", "surrogateescape")
        once = {quote(raw, safe=""), quote(raw), quote_plus(raw)}
        escaped = {json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1], repr(plain)[1:-1]}
        yield from {
            plain,
            *once,
            *escaped,
            html.escape(plain),
            visible(plain),
            *(quote(form, safe="") for form in once),
        }
        yield from {re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), form) for form in once}
