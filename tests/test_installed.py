"""A user without a name, a home, or the right to write into the package, as in most containers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import HANGS, Completed, command_line, random_records, run_cli, to_fasta

from virnucpro.core.caches import settle_caches
from virnucpro.models.tokenizer import DNATokenizer

ROOT = Path(__file__).parents[1]
UNKNOWN = 54321
#: It can read any file, since the interpreter of this test may be in a folder of root, but write none.
AS_UNKNOWN = (
    *("setpriv", f"--reuid={UNKNOWN}", f"--regid={UNKNOWN}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder with sequences that the unknown user can write to; not below pytest's, which only root can use."""
    if not shutil.which("setpriv") or subprocess.run([*AS_UNKNOWN, "true"], capture_output=True).returncode:
        pytest.skip("needs root and setpriv")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        to_fasta(folder / "in.fa", random_records(20))
        for path in (folder, folder / "tmp"):
            os.chown(path, UNKNOWN, UNKNOWN)
        yield folder


def run_as_unknown(folder: Path, *command: str, **env: str) -> Completed:
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(folder / "tmp"), **env}
    words = [*AS_UNKNOWN, *command]
    return subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, timeout=HANGS)


@pytest.mark.heavy
def test_doctor_without_a_home(nobody: Path) -> None:
    done = run_as_unknown(nobody, *command_line("doctor"))
    assert done.returncode == 0, done.stderr
    assert "trial:         ok" in done.stdout
    assert "tokenizer:     Numba on GPUs, the tokenizers library on CPUs\n" in done.stdout
    assert done.stderr == ""
    assert sorted(path.name for path in nobody.iterdir()) == ["in.fa", "tmp"]
    assert [path.name for path in (nobody / "tmp").iterdir()] == [f"virnucpro-{UNKNOWN}"]


@pytest.mark.heavy
def test_two_workers_and_a_report_where_home_cannot_be_written(nobody: Path) -> None:
    command = command_line("predict", "in.fa", "-o", "out", "-d", "cpu,cpu", "-t", 1, "--report", "-q")
    done = run_as_unknown(nobody, *command, HOME="/nonexistent")
    assert (done.returncode, done.stderr) == (0, "")
    same = run_cli("predict", nobody / "in.fa", "-o", nobody / "same", "-d", "cpu", "-t", 1, "-q")
    assert same.returncode == 0, same.stderr
    assert (nobody / "out" / "in.report.html").stat().st_size
    for table in ("in.sequences.tsv", "in.windows.tsv.gz"):
        left, right = ((nobody / folder / table).read_bytes() for folder in ("out", "same"))
        assert left.replace(b"in.fa", b"") == right.replace(os.fsencode(nobody / "in.fa"), b"")


# Triton can compile without a GPU. Its decorator reads the source, so this is a file.
COMPILE = """
from virnucpro.core.caches import settle_caches

settle_caches()
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def copied(source, target):
    tl.store(target, tl.load(source))


source = ASTSource(fn=copied, signature={"source": "*fp32", "target": "*fp32"})
print(len(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]))
"""


@pytest.mark.parametrize("env", [{}, {"HOME": "/nonexistent"}])
def test_triton_compiles(nobody: Path, env: dict[str, str]) -> None:
    pytest.importorskip("triton")
    (nobody / "compile.py").write_text(COMPILE)
    done = run_as_unknown(nobody, sys.executable, "compile.py", PYTHONPATH=str(ROOT), **env)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
    assert sorted(path.name for path in nobody.iterdir()) == ["compile.py", "in.fa", "tmp"]


VARIABLES = ("NUMBA_CACHE_DIR", "TRITON_HOME")


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of a process without a home."""
    monkeypatch.setenv("HOME", "none")  # not an absolute path: without a home, `~` stays `~`
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def test_caches_go_to_a_folder_of_the_users_own(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_HOME", "elsewhere")
    settle_caches()
    own = homeless / f"virnucpro-{os.getuid()}"
    assert own.stat().st_mode & 0o777 == 0o700
    assert [os.environ[name] for name in VARIABLES] == [str(own), "elsewhere"]


@pytest.mark.parametrize("made", ["writable by others", "a link", "a file"])
def test_a_folder_that_others_made_is_not_taken(homeless: Path, made: str) -> None:
    own = homeless / f"virnucpro-{os.getuid()}"
    if made == "a link":
        own.symlink_to(homeless)
    elif made == "a file":
        own.touch()
    else:
        own.mkdir()
        own.chmod(0o777)
    settle_caches()
    assert not set(VARIABLES) & set(os.environ)


def test_a_home_that_can_be_written_is_used(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(homeless / "home"))
    settle_caches()
    assert not set(VARIABLES) & set(os.environ)


ENCODE = """
import logging, sys
from pathlib import Path
from virnucpro.models.tokenizer import DNATokenizer
logging.basicConfig(stream=sys.stdout)
print(DNATokenizer(Path(sys.argv[1])).encode(["ACGTTTACGGA"])[0].tolist())
"""


@pytest.mark.heavy
def test_numbas_cache_on_a_full_disk(small_disk: Path) -> None:
    """The library takes over, with the same result."""
    with open(small_disk / "full", "wb") as file, pytest.raises(OSError, match="No space"):
        file.write(bytes(2_000_000))
    tokenizer = ROOT / "virnucpro/models/embedded/dnabert-mini/tokenizer.json"
    done = subprocess.run(
        [sys.executable, "-c", ENCODE, tokenizer],
        env=os.environ | {"NUMBA_CACHE_DIR": str(small_disk)}, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(DNATokenizer(tokenizer).encode(["ACGTTTACGGA"])[0].tolist())
