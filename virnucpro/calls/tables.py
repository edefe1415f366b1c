"""The tables of `virnucpro predict`: their columns, each with its meaning.

The meanings stand in the command's help and in docs/outputs.md, and tests keep the three together.
"""

from __future__ import annotations

from collections.abc import Mapping

SEQUENCES: Mapping[str, str] = {
    "number": "place of the sequence in all of the input, from 1",
    "sequence_id": "first word of its header; record_N, by its place in its file, where there is none",
    "length": "bases; 0 if the record could not be read",
    "verdict": "virus, mixed (not viral as a whole, but with viral regions), other, or not_scored",
    "score": "probability that it is viral, if as many sequences are viral as not; without a model of sequences the "
    "mean of its windows' scores, weighted by their bases (docs/calls.md)",
    "threshold": "the score from which on it is viral, by its length for measured sets",
    "false_positive_rate": "share of other sequences of its length that reach the threshold; empty if not measured",
    "windows": "windows it was cut into",
    "windows_scored": "windows with a score: with an open frame, or without if the model scores these by their DNA",
    "windows_viral": "windows that are viral by themselves",
    "viral_fraction": "windows_viral / windows_scored",
    "regions": "viral regions, listed in the regions table; a sequence that is viral as a whole is one",
    "input": "file it came from",
    "record": "its place in that file, from 1",
    "note": "why it was not scored, or was scored in part; that it has no name of its own",
}

WINDOWS: Mapping[str, str] = {
    "number": "the sequence, as in the sequences table",
    "sequence_id": "first word of its header",
    "window": "number of the window in the sequence, from 1; the published id is SEQUENCE_ID_chunk_WINDOW",
    "start": "first base, from 1",
    "end": "last base, included",
    "frames": "open frames, of F1 F2 F3 (as it stands) and R1 R2 R3 (reverse complement), with commas",
    "evidence": "what the score rests on: dna+protein (open frames) or dna (the window as it stands)",
    "best_frame": "the frame with the highest virus score",
    "virus_score": "highest score for virus among the frames, or of the window",
    "other_score": "highest score for others among the frames, or of the window",
    "score": "virus_score / (virus_score + other_score): 0.5 or more exactly where the published rule calls virus",
    "call": "virus, other, or not_scored",
    "note": "why there is no score",
}

REGIONS: Mapping[str, str] = {
    "#sequence_id": "first word of the header",
    "start": "bases before the region (BED counts from 0)",
    "end": "last base of the region",
    "name": "SEQUENCE_ID:START-END, from 1, as in the FASTA of viruses",
    "score": "1000 times region_score, rounded, as BED wants it",
    "strand": "always . (the calls do not tell strands)",
    "region_score": "what it would score as a sequence; without a model of sequences the mean of its windows' scores",
    "windows_scored": "scored windows in the region",
    "windows_viral": "those of them that are viral",
}

SAMPLES: Mapping[str, str] = {
    "sample": "how its results are named",
    "sequences": "sequences in its input",
    "bases": "their bases",
    "virus": "sequences that are viral as a whole",
    "mixed": "sequences that are viral in part",
    "other": "sequences that are not viral",
    "not_scored": "sequences without a score",
    "failed": "records or files that could not be used, listed in its failed.tsv",
    "expected_false": "how many of those called virus are expected not to be; empty for a set that was not measured",
    "viral_share": "share of viral sequences that this supposes, estimated or given",
    "model": "model set",
    "differs": "settings, models and versions that are not those of most samples",
    "folder": "where its results are, seen from this table",
    "note": "why it has no results",
}

FAILED_SAMPLES: Mapping[str, str] = {
    "sample": "how its results would be named",
    "reason": "what is wrong, and a hint",
}

VIRUSES: Mapping[str, str] = {
    "name": "as in the FASTA of viruses: the sequence's id, or SEQUENCE_ID:START-END of a region",
    "number": "the sequence, as in the sequences table",
    "sequence_id": "first word of its header",
    "start": "first base, from 1",
    "end": "last base, included",
    "length": "bases from start to end",
    "verdict": "virus, or mixed: a region of a sequence that is not viral as a whole",
    "score": "score of the sequence, or region_score of the region; the highest come first",
    "false_positive_rate": "as in the sequences table; empty for a region",
    "windows_scored": "windows in it with a score",
    "windows_viral": "those of them that are viral",
}
