"""Read and check DNA or protein: FASTA, FASTQ and unaligned BAM, plain or compressed, from files and pipes.

Lines are read here and not by a library, since libraries refuse letters beyond ASCII in headers and blank lines in
FASTQ, strip blanks from the ends of headers, drop lines silently, and cannot say on which line a record begins.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from virnucpro.core.words import counted
from virnucpro.errors import InputError
from virnucpro.input.bam import read_bam
from virnucpro.input.compressed import BAM_MAGIC, FETCH_AGAIN, OUTPUT_BYTES, Content, Damaged, opened

_FOREIGN = "?"
_FOREIGN_BYTE = _FOREIGN.encode("ascii")
_LAYOUT = b" \t\r\n\v\f"
_PROTEIN_ONLY = frozenset("EFILPQJOZ*")
_GAPS = frozenset("-.")
_MARKS = frozenset(">\ufeff")


class Alphabet:
    """The letters of sequences; `meaning` maps each to the letter that it is read as.

    Lower-case letters are read like upper-case ones, unless `meaning` has lower-case letters.
    """

    def __init__(self, name: str, meaning: Mapping[str, str], last: bytes, hint: str) -> None:
        self.name = name
        either = {letter.lower(): read for letter, read in meaning.items()} | dict(meaning)
        #: Every byte as the letter it stands for, or `_FOREIGN`.
        self.letters = "".join(either.get(chr(byte), _FOREIGN) for byte in range(256)).encode("ascii")
        #: What may follow the last letter, and is left out.
        self.last = last
        #: What the user can do about a character that is not a letter.
        self.hint = hint
        #: A character that is not a letter.
        self.foreign = re.compile(rf"[^{''.join(meaning)}\s]", re.ASCII | re.IGNORECASE)

    def read(self, text: bytes | bytearray) -> bytes | bytearray:
        """The letters of a sequence; `?` for each other character."""
        if self.last:
            text = text.rstrip(_LAYOUT).removesuffix(self.last)
        return text.translate(self.letters, _LAYOUT)


# X: masked bases, as written by RepeatMasker and cross_match.
_BASES = {**{code: code for code in "ACGTRYSWKMBDHVN"}, "U": "T", "X": "N"}
_BASES_CURE = "use N for an unknown base (allowed are A C G T U X and the IUPAC codes)"
DNA = Alphabet("DNA", _BASES, b"", _BASES_CURE)
#: The same, in the case in which it is written: lower case masks repeats.
DNA_AS_WRITTEN = Alphabet(
    "DNA", _BASES | {base.lower(): read.lower() for base, read in _BASES.items()}, b"", _BASES_CURE
)
PROTEIN = Alphabet(
    "protein",
    {code: code for code in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"},
    b"*",
    "use X for an unknown amino acid (allowed are the letters A to Z, and one * at the end)",
)

#: Letters that are looked at to recognise DNA in place of protein, and the fewest that are enough to decide.
SEEN_LETTERS, FEWEST_LETTERS = 10_000, 40

#: Bytes of the longest header; a longer one is damage.
_LONGEST_HEADER = 1_000_000
#: Bytes of a line that are read at a time; longer lines come in pieces.
_LONGEST = 1 << 20
_LONGEST_SHOWN = 80

#: What may stand before '>' or '@': blanks, and the byte order marks of files that were joined by `cat`.
_BEFORE_MARK = re.compile(rb"(?:[ \t\r\v\f]|%b)+" % codecs.BOM_UTF8)

_FORMATS = "give FASTA, FASTQ or unaligned BAM, plain or compressed by gzip, bzip2, xz or zstd"
_SAM_CURE = "convert it to FASTQ with `samtools fastq`"
#: Beginnings of files in formats that are recognised but not read: the format's name, and the hint for the user.
_REFUSED = (
    (re.compile(rb"@(HD\tVN|SQ\tSN|RG\tID|PG\tID):|[^>@\s]\S*\t\d+\t\S+\t\d+\t\d+\t"), "SAM text", _SAM_CURE),
    (re.compile(rb"CRAM"), "CRAM", _SAM_CURE),
    (re.compile(rb"LOCUS +|ID   "), "GenBank or EMBL text", "convert it to FASTA, for example with `seqret` of EMBOSS"),
    (re.compile(rb"\xff\xfe|\xfe\xff"), "UTF-16 text", "convert it to UTF-8: `iconv -f UTF-16 -t UTF-8`"),
    (
        re.compile(rb"PK\x03\x04|(?=.{257}ustar)[^>@\0]+\0", re.DOTALL),
        "an archive of files",
        "unpack it and give the files inside",
    ),
)


@dataclass(frozen=True, slots=True)
class Record:
    """A sequence fit for use."""

    #: Everything after '>' or '@', unchanged; `record_N`, by its number, if there is nothing.
    header: str
    #: Upper case (except for DNA_AS_WRITTEN); DNA: A C G T and the IUPAC ambiguity codes; protein: A to Z.
    sequence: str
    #: Position in the file, from 1.
    number: int
    #: What the user should know about it; empty if nothing.
    note: str = ""

    @property
    def id(self) -> str:
        """The first word of the header."""
        return first_word(self.header)


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A sequence that cannot be used, or, with number 0, the rest of a file that cannot be read."""

    id: str
    #: Position in the file, from 1; 0 for the file itself.
    number: int
    #: What is wrong, where, and what to do about it.
    reason: str


