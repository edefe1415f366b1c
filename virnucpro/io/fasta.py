"""Read and check DNA or protein: FASTA, FASTQ and unaligned BAM, plain or compressed, from files and pipes.

xopen takes care of the compression and dnaio of BAM. FASTA and FASTQ lines are read here, because dnaio
refuses letters beyond ASCII in headers and blank lines in FASTQ, strips blanks from the ends of FASTA
headers, drops sequence lines that begin with '#', and cannot say on which line a record stands.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import dnaio
from xopen import xopen

from virnucpro.errors import InputError

_FOREIGN = "?"
_FOREIGN_BYTE = _FOREIGN.encode("ascii")
_LAYOUT = b" \t\r\n\v\f"
_PROTEIN_ONLY = frozenset("EFILPQJOZ*")
_GAPS = frozenset("-.")


class Alphabet:
    """The letters that sequences are written in; `meaning` maps each to the one it is read as, in upper case."""

    def __init__(self, name: str, meaning: Mapping[str, str], last: bytes, cure: str) -> None:
        self.name = name
        #: Every byte as the letter it stands for, or `_FOREIGN`.
        self.letters = "".join(meaning.get(chr(byte).upper(), _FOREIGN) for byte in range(256)).encode("ascii")
        #: What may stand behind the last letter, and is left out.
        self.last = last
        #: What to do about a character that is no letter.
        self.cure = cure
        self._foreign = re.compile(rf"[^{''.join(meaning)}\s]", re.ASCII | re.IGNORECASE)

    def read(self, lines: list[bytes]) -> bytes:
        """The letters of a sequence, in upper case; `?` for each character that is none."""
        text = b"".join(lines)
        if self.last:
            text = text.rstrip(_LAYOUT).removesuffix(self.last)
        return text.translate(self.letters, _LAYOUT)

    def first_foreign(self, text: str) -> re.Match[str]:
        """The first character of `text` that is no letter; it must hold one."""
        return next(self._foreign.finditer(text))


DNA = Alphabet(
    "DNA",
    {**{code: code for code in "ACGTRYSWKMBDHVN"}, "U": "T"},
    b"",
    "put N for an unknown base (allowed are A C G T U and the IUPAC codes)",
)
PROTEIN = Alphabet(
    "protein",
    {code: code for code in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"},
    b"*",
    "put X for an unknown amino acid (allowed are the letters A to Z, and one * at the end)",
)

#: Letters by which DNA in place of protein is found out, and the fewest that allow a judgement.
SEEN_LETTERS, FEWEST_LETTERS = 10_000, 40

# Some decompressors lose what they had ready of a request when they come to damage: ask for little at once.
_BUFFER_BYTES = 1 << 14
_FORMATS = "give FASTA, FASTQ or unaligned BAM, plain or compressed by gzip, bzip2, xz or zstd"
_FETCH_AGAIN = "fetch or make the file again"


@dataclass(frozen=True, slots=True)
class Record:
    """A sequence fit for use."""

    #: All that stands after '>' or '@', as it stands there.
    header: str
    #: Upper case; DNA: A C G T and the IUPAC codes for more than one of them; protein: A to Z.
    sequence: str
    #: Position in the file, from 1.
    number: int

    @property
    def id(self) -> str:
        """The first word of the header; empty if the header is."""
        return first_word(self.header)


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A sequence that cannot be used, or, with number 0, the rest of a file that cannot be read."""

    id: str
    #: Position in the file, from 1; 0 for the file itself.
    number: int
    #: What is wrong, where, and what to do about it.
    reason: str

    def renamed(self, path: Path, name: Path) -> BadRecord:
        """The same, with the file called as the user knows it: `path` may be a copy."""
        return BadRecord(self.id, self.number, self.reason.replace(str(path), str(name)))


class _Raw(NamedTuple):
    """A record as it stands in its file."""

    header: bytes
    #: The lines of the sequence, with their line ends.
    lines: list[bytes]
    #: The line of the header, from 1; 0 in a format without lines.
    line: int


class _Damaged(Exception):
    """Reading cannot go on; the message holds the reason and the cure."""


def read_records(path: Path, alphabet: Alphabet = DNA) -> Iterator[Record | BadRecord]:
    """Yield the records of a file in their order; a bad one does not end the reading.

    If the file is damaged or ends too early, the records before that place come first, then one `BadRecord`
    with number 0. A record that is cut off is never yielded. Bytes that were altered show only in a checksum
    after them (for gzip at the end of the file), so then the records before are in doubt as well.
    Raises `InputError`, when the first record is asked for, if the file cannot be opened, is of no known
    format, or holds no sequences.
    """
    number = 0
    try:
        for number, raw in enumerate(_raw_records(path), 1):
            yield _checked(raw, number, alphabet)
    except _Damaged as damage:
        yield BadRecord("", 0, f"{path}: reading ended after {number} records: {damage}")


