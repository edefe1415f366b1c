"""`virnucpro train`: the division by groups, the fit, the figures, and a run from sequences to calls."""

from __future__ import annotations

import codecs
import json
import random
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli, command_line, to_fasta
from hypothesis import given
from hypothesis import strategies as st

import virnucpro
from virnucpro.cli.progress import Reporter
from virnucpro.errors import InputError, UsageError
from virnucpro.models.card import ClassifierCard, EncoderPin
from virnucpro.models.classifier import Classifier
from virnucpro.pipeline.events import FileDone, Phase, Step
from virnucpro.runs.config import TrainConfig
from virnucpro.runs.train import run_train
from virnucpro.train.dataset import Dataset, FeatureRows, Subset, assign_subsets, read_groups
from virnucpro.train.evaluation import FIGURES, Trial, _false_positives
from virnucpro.train.fit import Examples, FitSettings, fit
from virnucpro.train.metrics import auprc, auroc, confusion, evaluate, recall_at, threshold_at

CPU = ("--device", "cpu", "--dtype", "fp32", "--batch-size", 512)

# The division.


def dataset(labels: list[int], groups: list[int]) -> Dataset:
    empty = FeatureRows(np.empty((0, 0), np.float32), np.empty(0, np.int64))
    column = np.arange(len(labels))
    return Dataset(np.array(labels), np.array(groups), column, column + 1, empty, empty)


@st.composite
def labelled_groups(draw: st.DrawFn) -> Dataset:
    """Windows in groups of one class each, at least three groups of either."""
    sizes = [draw(st.lists(st.integers(1, 20), min_size=3, max_size=15)) for _ in range(2)]
    labels = [label for label in (0, 1) for size in sizes[label] for _ in range(size)]
    groups = [label * 100 + place for label in (0, 1) for place, size in enumerate(sizes[label]) for _ in range(size)]
    return dataset(labels, groups)


@given(labelled_groups(), st.floats(0.05, 0.4), st.floats(0.05, 0.4), st.integers(0, 99))
def test_groups_are_never_divided_and_every_part_has_both_classes(
    data: Dataset, validation: float, test: float, seed: int
) -> None:
    parts = assign_subsets(data, validation, test, seed)
    for group in np.unique(data.group):
        assert len(np.unique(parts[data.group == group])) == 1
    assert {(int(part), int(label)) for part, label in zip(parts, data.label, strict=True)} == {
        (part, label) for part in Subset for label in (0, 1)
    }
    assert np.array_equal(parts, assign_subsets(data, validation, test, seed))


def test_parts_have_about_the_shares_asked_for() -> None:
    labels = [0] * 1000 + [1] * 500
    parts = assign_subsets(dataset(labels, list(range(1500))), 0.2, 0.1, seed=3)
    for label, total in ((0, 1000), (1, 500)):
        counts = np.bincount(parts[np.array(labels) == label], minlength=3)
        assert counts.tolist() == [0.7 * total, 0.2 * total, 0.1 * total]


def test_two_groups_of_a_class_are_too_few() -> None:
    with pytest.raises(UsageError, match="2 groups of viral"):
        assign_subsets(dataset([0, 0, 0, 1, 1, 1], [1, 2, 3, 4, 4, 5]), 0.1, 0.1, 1)


# The fit.


