"""Work in threads: results in order, not too far ahead, errors in their turn; signals while weights are read."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import HANGS, command_line, interrupted_at_random, to_fasta
from safetensors.torch import load_file, save_file
from toy_codon import save_toy_codon
from toy_set import save_toy_codon_set

from virnucpro.core.threads import in_order, unbroken
from virnucpro.models.card import ClassifierCard
from virnucpro.models.classifier import save
from virnucpro.models.registry import EMBEDDED, resolve
from virnucpro.models.weights import read_weights


def test_results_come_in_order_and_few_wait() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(50):
            taken.append(item)
            yield item

    for place, found in enumerate(in_order(lambda item: item * item, items(), 3)):
        assert found == place * place
        assert len(taken) <= place + 4


def test_a_failure_is_told_in_its_turn_and_nothing_new_is_begun() -> None:
    begun: list[int] = []
    first_is_read = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("poison")
        if item > 1:
            first_is_read.wait(HANGS)
        return item

    results = in_order(work, range(100), 2)
    assert next(results) == 0
    first_is_read.set()
    with pytest.raises(ValueError, match="poison"):
        list(results)
    assert len(begun) < 10


def test_no_signal_breaks_into_weights_that_are_read() -> None:
    """Their readers call Python code, and took an interrupt in that for damage, in one of three cases."""
    path = EMBEDDED / "mini-1" / "model.safetensors"
    expected = read_weights(path).keys()

    def read() -> None:
        assert read_weights(path).keys() == expected

    assert any(interrupted_at_random(read, times=100, seed=1))


def test_unbroken_gives_results_and_errors() -> None:
    assert unbroken(lambda: threading.current_thread() is not threading.main_thread())
    with pytest.raises(ZeroDivisionError):
        unbroken(lambda: 1 // 0)


def test_an_interrupt_is_met_at_once_and_nothing_keeps_what_was_read_in_vain() -> None:
    met, results = threading.Event(), list[weakref.ref[torch.Tensor]]()

    def work() -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        assert met.wait(HANGS)
        results.append(weakref.ref(result := torch.zeros(1)))
        return result

    with pytest.raises(KeyboardInterrupt):
        unbroken(work)
    met.set()
    end = time.monotonic() + HANGS
    while not results or results[0]():
        assert time.monotonic() < end, "it is still there"
        time.sleep(0.01)
        gc.collect()  # the traceback of the interrupt


def test_results_are_not_waited_for_after_an_interrupt() -> None:
    met, ended = threading.Event(), threading.Event()

    def work(_: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert met.wait(HANGS)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        list(in_order(work, range(2), 1))
    assert not ended.is_set()
    met.set()
    assert ended.wait(HANGS)


def slow_encoder(folder: Path) -> Path:
    """Its weights take seconds to read, since they are many tensors: foreign code calls Python for each."""
    path = save_toy_codon(folder) / "model.safetensors"
    more = {f"more.{number}": torch.zeros(1) for number in range(20_000)}
    save_file(load_file(path) | more, path)
    return folder


def slow_set(folder: Path) -> Path:
    made = save_toy_codon_set(folder / "set")
    encoder, card = slow_encoder(folder / "codon"), ClassifierCard.read(made)
    pin = replace(card.dna, sha256=(resolve(str(encoder)).sha256,))
    save(made, load_file(made / "model.safetensors"), replace(card, dna=pin))
    return made


def wait_until_mapped(reader: subprocess.Popen[str], weights: Path) -> None:
    while reader.poll() is None and str(weights) not in Path(f"/proc/{reader.pid}/maps").read_text():
        time.sleep(0.01)


def start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("command", "make"), [("embed", slow_encoder), pytest.param("predict", slow_set, marks=pytest.mark.heavy)]
)
@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_ends_a_run_that_reads_weights(
    command: str, make: Callable[[Path], Path], times: int, tmp_path: Path
) -> None:
    model, fasta = make(tmp_path / "model"), to_fasta(tmp_path / "in.fa", [("a", "ACGT" * 50)])
    run = start(*command_line(command, fasta, "-o", tmp_path / "out.h5", "--model", model, "-d", "cpu"))
    wait_until_mapped(run, next(tmp_path.rglob("model.safetensors")))
    for _ in range(times):
        run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=HANGS)[1]
    assert (run.returncode, "interrupted; finished work files are kept" in said) == (130, True), said
    assert "Traceback" not in said
    assert "terminate called" not in said


READ = """
import signal, sys
from pathlib import Path
from virnucpro.models.weights import read_weights

def interrupt(*_):
    print("interrupted", flush=True)
    raise KeyboardInterrupt

signal.signal(signal.SIGINT, interrupt)
try:
    read_weights(Path(sys.argv[1]))
except KeyboardInterrupt:
    print("nobody waits for the weights any more", flush=True)
"""


@pytest.mark.heavy
def test_a_program_waits_at_its_end_for_weights_that_it_reads_in_vain(tmp_path: Path) -> None:
    path = slow_encoder(tmp_path) / "model.safetensors"
    program = start(sys.executable, "-c", READ, str(path))
    wait_until_mapped(program, path)
    assert program.stdout
    program.send_signal(signal.SIGINT)
    assert program.stdout.readline() == "interrupted\n"
    assert program.stdout.read() == "nobody waits for the weights any more\n"
    assert (program.wait(HANGS), program.communicate()[1]) == (0, "")
