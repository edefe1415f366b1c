"""`training.clusters`: related records in one cluster, clusters whole in one part, nothing related across parts."""

from __future__ import annotations

import gzip
import random
import shutil
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from training import clusters, homology, proteins
from training.clusters import Joined, clusters_of, deal
from training.genomes import FOLDS, PARTS, Row, load, numbered, read_part, read_table, save
from training.homology import Families
from training.orfs import LEAST, first_frame, open_frames
from training.records import Record
from virnucpro.errors import InputError, ModelError

pytestmark = pytest.mark.heavy

needs_mmseqs = pytest.mark.skipif(shutil.which("mmseqs") is None, reason="mmseqs is not on PATH")
_TABLE = "KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF"
CODONS: dict[str, list[str]] = {}
for codon, amino_acid in zip(product("ACGT", repeat=3), _TABLE, strict=True):
    CODONS.setdefault(amino_acid, []).append("".join(codon))


def protein(rng: random.Random, residues: int = 250) -> str:
    return "M" + "".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=residues))


def near(rng: random.Random, sequence: str, identity: float) -> str:
    return "".join(each if rng.random() < identity else rng.choice("ACDEFGHIKLMNPQRSTVWY") for each in sequence)


def gene(rng: random.Random, sequence: str) -> str:
    return "".join(rng.choice(CODONS[each]) for each in sequence) + "TAA"


def complement(sequence: str) -> str:
    return sequence.translate(str.maketrans("ACGT", "TGCA"))[::-1]


def write(path: Path, records: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(f">{each}\n{text}\n" for each, text in records.items()).encode()))


def codes(sequence: str) -> np.ndarray:
    return np.array(["ACGTN".index(each) for each in sequence], np.uint8)


# Open frames


def test_the_longest_frames_of_both_strands_are_found() -> None:
    rng = random.Random(1)
    first, second = protein(rng), protein(rng, 180)
    found = open_frames(codes("TAGTAA" + gene(rng, first) + "TTAATTAATTAA" + complement("TAA" + gene(rng, second))))
    assert first in found[0]
    assert any(second in each for each in found[1:])
    assert all(len(each) >= LEAST and "*" not in each for each in found)


def test_a_gene_by_itself_codes_in_its_first_frame() -> None:
    sequence = protein(random.Random(2))
    assert first_frame(codes(gene(random.Random(3), sequence))) == sequence


def test_unknown_bases_are_unknown_residues() -> None:
    assert open_frames(codes("ATG" + "NAC" * 70))[0].startswith("MXXX")
    assert open_frames(codes("AC")) == []


# Records


def test_headers_bind_records() -> None:
    assert Record("train/other/bacteria_markers", "a cluster=Haemophilus species=x", 1).anchors == ["Haemophilus"]
    assert Record("more/other_nt/bacteria_genomic", "b species=Glaesserella_parasuis", 1).anchors == ["Haemophilus"]
    found = Record("train/other/eukaryote_markers", "XM_001608263.1 cluster=X35 species=x", 1).anchors
    assert found == ["X35", "mRNA80"]
    assert Record("more/viral_nt/ssDNA", "c species=x", 1).anchors == []


def test_sets_grow_together() -> None:
    joined = Joined()
    for one, other in (("a", "b"), ("c", "d"), ("b", "d"), ("e", "e")):
        joined.join(one, other)
    assert len({joined.root(each) for each in "abcd"}) == 1
    assert joined.root("e") != joined.root("a")


def of_families(*frames: str, viral: bool = True) -> list[tuple[tuple[bool, str], int]]:
    return [((viral, each), 1_000) for each in frames]


def test_one_gene_in_common_does_not_join_genomes() -> None:
    records = [Record("train/viral/phage_dsDNA", f"p{i} species=x", 40_000) for i in range(3)]
    found = Families([of_families(*"abcd"), of_families(*"aefg"), of_families(*"abhi")], {})
    assert sorted(clusters_of(records, found).values()) == [[0, 2], [1]]


