"""The command line before it is there: a signal while it is being imported."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HANGS, command_line

from virnucpro.errors import lack_of_memory

#: Asks for a signal when the first module is imported whose import takes a while, then imports the command line.
START = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, *_):
        if name == "rich_click":
            os.kill(os.getpid(), signal.Signals(int(sys.argv.pop())))

sys.meta_path.insert(0, Interrupting())
from virnucpro.__main__ import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_ends_the_command_at_once_and_silently(number: signal.Signals) -> None:
    words = [sys.executable, "-c", START, "--version", str(int(number))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=HANGS)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "")


def test_the_package_imports_nothing_heavy_before_it_is_used() -> None:
    look = "import sys, virnucpro; print([name for name in sys.modules if name.startswith('virnucpro.')])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=HANGS, check=True)
    assert done.stdout == "['virnucpro._version', 'virnucpro.errors']\n"


def test_a_current_folder_that_was_removed_is_named(tmp_path: Path) -> None:
    """A library of PyTorch would say that it cannot be loaded, and end the process with the exit code of usage."""
    words = command_line("predict", tmp_path / "in.fa", "-o", tmp_path / "out")
    (tmp_path / "gone").mkdir()
    script = 'cd "$0" && rmdir "$0" && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, str(tmp_path / "gone"), *words], capture_output=True, text=True, timeout=HANGS
    )
    said = "virnucpro: error: cannot use the current folder: No such file or directory\n"
    assert (done.returncode, done.stderr) == (3, said + "  → it has been removed: change to another folder\n")


def test_too_little_memory_while_pytorch_is_imported_is_called_that() -> None:
    """What its import raises under `ulimit -v 600000`."""
    assert lack_of_memory(RuntimeError("std::bad_alloc"))
