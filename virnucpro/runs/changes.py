"""What a user has changed since an earlier run: the option that made the difference, not all that follows from it.

One setting decides several values of an identity: another model has other weights, and may have another window, budget
and threshold. The records of both runs hold their settings, and options are named after these.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

Values = Mapping[str, Any]
#: The settings of a run, each as text.
Asked = Mapping[str, str]

_MODEL = ("model", "model_set", "models_dir")
_ROLES, _FILES = ("model", "DNA model", "protein model"), ("weights", "config", "tokenizer")

#: For each value that decides results: the settings, and the other values, that may have changed it.
CAUSES: Mapping[str, tuple[str, ...]] = {
    **{f"{role} {file}": _MODEL for role in _ROLES for file in _FILES},
    "classifier": _MODEL,
    "reads": _MODEL,
    "card": (*_MODEL, "classifier"),
    "window": ("window", *_MODEL, "card"),
    "frames": ("exact",),
    "windows without a frame": ("dna_only_head", *_MODEL, "classifier"),
    "min length": ("min_length", "window", *_MODEL, "card"),
    "min score": ("min_score", "preset", "window", *_MODEL, "card"),
    "viral share": ("viral_share",),
    "max_tokens": ("max_tokens",),
    "device_kinds": ("device", "ray"),
    "dtype": ("dtype", "device", "ray", "device_kinds"),
    "token_budget": ("batch_size", "dtype", "device", "ray", *_MODEL, "device_kinds"),
    "triton_version": ("device", "ray", "device_kinds", "torch_version"),
    "format_version": ("virnucpro_version",),
    "viral inputs": ("virus",),
    "fractions": ("validation_fraction", "test_fraction"),
    "groups": ("group_by",),
    "fit": ("epochs", "patience", "learning_rate", "seed"),
    "pieces": ("pieces", "bases", "inputs"),
    "protein": ("protein",),
    "results": ("keep_embeddings", "vanilla_output", "dna_only_head", *_MODEL, "pieces", "inputs"),
}

#: Options with names of their own.
_OPTIONS = {"exact": "frames"}


def changes(old: Values, new: Values, asked: Asked, asked_now: Asked) -> list[str]:
    """What differs between two identities, in words: options where they were changed, else what changed by itself.

    asked, asked_now: the settings of both runs. Empty only if the identities are equal.
    """
    different = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    changed = {name for name in asked.keys() & asked_now.keys() if asked[name] != asked_now[name]}
    words = list(dict.fromkeys(word for name in sorted(different) for word in _words(name, different, changed)))
    return words or [_plain(name) for name in sorted(different)]


def _words(name: str, different: Set[str], changed: Set[str]) -> list[str]:
    """What to say of one value that differs; nothing if it follows from another."""
    causes = CAUSES.get(name, ())
    if options := [option(cause) for cause in causes if cause in changed]:
        return options
    follows = any(cause in different for cause in causes if cause != name)
    return [] if follows else [_plain(name)]


def _plain(name: str) -> str:
    return name.replace("_", " ")


def option(setting: str) -> str:
    """The option that gives a setting."""
    return f"--{_OPTIONS.get(setting, setting).replace('_', '-')}"
