"""The command line before it is there: a signal while it is being imported."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from conftest import HANGS

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