class _Raw(NamedTuple):
    """A record as it is written in its file."""

    #: Everything after the mark, with its line end; only the beginning if it is far too long.
    header: bytes
    #: The sequence as it is written; all line ends from that of the header on.
    text: bytes | bytearray
    #: The line of the header, from 1; 0 in a format without lines.
    line: int


def read_records(path: Path, alphabet: Alphabet = DNA) -> Iterator[Record | BadRecord]:
    """Yield the records of a file in order; a bad one does not end the reading.

    If the file is damaged or ends too early, the records before that place come first, then one `BadRecord` with
    number 0. A truncated record is never yielded. Altered bytes are noticed only by a checksum after them (in gzip
    at the end of the file), so then the records before it are in doubt as well.
    Memory: a few times the longest sequence, however long the lines are.
    Raises `InputError`, when the first record is asked for, if the file cannot be opened, is of no known
    format, or holds no sequences.
    """
    number = 0
    try:
        for number, raw in enumerate(_raw_records(path), 1):
            yield _checked(raw, number, alphabet)
    except Damaged as damage:
        yield BadRecord("", 0, f"{path}: reading stopped after {counted(number, 'records')}: {damage}")


def looks_like_dna(path: Path) -> bool:
    """Whether the first sequences of a file of proteins have no letters but A C G T U and N.

    `SEEN_LETTERS` letters are looked at: there are single proteins of these letters, but no files of them. False for a
    file that cannot be read, which is reported when it is read.
    """
    seen = ""
    try:
        for record in read_records(path, PROTEIN):
            seen += record.sequence if isinstance(record, Record) else ""
            if len(seen) >= SEEN_LETTERS:
                break
    except InputError:
        return False
    return len(seen) >= FEWEST_LETTERS and not seen.strip("ACGTUN")


def count_records(path: Path) -> int:
    """Count the records of a file, good or bad. Raises `InputError` if it cannot be read to its end."""
    number = 0
    try:
        for _ in _raw_records(path):
            number += 1
    except Damaged as damage:
        stopped = f"reading stopped after {counted(number, 'records')}: {damage}"
        message = f"cannot count the sequences of {path}: {stopped}"
        raise InputError(message) from damage
    return number


def write_fasta(handle: BinaryIO, header: str, sequence: str) -> None:
    """Write one record on two lines, such that `read_records` gives back the same header and sequence."""
    if not {"\n", "\r", "\0"}.isdisjoint(header):
        raise InputError(f"the header {header!r} holds a line break or a NUL", hint="write each header on one line")
    handle.write(f">{header}\n{sequence}\n".encode())


def _raw_records(path: Path) -> Iterator[_Raw]:
    with opened(path) as content:
        records = _parsed(content, path)
        first = next(records, None)
        if first is None:
            raise InputError(f"{path} holds no sequences", hint="check the step that wrote it")
        yield first
        yield from records
        if content.leftover:
            raise Damaged(content.leftover)


def _parsed(content: Content, path: Path) -> Iterator[_Raw]:
    stream = io.BufferedReader(content, OUTPUT_BYTES)
    head = stream.peek(1)
    if head.startswith(BAM_MAGIC):
        return (_Raw(name, sequence, 0) for name, sequence in read_bam(stream))
    for pattern, name, hint in _REFUSED:
        if pattern.match(head):
            raise InputError(f"{path} is {name}", hint=hint)
    lines = iter(partial(stream.readline, _LONGEST), b"")
    for number, text in enumerate(lines, 1):
        start = _unmarked(text)
        if start.startswith(b">"):
            return _fasta(chain((text,), lines), number)
        if start.startswith(b"@"):
            return _fastq(chain((text,), lines), number)
        if start.strip() and not start.startswith(b";"):
            message = f"{path} has an unknown format: line {number} starts with neither '>' nor '@'"
            raise InputError(message, hint=_FORMATS)
    return iter(())


def _unmarked(text: bytes) -> bytes:
    """A line without blanks and byte order marks before it."""
    found = _BEFORE_MARK.match(text)
    return text[found.end() :] if found else text


def _fasta(lines: Iterable[bytes], line: int) -> Iterator[_Raw]:
    """Records from lines, long ones in pieces; the first is number `line` and a header."""
    header, body, first = b"", bytearray(), line
    begins, is_sequence = True, False
    for text in lines:
        if begins:
            is_sequence = text[:1].isalpha()
            if not is_sequence:
                text = _unmarked(text)
                is_sequence = not text.startswith((b">", b";"))  # ; begins a comment
                if text.startswith(b">"):
                    if body:
                        yield _Raw(header, body, first)
                    header, body, first = text[1:], bytearray(), line
        begins = text.endswith(b"\n")
        line += begins
        body += text if is_sequence else b"\n" * begins
    yield _Raw(header, body, first)