def test_what_a_header_binds_stays_together() -> None:
    records = [Record("train/viral/ssDNA", f"v{i} cluster=G{i // 2} species=x", 4_000) for i in range(4)]
    found = Families([of_families(each) for each in "abca"], {})
    assert clusters_of(records, found) == {"G0": [0, 1, 2, 3]}


def test_clusters_are_dealt_whole_and_by_group() -> None:
    records = [
        Record(f"train/{kind}", f"{i} species=x", 1_000) for kind in ("viral/dsRNA", "other/human") for i in range(200)
    ]
    names = {record.key: [i] for i, record in enumerate(records)}
    parts = deal(records, names)
    assert parts == deal(records, dict(reversed(names.items())))
    for kind, dev, fit in (("viral/dsRNA", 30, 24), ("other/human", 18, 18)):
        mine = [part for name, part in parts.items() if f"/{kind}/" in name]
        assert abs(mine.count("dev") - dev) <= 3
        assert abs(mine.count("fit") - fit) <= 3


def test_a_large_cluster_is_for_training() -> None:
    records = [Record("train/other/human", f"{i} species=x", 1_000) for i in range(100)]
    names = {"large": list(range(60))} | {record.key: [60 + i] for i, record in enumerate(records[60:])}
    assert deal(records, names)["large"] == "train"


