"""The run record `run.json`: what a run was made of, how it went, and whether an interrupted one may be continued.

Which work files are done is not written down twice: a shard that opens, carries the run's fingerprint and holds every
sequence of its work file is done, anything else is not.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virnucpro.io.store import atomic_path

logger = logging.getLogger("virnucpro.manifest")


def fingerprint(identity: Mapping[str, Any]) -> str:
    """sha256 of everything that decides the bytes of a result."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What of two identities differs, in words."""
    names = sorted(old.keys() | new.keys())
    return [name.replace("_", " ") for name in names if old.get(name) != new.get(name)]


@dataclass
class Manifest:
    """Contents of `run.json`.

    state: "embedding" or "complete"; identity: see `fingerprint`; plan: the split; record: inputs, settings, model,
    devices, work files, times.
    """

    path: Path
    state: str
    identity: dict[str, Any]
    plan: dict[str, Any]
    record: dict[str, Any] = field(default_factory=dict)

    def save(self) -> None:
        """Write the file, whole or not at all."""
        values = {
            "state": self.state,
            "fingerprint": fingerprint(self.identity),
            "identity": self.identity,
            **self.record,
            "plan": self.plan,
        }
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Manifest | None:
        """Read the record; None where there is none or it is no record of ours."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            state, identity, plan = (values.pop(name) for name in ("state", "identity", "plan"))
            values.pop("fingerprint")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            logger.warning("%s is no run record (%s); starting anew", path, error)
            return None
        return cls(path, state, identity, plan, values)
