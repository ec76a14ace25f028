"""Pages from the templates beside this file: every value is escaped, a name without a value is an error.

A template takes plain values and writes them with the filters of `values`; charts come as Markup, which is not escaped
again. What a page may load and run is said once, in page.html.j2.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from bertft_core.base.text import NO_SPREAD
from bertft_core.reporting.html import values

if TYPE_CHECKING:
    from jinja2 import Environment

# neither HTML nor XML may hold control characters and lone surrogates; overrides of direction hide what stands there
_UNPRINTABLE = re.compile(
    "[^\t\n\r\u0020-\u007e\u00a0-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)


def render(template: str, **given: Any) -> str:
    """The page of a template and its values, also well-formed XML; characters that no page may hold become U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", _environment().get_template(template).render(**given))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bertft_core.reporting.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.filters |= {
        "clip": values.clipped,
        "number": values.number,
        "percent": values.percent,
        "duration": values.duration,
        "interval": values.interval_text,
        "count": "{:,}".format,
        "capital": lambda text: text[:1].upper() + text[1:],
    }
    assert environment.loader is not None
    script = environment.loader.get_source(environment, "page.js")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    environment.globals |= {
        "counted": values.counted,
        "no_spread": NO_SPREAD,
        "script": Markup(script),
        "script_hash": f"sha256-{digest}",
    }
    return environment