def examples(count: int, seed: int, viral: float = 0.3, dim: int = 6) -> Examples:
    """The first number indicates the class, with some errors; the others are noise."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < viral).astype(np.int64)
    features = rng.standard_normal((count, dim)).astype(np.float32)
    features[:, 0] += 2 * labels
    return Examples(features, labels)


QUICK = FitSettings(epochs=12, patience=3, batch=200, learning_rate=0.01, hidden=16)


def scores_of(state: dict[str, torch.Tensor], features: np.ndarray) -> np.ndarray:
    pin = EncoderPin("x", features.shape[1] - 1, ("0" * 64,))
    card = ClassifierCard("t", True, (500,), pin, EncoderPin("y", 1, ("0" * 64,)), "", "", "")
    return Classifier(card, state).score(features)[:, 1].astype(np.float64)


def test_fit_learns_and_keeps_the_best_epoch() -> None:
    training, validation, unseen = examples(2000, 1), examples(500, 2), examples(2000, 3)
    fitted = fit(training, validation, QUICK)
    assert auroc(unseen.labels, scores_of(fitted.state, unseen.features)) > 0.9
    best = int(np.argmin(fitted.validation_loss))
    assert len(fitted.validation_loss) in (best + 1 + QUICK.patience, QUICK.epochs)
    # If the same fit is stopped at its best epoch, it gives the same network: later epochs leave no trace.
    stopped = fit(training, validation, replace(QUICK, epochs=best + 1, patience=99))
    assert all(torch.equal(fitted.state[key], stopped.state[key]) for key in fitted.state)


def test_fit_is_seeded() -> None:
    parts = examples(300, 1), examples(100, 2)
    one, same, other = (fit(*parts, FitSettings(epochs=2, hidden=8, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one.state[key], same.state[key]) for key in one.state)
    assert not torch.equal(one.state["hidden.weight"], other.state["hidden.weight"])


def test_threads_of_pytorch_do_not_change_what_is_fitted() -> None:
    parts, settings, before = (examples(2000, 1), examples(500, 2)), FitSettings(epochs=2), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(fit(*parts, settings).state)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_classes_weigh_the_same_and_scores_are_calibrated() -> None:
    """One viral example in twenty: at equal weights a score of 0.5 still splits the classes in the middle."""
    fitted = fit(examples(4000, 1, viral=0.05), examples(2000, 2, viral=0.05), QUICK)
    unseen = examples(8000, 3, viral=0.5)
    scores = scores_of(fitted.state, unseen.features)
    called = scores >= 0.5
    assert abs(called[unseen.labels == 1].mean() - (~called)[unseen.labels == 0].mean()) < 0.1
    for low in (0.2, 0.4, 0.6, 0.8):
        inside = (scores >= low - 0.1) & (scores < low + 0.1)
        assert abs(unseen.labels[inside].mean() - scores[inside].mean()) < 0.12


# The figures.


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=4, max_size=40))
def test_metrics_by_their_definitions(rows: list[tuple[bool, int]]) -> None:
    labels = np.array([int(viral) for viral, _ in rows])
    scores = np.array([score / 8 for _, score in rows])
    if len(set(labels.tolist())) < 2:
        return
    viral, other = scores[labels == 1], scores[labels == 0]
    pairs = [(v > o) + 0.5 * (v == o) for v in viral for o in other]
    assert auroc(labels, scores) == pytest.approx(np.mean(pairs))
    for share in (0.0, 0.05, 0.3):
        threshold = threshold_at(labels, scores, share)
        assert (other >= threshold).mean() <= share
        # The next lower score would give more false positives, or there is none.
        lower = scores[scores < threshold]
        assert not len(lower) or (other >= lower.max()).mean() > share or lower.max() not in other
        assert recall_at(share)(labels, scores) == (viral >= threshold).mean()
    assert sum(confusion(labels, scores, 0.5).values()) == len(labels)
    assert 0 < auprc(labels, scores) <= 1


def test_intervals_widen_with_groups() -> None:
    """A thousand windows of ten records say no more than ten records."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(20), 50)
    labels = (groups % 2).astype(np.int64)
    scores = labels + rng.standard_normal(20)[groups] + 0.1 * rng.standard_normal(1000)
    by_group = evaluate(labels, scores, groups, 1)["auroc"]
    by_window = evaluate(labels, scores, np.arange(1000), 1)["auroc"]
    assert by_group.value == by_window.value
    assert by_group.low <= by_group.value <= by_group.high
    assert by_group.high - by_group.low > 3 * (by_window.high - by_window.low)


# Whole runs.


