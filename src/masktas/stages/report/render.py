"""Sections -> the page: one HTML file that loads nothing and runs only its own scripts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from types import ModuleType

from masktas.errors import require_extra
from masktas.stages.common import charts
from masktas.stages.report.page import Section, anchors


def report_packages() -> tuple[ModuleType, ModuleType]:
    """Import jinja2 and markupsafe, and see that matplotlib is there too.

    Raises:
        ConfigError: if one of them is not installed.
    """
    charts.matplotlib("figure")
    jinja2, markupsafe = (
        require_extra(one, "report", "The report") for one in ("jinja2", "markupsafe")
    )
    return jinja2, markupsafe


def render(name: str, location: str, sections: Sequence[Section], *, live: bool = False) -> str:
    """Return the page as HTML. Scripts are known by their digests, all others are refused.

    Args:
        name: of the run.
        location: where its images are; empty if that is not known.
        sections: from top to bottom.
        live: whether the page asks the server that it is from for changes (`watch.py`).
    """
    jinja2, markupsafe = report_packages()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page: str = environment.from_string(_file("report.html")).render(
        name=name,
        location=location,
        sections=list(zip(sections, anchors(sections), strict=True)),
        live=live,
        policy=policy(live=live),
        style=markupsafe.Markup(_file("report.css")),
        scripts=[markupsafe.Markup(_file(one)) for one in _scripts(live)],
    )
    return page


def policy(*, live: bool = False) -> str:
    """Return the content security policy of a page: nothing is loaded, only its own scripts run."""
    digests = [hashlib.sha256(_file(one).encode()).digest() for one in _scripts(live)]
    scripts = " ".join(f"'sha256-{base64.b64encode(one).decode()}'" for one in digests)
    rules = [
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",  # matplotlib writes colours as style attributes
        f"script-src {scripts}",
        "base-uri 'none'",
        "form-action 'none'",
        *(["connect-src 'self'"] if live else []),
    ]
    return "; ".join(rules)


def _scripts(live: bool) -> tuple[str, ...]:
    """Return the scripts of a page; the first notes its sections before the others change them."""
    return (*(["watch.js"] if live else []), "tables.js", "explorer.js")


@cache
def _file(name: str) -> str:
    return resources.files("masktas.stages.report").joinpath(name).read_text("utf-8")