def test_numbers_say_what_encoders_may_see() -> None:
    names = [f"C{i}" for i in range(500)]
    train, dev = (np.array([numbered(name, part) for name in names]) for part in ("train", "dev"))
    assert (train % 10 != 0).all()
    assert (dev % 10 == 0).all()
    assert set((train // 10 % FOLDS).tolist()) == set(range(FOLDS))


# The whole


def test_without_mmseqs_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ModelError, match="apt-get install mmseqs2"):
        homology.mmseqs("version")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Genomes of three genes, in twelve families; two of each are related, one of them in another file or in dev."""
    rng, top = random.Random(7), tmp_path_factory.mktemp("data")
    families = [[protein(rng) for _ in range(3)] for _ in range(12)]
    made: Callable[[int, float], str] = lambda i, identity: "TAG".join(  # noqa: E731
        gene(rng, near(rng, each, identity)) for each in families[i]
    )
    genomes, more = top / "genomes", top / "more"
    write(genomes / "train/viral/ssDNA.fa.gz", {f"v{i} cluster=G{i} species=x": made(i, 1) for i in range(10)})
    write(genomes / "dev/viral/ssDNA.fa.gz", {"d0 cluster=G100 species=x": made(0, 0.8), "d11 species=x": made(11, 1)})
    write(more / "viral_nt/ssDNA.fa.gz", {f"v{i} species=x source=y": made(i, 0.8) for i in range(1, 10)})
    write(more / "viral_aa/rdrp.fa.gz", {f"p{i} species=x": near(rng, families[i][0], 0.8) for i in range(11)})
    slices = ["".join(rng.choices("ACGT", k=3_000)) for _ in range(60)]
    write(
        genomes / "train/other/bacteria_genomic.fa.gz",
        {f"s{i}:1-3000 cluster=Genus{i // 2} species=x": each for i, each in enumerate(slices[:40])},
    )
    write(genomes / "dev/other/bacteria_genomic.fa.gz", {"e0 cluster=Genus40 species=x": slices[50]})
    write(
        more / "other_nt/bacteria_genomic.fa.gz",
        {f"s{i}:1-3000 species=Genus{i // 2 + 19}_y": each for i, each in enumerate(slices[40:50])}
        | {"s99 species=Genus40_y": slices[51]},
    )
    regions = {f"chr1:{3_000 * i + 1}-{3_000 * i + 3_000}": "".join(rng.choices("ACGT", k=3_000)) for i in range(60)}
    write(genomes / "train/other/human.fa.gz", {f"{name} species=x": text for name, text in regions.items()})
    write(more / "other_aa/fungi.fa.gz", {f"f{i} species=x": protein(rng) for i in range(30)})
    return top


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, Row]:
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["--data", folder / "genomes", "--more", folder / "more", "--out", folder / "clusters.tsv"]
        patch.setattr("sys.argv", ["clusters", *map(str, arguments)])
        clusters.main()
    return {"/".join(row.key): row for row in read_table(folder / "clusters.tsv")}


@needs_mmseqs
def test_relatives_are_in_one_cluster(rows: dict[str, Row]) -> None:
    for i in range(1, 10):
        assert rows[f"train/viral/ssDNA/v{i}"].cluster == rows[f"more/viral_nt/ssDNA/v{i}"].cluster == f"G{i}"
    assert len({row.cluster for row in rows.values() if row.file == "train/viral/ssDNA"}) == 10
    assert rows["more/other_nt/bacteria_genomic/s0:1-3000"].cluster == "Genus19"


@needs_mmseqs
def test_parts_are_not_related(rows: dict[str, Row]) -> None:
    parts = {(row.cluster, row.part) for row in rows.values() if row.part != "drop"}
    assert len(parts) == len(dict(parts))
    assert rows["dev/viral/ssDNA/d0"].part == rows["dev/viral/ssDNA/d11"].part == "dev"
    assert rows["train/viral/ssDNA/v0"].part == "drop"
    assert rows["more/viral_aa/rdrp/p0"].part == "drop"
    assert rows["more/other_nt/bacteria_genomic/s99"].part == "drop"
    for i in range(1, 10):
        protein, genome = rows[f"more/viral_aa/rdrp/p{i}"], rows[f"train/viral/ssDNA/v{i}"]
        assert protein.part in (genome.part, "drop")


@needs_mmseqs
def test_the_same_table_every_time(folder: Path, rows: dict[str, Row], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--data", folder / "genomes", "--more", folder / "more", "--out", folder / "again.tsv"]
    monkeypatch.setattr("sys.argv", ["clusters", *map(str, arguments)])
    clusters.main()
    assert (folder / "again.tsv").read_bytes() == (folder / "clusters.tsv").read_bytes()


@needs_mmseqs
def test_parts_are_packed(folder: Path, rows: dict[str, Row]) -> None:
    records = 0
    names = ["other/bacteria_genomic", "other/human", "other/more_bacteria_genomic", "viral/more_ssDNA", "viral/ssDNA"]
    for part in PARTS:
        found = read_part(folder / "genomes", folder / "more", folder / "clusters.tsv", part, {})
        save(folder / f"{part}.npz", found)
        again = load(folder / f"{part}.npz")
        assert list(again.names) == names
        assert (again.kept_back == (part != "train")).all()
        records += len(again.group)
    assert records == sum(row.part != "drop" and "_aa/" not in row.file for row in rows.values())


@needs_mmseqs
def test_proteins_are_packed(folder: Path, rows: dict[str, Row]) -> None:
    proteins.pack(folder / "more", folder / "clusters.tsv", "train", folder / "proteins.npz")
    with np.load(folder / "proteins.npz") as file:
        assert len(file["group"]) == sum(row.part == "train" and "_aa/" in row.file for row in rows.values())
        first = file["residues"][: file["bounds"][1]].tobytes().decode()
        assert file["names"].tolist() == ["other/more_fungi", "viral/more_rdrp"]
        assert (file["viral"] == (file["group"] == 1)).all()
    assert set(first) <= set("ACDEFGHIKLMNPQRSTVWY")


@needs_mmseqs
def test_a_part_of_other_data_is_refused(folder: Path, rows: dict[str, Row], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no record of"):
        read_part(tmp_path, tmp_path, folder / "clusters.tsv", "train", {})
