"""Words of messages that more than one room needs."""

from __future__ import annotations

import re

_PLURAL = re.compile(r"s(?= and |$)")


def counted(number: int, things: str, form: str = "") -> str:
    """A number and its noun, which is given in the plural: 1 work file, 2 work files.

    form: of the number, as for `format`.
    """
    return f"{number:{form}} {_PLURAL.sub('', things) if number == 1 else things}"
