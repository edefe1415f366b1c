"""The run record `run.json`: what a run was made from, how far it is, and whether a later one may continue it.

Two layers decide that. `identity` is everything that decides the vectors: what differs there is computed again.
`choices` is what else decides the results, such as thresholds: another choice goes on from the same vectors. Which work
files are done is not written down twice: a shard that carries the run's fingerprint, a right checksum and every
sequence of its work file is done, anything else is not.
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

#: What a record must hold to be one; the rest is for the reader.
_KEYS = ("state", "command", "identity", "choices", "plan")


def fingerprint(values: Mapping[str, Any]) -> str:
    """sha256 of plain values, such as all that decides the vectors of a run."""
    return hashlib.sha256(_written(values).encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What of two identities differs, in words; they are compared as they are written, where tuples are lists."""
    names = sorted(old.keys() | new.keys())
    return [name.replace("_", " ") for name in names if _written(old.get(name)) != _written(new.get(name))]


def _written(values: Any) -> str:
    return json.dumps(values, sort_keys=True)


@dataclass
class Record:
    """Contents of `run.json`; plan: the split; details: host, inputs, settings, models, devices, times, results."""

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
    def failed_work_files(self) -> bool:
        """Whether a complete run gave some up, so that another try may do better."""
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
    def load(cls, path: Path) -> Record | None:
        """Read the record; None where there is none, or where what is there is not what a run of this version wrote."""
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
    def _parsed(cls, path: Path, values: dict[str, Any]) -> Record:
        if not all(key in values for key in _KEYS):
            raise ValueError("required keys are missing")
        if values.pop("checksum", None) != fingerprint(values):
            raise ValueError("its checksum does not match")
        state, command, identity, choices, plan = (values.pop(key) for key in _KEYS)
        if state not in get_args(State):
            raise ValueError(f"its state is {state!r}")
        values.pop("fingerprint")
        return cls(path, command, identity, choices, plan, state, values)
