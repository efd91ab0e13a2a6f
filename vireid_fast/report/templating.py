"""Templates of the package's pages: everything escaped, one file, nothing loaded from outside."""

import base64
import hashlib
import math
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vireid_fast._checks import require_choice
from vireid_fast._version import __version__
from vireid_fast.report.content import Picture

TEMPLATES = Path(__file__).parent / "templates"
# SVG is left out: it may hold scripts and links, and nothing of ours makes one as a picture.
PICTURE_KINDS = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp")
ABSENT = "–"


def render(template: str, **values: object) -> str:
    """One HTML page of a template that extends `base.html.j2`.

    The page forbids, by its content security policy, every request, and every script and style
    but those of the package, which it names by their hashes.

    Args:
        template: File in `templates`.
        **values: What the template shows; text is escaped.

    Returns:
        The page; the same bytes for the same values.

    Raises:
        jinja2.UndefinedError: The template uses a value that is not given.
    """
    style, script = _asset("style.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    # Both files are ours, and a hash holds for the exact text, so they are not escaped.
    return _environment().get_template(template).render(
        style=Markup(style), script=Markup(script), policy=policy, version=__version__, **values
    )  # fmt: skip


def percent(share: float, digits: int = 1) -> str:
    """A share in percent, without the sign: 0.673 is "67.3"; a dash if it is not finite."""
    return f"{100 * share:.{digits}f}" if math.isfinite(share) else ABSENT


def number(value: float, digits: int = 3) -> str:
    """A value with significant digits; a dash if it is not finite."""
    return f"{value:#.{digits}g}".rstrip(".") if math.isfinite(value) else ABSENT


def data_uri(picture: Picture) -> str:
    """The picture as a data URI.

    Raises:
        ValueError: It is no picture that a page may hold.
    """
    require_choice("report", "picture.kind", picture.kind, PICTURE_KINDS)
    return f"data:{picture.kind};base64,{base64.b64encode(picture.data).decode('ascii')}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, number=number, data_uri=data_uri)
    return environment


@cache
def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
