"""A record of the data: what its file and header say of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from training.genomes import BLOCK

#: Genera under the older names that the data were divided by.
OLDER_NAMES = {"Glaesserella": "Haemophilus", "Lacticaseibacillus": "Lactobacillus"}


@dataclass(frozen=True)
class Record:
    """file: below the data, as `train/viral/ssDNA`; header: of the FASTA; size: bases, or residues of a protein."""

    file: str
    header: str
    size: int

    @property
    def id(self) -> str:
        """The header's first word."""
        return self.header.split()[0]

    @property
    def key(self) -> str:
        """Its file and id, which no other record has."""
        return f"{self.file}/{self.id}"

    @property
    def place(self) -> tuple[bool, str]:
        """Sorts files: genomes before more."""
        return self.file.startswith("more/"), self.file

    @property
    def name(self) -> str:
        """Of its file: `ssDNA`."""
        return self.file.split("/")[2]

    @property
    def viral(self) -> bool:
        """Whether its class is viral."""
        return "/viral" in self.file

    @property
    def protein(self) -> bool:
        """Whether it is a protein."""
        return "_aa/" in self.file

    @property
    def held(self) -> bool:
        """Whether it is of genomes/dev."""
        return self.file.startswith("dev/")

    @property
    def run(self) -> bool:
        """Whether it is a gene of a run of neighbouring viral genes."""
        return self.name == "refseq_cds"

    @property
    def prokaryote(self) -> bool:
        """Whether it is kept with its genus."""
        return re.fullmatch(r"(archaea|bacteria)_(genomic|markers)", self.name) is not None

    @property
    def bound(self) -> bool:
        """Whether its header alone decides its cluster."""
        return self.run or self.prokaryote or self.name == "eukaryote_markers"

    @property
    def anchors(self) -> list[str]:
        """Names of what its header binds it to: a cluster, a genus, a run, a block of mRNAs."""
        found = re.search(r"cluster=(\S+)", self.header)
        if self.prokaryote:
            genus = found or re.search(r"species=([^_ ]+)", self.header)
            return [OLDER_NAMES.get(genus[1], genus[1])] if genus else []
        mrna = re.match(r"[NX]M_(\d+)", self.header) if self.name == "eukaryote_markers" else None
        return ([found[1]] if found else []) + ([f"mRNA{int(mrna[1]) // BLOCK}"] if mrna else [])
