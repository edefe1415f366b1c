"""Words that messages of several modules share."""

from __future__ import annotations

import re

_PLURAL = re.compile(r"s(?= and |$)")


def counted(number: int, things: str, form: str = "") -> str:
    """A number with its noun, such as 1 work file or 2 work files; things: the noun in the plural.

    form: the format of the number, as for `format`.
    """
    return f"{number:{form}} {_PLURAL.sub('', things) if number == 1 else things}"
