"""How a run was made, from its record: a table of settings, and a paragraph for the methods of a paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from virnucpro.calls.verdicts import LONG
from virnucpro.core.words import counted
from virnucpro.models.sets import SETS

Record = Mapping[str, Any]

#: The paper of the method, and how to cite this implementation.
CITATION = (
    "Li J, Mi J, Lin W, Tian F, Wan J, Gao J, Tong Y (2025). VirNucPro: an identifier for the identification of viral "
    "short sequences using six-frame translation and large language models. Briefings in Bioinformatics. "
    "https://doi.org/10.1093/bib/bbaf224\n"
    "The virnucpro developers. virnucpro {version}."
)


def citation(version: str) -> str:
    """What to cite for results of a version, one work per line."""
    return CITATION.format(version=version)


def warnings(record: Record) -> Iterator[str]:
    """What a reader must know about the model set before the first figure."""
    name = record["model set"]["name"]
    if not record["model set"]["trained"]:
        yield f"The model set {name} is untrained: these calls show only that the tool works, and mean nothing."
    elif name in SETS and not SETS[name].published:  # the sets in the package
        yield (
            f"The model set {name} is small. Its calls are hints: look at what a sequence encodes before you "
            "believe it. Its model card says how often it is right, by length and group."
        )


def settings(record: Record) -> list[tuple[str, str]]:
    """What decided the results besides the input, as (what, how). Raises KeyError unless the record is of `predict`."""
    identity, result = record["identity"], record["result"]
    return [
        ("Model set", f"{record['model set']['name']}, windows of {result['window']} bases"),
        *((part, f"{model['name']}, {_sum(model['sha256'])}") for part, model in record["models"].items()),
        ("Classifier", _sum(record["identity"]["classifier"][0])),
        ("Thresholds", _thresholds(result["thresholds"])),
        ("Shortest sequence scored", f"{identity['min length']:,} bases"),
        ("Read", "whole windows" if identity["reads"] == "windows" else f"open frames, {identity['frames']} rule"),
        ("Share of viral sequences", _share(result["false_discovery"])),
        (
            "Number format",
            f"{identity['dtype']}, {' and '.join(f'{each:,}' for each in identity['token_budget'])} tokens a batch",
        ),
        ("Kind of device", ", ".join(identity["device_kinds"])),
        ("Versions", _versions(identity)),
    ]


def inputs(record: Record) -> list[tuple[str, str]]:
    """The inputs in the same form."""
    return [("Input", f"{each['path']}, {each['size']:,} bytes, {_sum(each['sha256'])}") for each in record["inputs"]]


def _sum(sha256: str) -> str:
    """Enough of a checksum to distinguish two files; the record has all of it."""
    return f"sha256 {sha256[:16]}…"


def _thresholds(scores: Mapping[str, Any]) -> str:
    return f"window {scores['window']:.4g}, sequence {_of_sequences(scores)}"


def by_length(scores: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Thresholds of sequences as (bases, score), to be interpolated; a single one holds for all lengths."""
    if "bases" in scores:
        points = list(zip(scores["bases"], scores["scores"], strict=True))
    else:
        points = [(1, scores["sequence"]), (LONG - 1, scores["sequence"]), (LONG, scores["long"])]
    return points if len({score for _, score in points}) > 1 else points[:1]


def _of_sequences(scores: Mapping[str, Any]) -> str:
    """One threshold, or those of some lengths, in words."""
    points = by_length(scores)
    if len(points) == 1:
        return f"{points[0][1]:.4g}"
    some = points[1:] if "long" in scores else points[::4]  # of the many in a card, enough to see how they change
    return ", ".join(f"{score:.3g} at {bases:,} bases" for bases, score in some)


def _share(discovery: Mapping[str, Any] | None) -> str:
    if discovery is None:
        return "not estimated: the scores of this set are not probabilities"
    return "estimated from the scores" if discovery["estimated"] else f"{discovery['share']:.2%}, as given"


def _versions(identity: Mapping[str, Any]) -> str:
    triton = identity["triton_version"]
    return f"virnucpro {identity['virnucpro_version']}, PyTorch {identity['torch_version']}" + (
        f", Triton {triton}" if triton else ""
    )


def paragraph(record: Record) -> str:
    """A paragraph for the methods of a paper. Raises KeyError unless it is a record of `predict`."""
    identity, result, model_set = record["identity"], record["result"], record["model set"]
    verdicts, scores = result["verdicts"], result["thresholds"]
    encoders = " and ".join(model["name"] for model in record["models"].values())
    return " ".join(
        (
            f"Viral sequences were identified with virnucpro {identity['virnucpro_version']}, an implementation of "
            f"VirNucPro (Li et al. 2025), with its model set {model_set['name']} ({encoders}).",
            f"{counted(sum(verdicts.values()), 'sequences', ',')} of {result['bases']:,} bases in total were cut into "
            f"{counted(result['windows'], 'windows', ',')} of at most {result['window']} bases, of which "
            f"{result['windows_scored']:,} could be scored.",
            f"Sequences were called viral from a score of {_of_sequences(scores)}: {verdicts['virus']:,} "
            f"were viral as a whole, and {verdicts['mixed']:,} contained viral regions next to other DNA.",
            *_false_calls(result["false_discovery"]),
            f"Computed in {identity['dtype']} with PyTorch {identity['torch_version']} on "
            f"{' and '.join(identity['device_kinds'])}.",
        )
    )


def _false_calls(found: Mapping[str, Any] | None) -> list[str]:
    if not found:
        return []
    how = "as estimated from the scores" if found["estimated"] else "as was supposed"
    return [
        f"Of the {found['calls']:,} sequences called viral {found['expected_false']:.1f} are expected to be false "
        f"where {found['share']:.1%} of all are viral, {how}."
    ]
