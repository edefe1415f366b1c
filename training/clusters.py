"""Clusters of related records, and the parts that whole clusters are dealt to.

`python -m training.clusters --data GENOMES --more MORE --out clusters.tsv` writes a row a record: id, class, file,
cluster and part: `train` for encoders, `fit` for what is fitted behind them, `dev` for measuring (genomes/dev and
clusters of the others), `drop` for what is related to other parts. See "Clusters" in training/README.md for the rules.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.genomes import PARTS, checksum
from training.homology import SLICE, Families, Family, Sequenced, families, read, search
from training.records import Record

#: Two viral records are joined when this share of the residues of one is in families that both have; others the second.
JOINED_VIRAL, JOINED_OTHER = 0.3, 0.5
#: Residues of a viral record that counts as a genome: shorter ones are joined to each other, not to genomes.
GENOME = 1_500
#: A record that is related by this share of its residues to a part that it must not be related to is dropped.
RELATED, RELATED_HIT = 0.5, 0.3
#: Shares of a group's bases that dev and fit get, and what else groups need.
SHARES = (0.09, 0.09)
OTHER_SHARES = {
    "viral/phage_dsDNA": (0.30, 0.17),
    "viral/phage_uncultured": (0.30, 0.17),
    "viral/phage_ssDNA": (0.15, 0.10),
    "viral/ssRNApos": (0.12, 0.10),
    "viral/ssRNAneg": (0.12, 0.10),
    "viral/ssDNA": (0.12, 0.10),
    "viral/dsRNA": (0.15, 0.12),
    "viral/retro": (0.15, 0.12),
    "viral/refseq_cds": (0.07, 0.06),
    "other/bacteria_genomic": (0.095, 0.06),
    "other/archaea_genomic": (0.15, 0.15),
    "other/archaea_markers": (0.14, 0.14),
    "other/organelle": (0.10, 0.10),
}
#: A cluster may hold this share of what a part wants of its group, and a part may get a little more than it wants.
LARGEST, LARGEST_OF = 0.4, {"other/bacteria_genomic": 0.2}
EXCESS = 1.1
#: Groups that say what a cluster is only where no genome does.
GENES = ("viral/refseq_cds", "other/bacteria_markers", "other/archaea_markers")


class Joined:
    """Sets that grow together."""

    def __init__(self) -> None:
        self.above: dict[str, str] = {}

    def root(self, item: str) -> str:
        """What stands for the set of an item."""
        path = [item]
        while (above := self.above.setdefault(path[-1], path[-1])) != path[-1]:
            path.append(above)
        self.above |= dict.fromkeys(path, path[-1])
        return path[-1]

    def join(self, item: str, other: str) -> None:
        """Make one set of two."""
        self.above[self.root(item)] = self.root(other)


def clusters_of(records: Sequence[Record], found: Families) -> dict[str, list[int]]:
    """Places of records by cluster: what headers bind, what shares families, copies.

    A cluster is called by the least of the names that headers give it, or else by the least of its records.
    """
    joined = Joined()
    for record in records:
        for anchor in record.anchors:
            joined.join(record.key, f"header {anchor}")
    for one, other in _links(records, found):
        joined.join(records[one].key, records[other].key)
    sets = defaultdict(list)
    for i, record in enumerate(records):
        sets[joined.root(record.key)].append(i)
    return {_name([records[i] for i in places]): places for places in sets.values()}


def _name(records: Sequence[Record]) -> str:
    anchors = [anchor for record in records for anchor in record.anchors]
    return min(anchors or [record.key for record in records])


def _links(records: Sequence[Record], found: Families) -> Iterator[tuple[int, int]]:
    free = [i for i, record in enumerate(records) if not record.bound]
    members: dict[Family, set[int]] = defaultdict(set)
    for i in free:
        for family, _ in found.protein[i]:
            members[family].add(i)
    for i in free:
        shared: Counter[int] = Counter()
        for family, residues in found.protein[i]:
            shared.update(dict.fromkeys(members[family] - {i}, residues))
        least = (JOINED_VIRAL if records[i].viral else JOINED_OTHER) * found.residues[i]
        alike = (other for other, residues in shared.items() if residues >= least)
        yield from ((i, other) for other in alike if _long(i, records, found) == _long(other, records, found))
    for i, centre in found.copies.items():
        pair = records[i], records[centre]
        if pair[0].viral == pair[1].viral and not pair[0].bound and not pair[1].bound:
            yield i, centre


def _long(i: int, records: Sequence[Record], found: Families) -> bool:
    """Whether a record is long enough to hold several genes, so that one in common is no reason to join."""
    return found.residues[i] >= GENOME if records[i].viral else not records[i].protein and records[i].size >= SLICE


def group_of(record: Record) -> str:
    """`viral/ssDNA`, whether of train, dev or more; of proteins `viral/protein/rdrp`."""
    return "/".join(["viral" if record.viral else "other", *["protein"] * record.protein, record.name])


def deal(records: Sequence[Record], clusters: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """The part of each cluster, dealt in the order of checksums to whichever of dev and fit lacks more, or to train."""
    parts, groups = {}, defaultdict(list)
    for name, places in clusters.items():
        if any(records[i].held for i in places):
            parts[name] = "dev"
        else:
            groups[_group_of_cluster([records[i] for i in places])].append(name)
    for group, names in groups.items():
        sizes = {
            name: sum(records[i].size for i in clusters[name] if group_of(records[i]) == group)
            for name in sorted(names, key=checksum)
        }
        parts |= _deal_group(group, sizes)
    return parts


def _group_of_cluster(records: Sequence[Record]) -> str:
    sizes: Counter[str] = Counter()
    for record in records:
        sizes[group_of(record)] += record.size
    return min(sizes, key=lambda group: ("/protein/" in group, group in GENES, -sizes[group]))


def _deal_group(group: str, sizes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    total = sum(sizes.values())
    wanted = {part: share * total for part, share in zip(("dev", "fit"), OTHER_SHARES.get(group, SHARES), strict=True)}
    given = dict.fromkeys(wanted, 0)
    for name, size in sizes.items():
        part = min(wanted, key=lambda part: given[part] / wanted[part])
        fits = given[part] + size <= EXCESS * wanted[part] and size <= LARGEST_OF.get(group, LARGEST) * wanted[part]
        given[part] += size * fits
        yield name, part if fits else "train"


def divide(data: Sequenced, found: Families, clusters: Mapping[str, Sequence[int]], work: Path) -> list[str]:
    """The part of each record.

    Its cluster's, but `drop` for records of train and more whose cluster is one of genomes/dev, for genes and proteins
    of fit and dev that are related to genomes of train, for records of fit related to dev, of train related to either.
    """
    records, parts = data.records, [""] * len(data.records)
    of_cluster = deal(records, clusters)
    for name, places in clusters.items():
        held = any(records[i].held for i in places)
        for i in places:
            parts[i] = "drop" if held and not records[i].held else of_cluster[name]
    for related in (_genes_of_genomes, _fit_near_dev, _train_copies):
        for i in related(records, found, parts):
            parts[i] = "drop"
    for i in _train_relatives(data, parts, work):
        parts[i] = "drop"
    return parts


def _places(parts: Sequence[str], *chosen: str) -> list[int]:
    return [i for i, part in enumerate(parts) if part in chosen]


def _is_gene(record: Record) -> bool:
    return record.viral and not record.held and (record.run or record.protein)


def _genes_of_genomes(records: Sequence[Record], found: Families, parts: Sequence[str]) -> list[int]:
    """Viral genes of fit and dev that genomes of train have: genomes are rarer."""
    genomes = found.of(i for i in _places(parts, "train") if records[i].viral and not _is_gene(records[i]))
    genes = (i for i in _places(parts, "fit", "dev") if _is_gene(records[i]))
    return [i for i in genes if found.share(i, genomes) >= RELATED]


def _fit_near_dev(records: Sequence[Record], found: Families, parts: Sequence[str]) -> list[int]:
    dev = found.of(_places(parts, "dev"))
    near = [i for i in _places(parts, "fit") if found.share(i, dev) >= RELATED]
    return near + _copies(records, found, parts, "fit", "dev")


def _train_copies(records: Sequence[Record], found: Families, parts: Sequence[str]) -> list[int]:
    return _copies(records, found, parts, "train", "fit", "dev")


def _copies(records: Sequence[Record], found: Families, parts: Sequence[str], part: str, *others: str) -> list[int]:
    """Records of a part that are copies, as nucleotides, of records of others."""
    taken = {(records[i].viral, found.copies[i]) for i in _places(parts, *others) if i in found.copies}
    mine = (i for i in _places(parts, part) if i in found.copies)
    return [i for i in mine if (records[i].viral, found.copies[i]) in taken]


def _train_relatives(data: Sequenced, parts: Sequence[str], work: Path) -> list[int]:
    """Records of train that a search finds related to records of fit and dev."""
    found = []
    for viral, sensitivity in ((True, 3), (False, 2)):
        side = [i for i, record in enumerate(data.records) if record.viral == viral]
        mine = [i for i in side if parts[i] == "train" and (viral or data.records[i].size < SLICE)]
        theirs = [i for i in side if parts[i] in ("fit", "dev")]
        aligned: dict[str, int] = {}
        for hit in search(data.all_proteins(mine), data.all_proteins(theirs), sensitivity, work):
            aligned[hit.query] = max(hit.aligned, aligned.get(hit.query, 0))
        shared: Counter[int] = Counter()
        for frame, residues in aligned.items():
            shared[int(frame.split("_")[0])] += residues
        found += [i for i, residues in shared.items() if residues >= RELATED_HIT * data.residues[i]]
    return found


def write(path: Path, records: Sequence[Record], clusters: Mapping[str, Sequence[int]], parts: Sequence[str]) -> None:
    """A row a record, as `training.genomes.read_table` reads them."""
    names = {i: name for name, places in clusters.items() for i in places}
    with path.open("w", encoding="utf-8") as file:
        file.write("record\tclass\tfile\tcluster\tpart\n")
        for i, record in enumerate(records):
            kind = "viral" if record.viral else "other"
            file.write("\t".join((record.id, kind, record.file, names[i], parts[i])) + "\n")


@dataclass(frozen=True)
class Count:
    """What a part has of a group."""

    clusters: int
    records: int
    size: int

    def __str__(self) -> str:
        return f"{self.clusters:,} / {self.records:,} / {self.size / 1e6:.2f}"


def counts(
    records: Sequence[Record], clusters: Mapping[str, Sequence[int]], parts: Sequence[str]
) -> dict[tuple[str, str], Count]:
    """By group and part."""
    found: dict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
    for name, places in clusters.items():
        for i in places:
            found[group_of(records[i]), parts[i]].append((name, records[i].size))
    return {key: Count(len(dict(pairs)), len(pairs), sum(size for _, size in pairs)) for key, pairs in found.items()}


def table(found: Mapping[tuple[str, str], Count]) -> str:
    """In Markdown: clusters / records / millions of bases or residues."""
    columns = (*PARTS, "drop")
    rows = [["group", *columns], ["---"] * (1 + len(columns))]
    for group in sorted({group for group, _ in found}):
        rows.append([group, *(str(found.get((group, part), "")) for part in columns)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Cluster the data by homology and divide them into parts.")
    parser.add_argument("--data", type=Path, required=True, help="the folder with train and dev")
    parser.add_argument("--more", type=Path, required=True, help="the folder of more sequences")
    parser.add_argument("--out", type=Path, required=True, help="the table to write")
    args = parser.parse_args()
    data = read(args.data, args.more)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        found = families(data, work)
        clusters = clusters_of(data.records, found)
        parts = divide(data, found, clusters, work)
    write(args.out, data.records, clusters, parts)
    print(table(counts(data.records, clusters, parts)))


if __name__ == "__main__":
    main()
