"""The tables of `virnucpro predict`: their columns, each with its meaning.

The meanings are also in docs/outputs.md, and a test keeps both together.
"""

from __future__ import annotations

from collections.abc import Mapping

SEQUENCES: Mapping[str, str] = {
    "number": "position of the sequence in the whole input, counted from 1",
    "sequence_id": "first word of its header; record_N, after its position in its file, if it has no name",
    "length": "length in bases; 0 if the record could not be read",
    "verdict": "virus, mixed (not viral as a whole, but with viral regions), other, or not_scored",
    "score": "probability that it is viral, assuming that half of all sequences are; for sets that were not measured, "
    "the mean of its windows' scores, weighted by their bases (docs/calls.md)",
    "threshold": "lowest score at which it is called viral; for measured sets it depends on the length",
    "false_positive_rate": "share of non-viral sequences of this length that reach the threshold; empty if not "
    "measured",
    "windows": "number of windows it was cut into",
    "windows_scored": "windows that have a score; some sets score only windows with an open frame",
    "windows_viral": "windows that are called viral by themselves",
    "viral_fraction": "windows_viral / windows_scored",
    "regions": "number of viral regions, listed in the regions table; a sequence that is viral as a whole counts "
    "as one",
    "input": "input file",
    "record": "its position in that file, counted from 1",
    "note": "why it was not scored, or only in part; or that it has no name of its own",
}

WINDOWS: Mapping[str, str] = {
    "number": "the sequence, as in the sequences table",
    "sequence_id": "first word of its header",
    "window": "number of the window in the sequence, counted from 1; the published id is SEQUENCE_ID_chunk_WINDOW",
    "start": "first base, counted from 1",
    "end": "last base, inclusive",
    "frames": "open frames, separated by commas: F1 F2 F3 (as given), R1 R2 R3 (reverse complement)",
    "evidence": "what the score is based on: dna+protein (open frames) or dna (the window itself)",
    "best_frame": "the frame with the highest virus score",
    "virus_score": "highest virus score among the frames, or that of the window",
    "other_score": "highest score for others among the frames, or that of the window",
    "score": "virus_score / (virus_score + other_score): 0.5 or more exactly when the published rule calls virus",
    "call": "virus, other, or not_scored",
    "note": "why there is no score",
}

REGIONS: Mapping[str, str] = {
    "#sequence_id": "first word of the header",
    "start": "start of the region, counted from 0 as in every BED file",
    "end": "end of the region: its last base, counted from 1",
    "name": "SEQUENCE_ID:START-END, counted from 1, as in virus.fna",
    "score": "1000 times region_score, rounded, as BED requires",
    "strand": "always . (regions have no strand)",
    "region_score": "the score it would have as a sequence of its own; for sets that were not measured, the mean "
    "of its windows' scores",
    "windows_scored": "scored windows in the region",
    "windows_viral": "those of them that are called viral",
}

SAMPLES: Mapping[str, str] = {
    "sample": "name of the sample, which its results are named after",
    "sequences": "sequences in its input",
    "bases": "their bases",
    "virus": "sequences that are viral as a whole",
    "mixed": "sequences that are viral in part",
    "other": "sequences that are not viral",
    "not_scored": "sequences without a score",
    "failed": "records or files that could not be used, listed in its failed.tsv",
    "expected_false": "expected number of false calls among those called virus; empty for a set that was not measured",
    "viral_share": "share of viral sequences that this assumes, estimated or given",
    "model": "model set",
    "differs": "settings, models and versions in which it differs from most samples",
    "folder": "folder of its results, relative to this table",
    "note": "why it has no results",
}

FAILED_SAMPLES: Mapping[str, str] = {
    "sample": "name of the sample",
    "reason": "what is wrong, and what to do about it",
}

VIRUSES: Mapping[str, str] = {
    "name": "as in virus.fna: the sequence's id, or SEQUENCE_ID:START-END of a region",
    "number": "the sequence, as in the sequences table",
    "sequence_id": "first word of its header",
    "start": "first base, counted from 1",
    "end": "last base, inclusive",
    "length": "length in bases",
    "verdict": "virus, or mixed: a region of a sequence that is not viral as a whole",
    "score": "score of the sequence, or region_score of the region; highest first",
    "false_positive_rate": "as in the sequences table; empty for a region",
    "windows_scored": "windows in it with a score",
    "windows_viral": "those of them that are called viral",
}