def looks_like_dna(path: Path) -> bool:
    """Whether the first sequences of a file of proteins are written in A C G T U and N alone.

    `SEEN_LETTERS` letters are looked at: single proteins of such letters exist, files of them do not. False for a file
    that cannot be read, for whoever reads it to report.
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
    except _Damaged as damage:
        message = f"cannot count the sequences of {path}: reading ended after {number} records: {damage}"
        raise InputError(message) from damage
    return number


def write_fasta(handle: BinaryIO, header: str, sequence: str) -> None:
    """Write one record on two lines, such that `read_records` gives back the same header and sequence."""
    if "\n" in header or "\0" in header or header.endswith("\r"):
        raise InputError(f"the header {header!r} holds a line break or a NUL", hint="write each header on one line")
    handle.write(f">{header}\n{sequence}\n".encode())


def _raw_records(path: Path) -> Iterator[_Raw]:
    with _opened(path) as stream:
        records = _parsed(stream, path)
        first = next(records, None)
        if first is None:
            raise InputError(f"{path} holds no sequences", hint="check the step that wrote it")
        yield first
        yield from records


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115
        # xopen believes the ending of a file's name before its content, so the name is hidden from it.
        file.name = file.fileno()
        # A pipe may give its first bytes singly; a buffer over a buffer waits until it can show enough.
        whole = io.BufferedReader(io.BufferedReader(file))
        content = xopen(whole, "rb", threads=0)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint=_opening_cure(error)) from error
    with whole, content:
        yield io.BufferedReader(_Content(content), _BUFFER_BYTES)


def _opening_cure(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "check the spelling and the folder"
    if isinstance(error, IsADirectoryError):
        return "name the files in this folder one by one or by a pattern such as *.fasta"
    if isinstance(error, PermissionError):
        return "ask its owner for the permission to read it, or use a copy"
    return "check the path"


class _Content(io.RawIOBase):
    """The decompressed bytes, with one class for all that can go wrong with them."""

    def __init__(self, content: BinaryIO) -> None:
        self._content = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader hands in
        try:
            data = self._content.read(len(buffer))
        except Exception as error:  # each decompressor has classes of its own, some without a common base
            cause = str(error) or type(error).__name__
            raise _Damaged(f"the file is damaged or cut off ({cause}): {_FETCH_AGAIN}") from error
        buffer[: len(data)] = data
        return len(data)


def _parsed(stream: io.BufferedReader, path: Path) -> Iterator[_Raw]:
    if stream.peek(4).startswith(b"BAM\1"):
        return _bam(stream)
    if stream.peek(3).startswith(codecs.BOM_UTF8):
        stream.read(3)
    line = 1
    while (start := stream.peek(1)[:1]).isspace():
        line += stream.read(1) == b"\n"
    if start == b">":
        return _fasta(stream, line)
    if start == b"@":
        return _fastq(stream, line)
    if not start:
        return iter(())
    message = f"{path} is of no known format: line {line} begins with neither '>' nor '@'"
    raise InputError(message, hint=_FORMATS)


def _fasta(stream: io.BufferedReader, line: int) -> Iterator[_Raw]:
    header, lines = stream.readline(), list[bytes]()
    for text in stream:
        if text.startswith(b">"):
            yield _Raw(header[1:], lines, line)
            line += 1 + len(lines)
            header, lines = text, []
        else:
            lines.append(text)
    yield _Raw(header[1:], lines, line)


def _fastq(stream: io.BufferedReader, line: int) -> Iterator[_Raw]:
    for header in stream:
        if header.isspace():
            line += 1
            continue
        sequence, plus, quality = stream.readline(), stream.readline(), stream.readline()
        same_length = len(sequence.rstrip(b"\r\n")) == len(quality.rstrip(b"\r\n"))
        if not (header.startswith(b"@") and plus.startswith(b"+") and same_length):
            raise _Damaged(
                f"the FASTQ record at line {line} is cut off, or is not four lines: '@' and header, "
                f"sequence, '+', as many qualities as letters; {_FETCH_AGAIN}"
            )
        yield _Raw(header[1:], [sequence], line)
        line += 4


def _bam(stream: io.BufferedReader) -> Iterator[_Raw]:
    try:
        for record in dnaio.BamReader(stream):
            yield _Raw(record.name.encode(), [record.sequence.encode()], 0)
    except NotImplementedError as error:
        raise _Damaged("BAM of aligned or paired reads: turn it into FASTQ by `samtools fastq`") from error
    except EOFError as error:
        raise _Damaged(f"{error}: {_FETCH_AGAIN}") from error


def _checked(raw: _Raw, number: int, alphabet: Alphabet) -> Record | BadRecord:
    header = _text(raw.header).rstrip("\r\n")
    sequence = alphabet.read(raw.lines)
    if "\0" in header:
        name = first_word(header.partition("\0")[0])
        return BadRecord(name, number, f"line {raw.line}: a NUL byte in the header: {_FETCH_AGAIN}")
    if not sequence:
        place = f"line {raw.line}: " if raw.line else ""
        reason = f"{place}no sequence follows this header: complete the record or take it out"
        return BadRecord(first_word(header), number, reason)
    if _FOREIGN_BYTE in sequence:
        return BadRecord(first_word(header), number, _foreign_reason(raw, alphabet))
    return Record(header, sequence.decode("ascii"), number)


def _foreign_reason(raw: _Raw, alphabet: Alphabet) -> str:
    """Name the first character that is no letter of `alphabet`; `raw` must hold one."""
    text = _text(b"".join(raw.lines))
    found = alphabet.first_foreign(text)
    line = raw.line + 1 + text.count("\n", 0, found.start())
    place = f"line {line}" if raw.line else f"position {found.start() + 1} of the sequence"
    return f"{place}: {found.group()!r} is no {alphabet.name} letter: {_letter_cure(found.group(), alphabet)}"


def _letter_cure(character: str, alphabet: Alphabet) -> str:
    if alphabet is DNA and character.upper() in _PROTEIN_ONLY:
        return "this looks like protein; give the DNA that codes for it"
    if character == "*":
        return "this looks like a stop codon; cut the protein there"
    if character in _GAPS:
        return "this looks like a gap of an alignment; take the gaps out"
    return alphabet.cure


def _text(line: bytes) -> str:
    """Decode as UTF-8, or else as Latin-1, which takes any byte: a header must not stop the reading."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def first_word(header: str) -> str:
    """The id in a header: what stands before the first white space; empty if the header is."""
    return next(iter(header.split(maxsplit=1)), "")