def gene(rng: random.Random, codons: list[str], length: int) -> str:
    return "".join(rng.choices(codons, k=length // 3))


def record(rng: random.Random, codons: list[str]) -> str:
    stops = "TAATTAATTAACTAGCTAGCTAG"
    return gene(rng, codons, 500) + stops + gene(rng, codons, 450) + stops


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two kinds of genes with different codons, each also with a stretch of these that is full of stop codons."""
    folder, rng = tmp_path_factory.mktemp("train"), random.Random(5)
    kinds = {"virus": ["AAA", "AAC", "GAA", "ATT", "ACT"], "other": ["GCC", "GGC", "CTG", "CGC", "GTC"]}
    paths = [
        to_fasta(folder / f"{kind}.fa", [(f"{kind}{i} x", record(rng, codons)) for i in range(30)])
        for kind, codons in kinds.items()
    ]
    return paths[0], paths[1]


def arguments(inputs: tuple[Path, Path], folder: Path, *more: object) -> tuple[object, ...]:
    fit_options = ("--epochs", 20, "--validation-fraction", 0.2, "--test-fraction", 0.2)
    data = ("--virus", inputs[0], "--other", inputs[1], "--model-set", "mini-1")
    return ("train", *data, "-o", folder, *CPU, *fit_options, *more)


@pytest.fixture(scope="module")
def trained(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command of `arguments` with `--dna-only-head` makes."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    run_train(
        TrainConfig(
            inputs, folder, virus=1, model_set="mini-1", device="cpu", dtype="fp32", batch_size=512,
            epochs=20, validation_fraction=0.2, test_fraction=0.2, dna_only_head=True,
        )
    )  # fmt: skip
    return folder


@pytest.mark.heavy
def test_the_result_works_with_predict(trained: Path, inputs: tuple[Path, Path], cli: Cli, tmp_path: Path) -> None:
    done = cli("predict", *inputs, "-o", tmp_path, "-p", "x", "--model", trained, *CPU)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in (tmp_path / "x.sequences.tsv").read_text().splitlines()[1:]]
    right = sum(row[3] == ("virus" if row[1].startswith("virus") else "other") for row in rows)
    assert right >= 55  # of 60, 36 of them seen in training


def test_the_card_holds_what_was_measured(trained: Path) -> None:
    card = ClassifierCard.read(trained)
    assert card.window == (500,)
    assert card.dtypes == ("fp32",)
    assert card.trained
    assert card.presets["conservative"] >= card.presets["default"] >= card.presets["relaxed"]
    assert card.min_score == card.presets["default"]
    value, low, high = card.metrics["test windows"]["auroc"]  # type: ignore[index]
    assert low <= value <= high
    assert sum(card.metrics["confusion of test windows"].values()) > 0  # type: ignore[union-attr]
    assert f"{value:.4f}" in (trained / "MODEL_CARD.md").read_text()
    assert "<svg" in (trained / "curves.svg").read_text()


def test_the_card_tells_false_positives_as_seen_and_what_it_was_made_of(
    trained: Path, inputs: tuple[Path, Path]
) -> None:
    metrics: Any = ClassifierCard.read(trained).metrics
    text, seen = (trained / "MODEL_CARD.md").read_text(), metrics["false positives of test windows"]
    assert f"{seen['default']:.1%}" in text
    assert all(path.name in text for path in inputs)
    divided = metrics["records and groups"]
    assert {kind: sum(records for records, _ in parts.values()) for kind, parts in divided.items()} == {
        "viral": 30, "other": 30,
    }  # fmt: skip
    assert f"virnucpro {virnucpro.__version__}" in text


def test_too_many_false_positives_jump_to_the_eye() -> None:
    """16 of 100 other windows of the test part are above a threshold that 5 of 100 exceed in validation."""
    scores = np.concatenate([np.linspace(0, 1, 100), np.linspace(0, 1, 100) ** 0.25, np.ones(20)])
    label = np.r_[np.zeros(200, int), np.ones(20, int)]
    parts = np.r_[
        np.full(100, Subset.VALIDATION),
        np.full(100, Subset.TEST),
        np.full(10, Subset.VALIDATION),
        np.full(10, Subset.TEST),
    ]
    numbers, empty = np.arange(220), FeatureRows(np.zeros((0, 1), np.float32), np.zeros(0, int))
    trial = Trial(Dataset(label, numbers, numbers, np.full(220, 500), empty, empty), parts, scores, 1)
    line = next(line for line in _false_positives(trial) if line.startswith("| default"))
    assert trial.false_positives["default"] > 0.1
    assert "more than twice" in line
    assert trial.surprises[1] == (
        f"preset default calls {trial.false_positives['default']:.1%} of the other windows of the test part "
        "viral; the target is 5%"
    )


def test_no_work_is_left_beside_the_card(trained: Path) -> None:
    assert not (trained / "train.work").exists()


def test_presets_and_scores_exclude_each_other(
    trained: Path, inputs: tuple[Path, Path], cli: Cli, tmp_path: Path
) -> None:
    options = ("predict", inputs[0], "-o", tmp_path, "-p", "x", "--model", trained, *CPU)
    assert cli(*options, "--preset", "relaxed", "--min-score", 0.4).returncode == 2
    assert cli(*options, "--preset", "relaxed").returncode == 0
    used = json.loads((tmp_path / "x.run.json").read_text())["result"]["min_score"]
    assert used == ClassifierCard.read(trained).presets["relaxed"]


@pytest.mark.heavy
def test_killed_and_resumed_it_is_the_same(inputs: tuple[Path, Path], trained: Path, tmp_path: Path, cli: Cli) -> None:
    options = arguments(inputs, tmp_path / "model", "--dna-only-head", "--sequences-per-file", 8)
    with subprocess.Popen(command_line(*options), stderr=subprocess.DEVNULL) as process:
        shards = tmp_path / "model" / "train.work" / "shards"
        while process.poll() is None and not list(shards.glob("*.h5")):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    done = cli(*options)
    assert done.returncode == 0, done.stderr
    for name in ("model.safetensors", "dna_only.safetensors", "curves.svg"):
        assert (tmp_path / "model" / name).read_bytes() == (trained / name).read_bytes()


def test_a_second_run_has_nothing_to_do(inputs: tuple[Path, Path], trained: Path, cli: Cli) -> None:
    before = (trained / "model.json").stat().st_mtime_ns
    done = cli(*arguments(inputs, trained, "--dna-only-head"))
    assert (done.returncode, f"{trained} is complete; nothing to do" in done.stderr) == (0, True)
    assert (trained / "model.json").stat().st_mtime_ns == before
    assert cli(*arguments(inputs, trained, "--dna-only-head", "--seed", 2)).returncode == 3


def group_table(path: Path, per_group: int = 5) -> Path:
    lines = [f"{kind}{i}\tg{kind}{i // per_group}\n" for kind in ("virus", "other") for i in range(30)]
    path.write_text("".join(lines))
    return path


@pytest.mark.heavy
def test_groups_by_a_table(inputs: tuple[Path, Path], cli: Cli, tmp_path: Path) -> None:
    table = group_table(tmp_path / "groups.tsv")
    table.write_bytes(codecs.BOM_UTF8 + table.read_bytes().replace(b"\n", b"\r\n"))
    done = cli(*arguments(inputs, tmp_path / "model", "--group-by", table, "--epochs", 2))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "model" / "train.work").exists()
    group_table(table, 6)
    done = cli(*arguments(inputs, tmp_path / "model", "--group-by", table, "--epochs", 2))
    assert (done.returncode, "made with other settings (groups)" in done.stderr) == (3, True)


def test_a_record_without_a_group_is_told_before_anything_is_computed(
    inputs: tuple[Path, Path], cli: Cli, tmp_path: Path
) -> None:
    table = tmp_path / "groups.tsv"
    table.write_text("virus0\tg\n")
    done = cli(*arguments(inputs, tmp_path / "model", "--group-by", table))
    assert done.returncode == 3
    assert "no group for record 'virus1' (59 records without one)" in done.stderr
    table.write_text("".join(f"{kind}{i}\t{kind}\n" for kind in ("virus", "other") for i in range(30)))
    done = cli(*arguments(inputs, tmp_path / "model", "--group-by", table))
    assert (done.returncode, "1 group of viral sequences cannot make three parts" in done.stderr) == (2, True)
    assert not list((tmp_path / "model").glob("train.work/shards/*"))


@pytest.mark.heavy
def test_fitting_and_testing_tell_how_far_they_are(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    """Every epoch and every figure is a step of its phase; there are no more steps than the phase has announced."""
    config = TrainConfig(inputs, tmp_path / "model", device="cpu", dtype="fp32", virus=1, epochs=7)
    heard: list[Phase | Step] = []
    run_train(config, lambda _, event: heard.append(event) if isinstance(event, Phase | Step) else None)
    steps: dict[str, list[str]] = {}
    for event in heard:
        if isinstance(event, Phase):
            phase = event
        else:
            steps.setdefault(phase.name, []).append(event.note)
            assert len(steps[phase.name]) <= phase.total
    assert list(steps) == ["fitting", "testing"]
    assert all(note.startswith("loss ") for note in steps["fitting"])
    assert 2 <= len(steps["fitting"]) <= 7
    assert len(steps["testing"]) == FIGURES


def test_lines_tell_the_share_and_what_came_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal, a line is shown after a while."""
    with Reporter(quiet=False, log_format="text") as reporter:
        reporter(None, Phase("fitting", 20, unit="epochs at most"))
        reporter.last_line = float("-inf")
        reporter(None, Step("loss 0.5"))
    line = capsys.readouterr().err.strip().replace("\n", " ")
    assert line.startswith("1 of 20 epochs at most (5%), ")
    assert line.endswith("loss 0.5")


class _Stopped(Exception):
    pass


def test_other_groups_embed_nothing_again(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    table = group_table(tmp_path / "groups.tsv")
    config = TrainConfig(inputs, tmp_path / "model", device="cpu", dtype="fp32", virus=1, group_by=table, epochs=2)
    done: list[str] = []

    def note(_index: int, event: object) -> None:
        if isinstance(event, Phase) and event.name == "fitting" and "fitting" not in done:
            done.append("fitting")
            raise _Stopped
        if isinstance(event, FileDone):
            done.append("file")

    with pytest.raises(_Stopped):
        run_train(config, note)
    embedded = done.count("file")
    assert embedded > 0
    group_table(table, 3)
    run_train(replace(config, epochs=3), note)
    assert done.count("file") == embedded


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a\n", "line 1 is not an id, a tab and a group"),
        (b"a\tg\n\nb\tg\tx\n", "line 3 is not an id, a tab and a group"),
        (b"a\tg\nb\t\n", "line 2 is not an id, a tab and a group"),
        ("a\tg\n".encode("utf-16"), "iconv -f UTF-16"),
        ("a\tg\n".encode("utf-32"), "iconv"),
        (b"a\tg\nb\th\na\th\n", "line 3: record 'a' is in group 'h' and, further up, in 'g'"),
    ],
)
def test_tables_of_groups_that_are_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "groups.tsv").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_groups(tmp_path / "groups.tsv")
    assert str(tmp_path / "groups.tsv") in caught.value.message
    assert said in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_a_table_of_groups_is_read_as_headers_are(encoding: str, ending: str, tmp_path: Path) -> None:
    (tmp_path / "groups.tsv").write_bytes(f"São\tg{ending}{ending}a \tg h{ending}a\tg h".encode(encoding))
    assert read_groups(tmp_path / "groups.tsv") == {"São": "g", "a": "g h"}
