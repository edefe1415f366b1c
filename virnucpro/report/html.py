"""What all pages share: each is a single file that runs only its own scripts and loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from virnucpro.core.words import counted
from virnucpro.io.files import atomic_path, refuse_other

logger = logging.getLogger("virnucpro.report")

_ASSETS = Path(__file__).with_name("assets")
#: The beginning of every page, and of no other file.
_BEGINNING = '<!DOCTYPE html>\n<html lang="en" data-made-by="virnucpro report">\n'


def render(template: str, scripts: Sequence[str], styles: Sequence[str], **values: Any) -> str:
    """The HTML text of a template; scripts, styles: names of assets, which go into the page."""
    texts, style = list(map(asset, scripts)), "".join(map(asset, styles))
    environment = Environment(
        loader=FileSystemLoader(_ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["integer"] = lambda value: f"{value:,}"
    environment.filters["counted"] = partial(counted, form=",")
    environment.filters["share"] = lambda value: f"{value:.1%}"
    text = environment.get_template(template).render(
        policy=_policy(texts, style), style=Markup(style), scripts=[Markup(script) for script in texts], **values
    )
    return _BEGINNING + printable(text)


def printable(text: str) -> str:
    """Text that can be encoded as UTF-8, since names of files may have any bytes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def asset(name: str) -> str:
    """The text of a file that goes into a page."""
    return (_ASSETS / name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str], style: str) -> str:
    """A content security policy: only these scripts and this style, and nothing from elsewhere."""
    allowed = " ".join(map(_hash, scripts))
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def refuse_other_page(path: Path) -> None:
    """Raise OutputError for an existing file that is not such a page."""
    refuse_other(path, _BEGINNING.encode(), "report")


def write(path: Path, page: str) -> None:
    """Write a page, whole or not at all, over an earlier one. Raises OutputError."""
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
    logger.info("report: %s", path)