def _fastq(lines: Iterator[bytes], line: int) -> Iterator[_Raw]:
    """Records from lines, long ones in pieces; the first is number `line`."""
    for text in lines:
        start = text if text.startswith(b"@") else _unmarked(text)
        if not start.strip():
            line += 1
            continue
        while _goes_on(text):
            text = next(lines, b"")
        sequence, plus, quality = next(lines, b""), next(lines, b""), next(lines, b"")
        if _goes_on(sequence) or not plus.startswith(b"+"):
            sequence, plus, quality = _wrapped(chain((sequence, plus, quality), lines))
        if not (start.startswith(b"@") and plus.startswith(b"+") and _same_length(sequence, quality)):
            raise Damaged(
                f"the FASTQ record at line {line} is truncated or malformed (expected '@' and header, sequence, '+', "
                f"and as many qualities on as many lines); {FETCH_AGAIN}"
            )
        yield _Raw(start[1:], b"\n" + sequence, line)
        line += 2 + sequence.count(b"\n") + quality.count(b"\n")


def _wrapped(lines: Iterator[bytes]) -> tuple[bytes, bytes, bytes]:
    """Sequence, the line that begins with '+' if there is one, and as many lines of qualities as of letters."""
    sequence, quality, count, plus = bytearray(), bytearray(), 0, b""
    for text in lines:
        if text.startswith((b"+", b"@", b">")):
            plus = text
            break
        sequence += text
        count += 1
    for text in islice(lines, count):
        quality += text
    return bytes(sequence), plus, bytes(quality)


def _same_length(sequence: bytes, quality: bytes) -> bool:
    if len(sequence.rstrip()) == len(quality.rstrip()):
        return True
    return len(sequence.translate(None, _LAYOUT)) == len(quality.translate(None, _LAYOUT))


def _goes_on(text: bytes) -> bool:
    """Whether `text` is a piece of a line whose rest comes next."""
    return len(text) == _LONGEST and not text.endswith(b"\n")


def _checked(raw: _Raw, number: int, alphabet: Alphabet) -> Record | BadRecord:
    size = len(raw.header)
    header = decoded(raw.header[: size if size <= _LONGEST_HEADER else _LONGEST_SHOWN]).rstrip("\r\n")
    letters = alphabet.read(raw.text)
    if problem := _problem(raw, header, letters, alphabet):
        return BadRecord(first_word(header.partition("\0")[0]), number, problem)
    if header.strip():
        return Record(header, letters.decode("ascii"), number)
    return Record(f"record_{number}", letters.decode("ascii"), number, "no name in its header")


def _problem(raw: _Raw, header: str, letters: bytes | bytearray, alphabet: Alphabet) -> str:
    """What is wrong, where, and a hint; empty if nothing is wrong."""
    if len(raw.header) > _LONGEST_HEADER:
        return f"{_place(raw)}the header is longer than {_LONGEST_HEADER:,} bytes: {FETCH_AGAIN}"
    if "\0" in header:
        return f"{_place(raw)}a NUL byte in the header: {FETCH_AGAIN}"
    if "\r" in header or "\n" in header:
        return (
            f"{_place(raw)}a line break in the header: use one kind of line ending, for example with `tr '\\r' '\\n'`"
        )
    if not letters:
        return f"{_place(raw)}no sequence follows this header: complete or remove the record"
    return _foreign_reason(raw, alphabet) if _FOREIGN_BYTE in letters else ""


def _place(raw: _Raw) -> str:
    return f"line {raw.line}: " if raw.line else ""


def _foreign_reason(raw: _Raw, alphabet: Alphabet) -> str:
    """Name the first character that is not a letter of `alphabet`; `raw` must contain one."""
    text = decoded(raw.text)
    found = next(alphabet.foreign.finditer(text))
    line = raw.line + text.count("\n", 0, found.start())
    place = f"line {line}" if raw.line else f"position {found.start() + 1} of the sequence"
    return f"{place}: {found.group()!r} is not a {alphabet.name} letter: {_letter_cure(found.group(), alphabet)}"


def _letter_cure(character: str, alphabet: Alphabet) -> str:
    if alphabet.name == DNA.name and character.upper() in _PROTEIN_ONLY:
        return "this looks like protein; give the DNA that codes for it"
    if character == "*":
        return "this looks like a stop codon; cut the protein there"
    if character == "\0":
        return f"the file is damaged; {FETCH_AGAIN}"
    if character in _MARKS:
        return "start each record on a new line"
    if character.isdigit():
        return "this looks like the numbering of GenBank or EMBL; remove the numbers"
    if character in _GAPS:
        return "this looks like a gap of an alignment; remove the gaps"
    return alphabet.hint


def decoded(line: bytes | bytearray) -> str:
    """Decode text as UTF-8, or else as Latin-1, which accepts any byte: a header must not stop the reading."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def first_word(header: str) -> str:
    """The id in a header: everything before the first white space; empty if the header is empty."""
    return next(iter(header.split(maxsplit=1)), "")
