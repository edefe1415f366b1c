"""The run record `run.json`: what a run was made from, how far it is, and whether a later one may continue it.

Two layers decide that. `identity` is everything that decides scores and vectors: if it differs, they are computed
again. `choices` is what else decides the results, such as thresholds: with other choices, results are made from the
same scores. The record does not say which work files are done, since their results do: one with the fingerprint of the
run and the right checksum is done.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from virnucpro.io.files import atomic_path, read_object

logger = logging.getLogger("virnucpro.run")

#: working: results have no names yet; publishing: some may have; complete: all have, and nothing is left to do.
State = Literal["working", "publishing", "complete"]

#: The keys that every record has; the rest is for readers.
_KEYS = ("state", "command", "identity", "choices", "plan")


def fingerprint(values: Mapping[str, Any]) -> str:
    """sha256 of plain values, such as the identity of a run."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def as_recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values as they are read from a record, for comparison: JSON has lists but no tuples."""
    found: dict[str, Any] = json.loads(json.dumps(values))
    return found


@dataclass
class RunRecord:
    """Contents of `run.json`.

    plan: the work files, or the pieces; details: host, inputs, settings, models, devices, times, results.
    """

    path: Path
    command: str
    identity: dict[str, Any]
    choices: dict[str, Any]
    plan: dict[str, Any]
    state: State = "working"
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def results(self) -> list[str]:
        """Names, in the folder of the record, of the files that the run publishes or has published."""
        return [name for name in self.choices.get("results", ()) if Path(name).name == name]

    @property
    def settings(self) -> dict[str, str]:
        """The settings of the run, as text; empty if an older version wrote the record."""
        found: dict[str, str] = self.details.get("settings", {})
        return found

    @property
    def failed_work_files(self) -> bool:
        """Whether work files failed in a complete run, so that they may be tried again."""
        return bool(self.details.get("failed_work_files"))

    def save(self) -> None:
        """Write the file, whole or not at all. Raises OutputError."""
        values = {
            "state": self.state,
            "command": self.command,
            "fingerprint": fingerprint(self.identity),
            "identity": self.identity,
            "choices": self.choices,
            **self.details,
            "plan": self.plan,
        }
        with atomic_path(self.path) as temporary:
            temporary.write_text(
                json.dumps({**values, "checksum": fingerprint(values)}, indent=1) + "\n", encoding="utf-8"
            )

    @classmethod
    def load(cls, path: Path) -> RunRecord | None:
        """Read the record; None if there is none, or if the file is not an intact record."""
        try:
            return cls._parsed(path, read_object(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            logger.warning(
                "%s is not a run record (%s); starting from the beginning",
                path,
                getattr(error, "strerror", None) or error,
            )
            return None

    @classmethod
    def _parsed(cls, path: Path, values: dict[str, Any]) -> RunRecord:
        if not all(key in values for key in _KEYS):
            raise ValueError("required keys are missing")
        if values.pop("checksum", None) != fingerprint(values):
            raise ValueError("its checksum does not match")
        state, command, identity, choices, plan = (values.pop(key) for key in _KEYS)
        if state not in get_args(State):
            raise ValueError(f"its state is {state!r}")
        values.pop("fingerprint")
        return cls(path, command, identity, choices, plan, state, values)
