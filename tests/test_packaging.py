"""`packaging/`: accepted by the tools of each format, for this version, and run if possible."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HANGS

from virnucpro import __version__
from virnucpro.runs.config import PredictConfig
from virnucpro.runs.predict import run_predict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGING = ROOT / "packaging"
#: Where `make test-heavy` installs the tools of packaging/tools.txt.
TOOLS = Path(sys.prefix) / "tools" / "bin"
VERSIONED = {
    "packaging/conda/recipe.yaml": r'version: "(.+)"',
    "packaging/galaxy/virnucpro.xml": r'name="@TOOL_VERSION@">(.+)</token>',
    "packaging/nf-core/predict/main.nf": r'container "virnucpro:(.+)"',
    "packaging/nf-core/predict/environment.yml": r"virnucpro=(.+)",
    "packaging/snakemake/predict/environment.yaml": r"virnucpro =(.+)",
    "CITATION.cff": r"^version: (.+)",
}


@pytest.mark.parametrize("name", VERSIONED)
def test_all_name_this_version(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.findall(VERSIONED[name], text, re.MULTILINE) == [__version__]


def test_codemeta_says_what_pyproject_says() -> None:
    meta = json.loads((ROOT / "codemeta.json").read_text(encoding="utf-8"))
    project = pyproject()["project"]
    assert meta["version"] == __version__
    for name in ("name", "description", "keywords"):
        assert meta[name] == project[name]
    assert meta["license"].endswith(f"/{project['license']}")


def pyproject() -> dict[str, dict[str, object]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_recipe_needs_what_the_package_needs() -> None:
    """By conda's names; no particular build of PyTorch is required, so that a GPU is used if there is one."""
    recipe = (PACKAGING / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    run = re.findall(r"^    - (\S+) (>=\S+)$", recipe.split("\n  run:\n")[1].split("\n\n")[0], re.MULTILINE)
    names = {"torch": "pytorch", "huggingface-hub": "huggingface_hub"}
    needed = pyproject()["project"]["dependencies"]
    assert isinstance(needed, list)
    pairs = [re.match(r"([\w.-]+)(>=[\d.]+)", each).groups() for each in needed]  # type: ignore[union-attr]
    expected = {names.get(name, name): least for name, least in pairs}
    assert dict(run) == expected | {"python": pyproject()["project"]["requires-python"]}


def tool(name: str) -> str:
    """A program of packaging/tools.txt."""
    found = shutil.which(name, path=f"{TOOLS}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"needs {name}: `make test-heavy` installs it")
    return found


def run(*words: object, cwd: Path = ROOT, **env: str) -> str:
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=HANGS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.heavy
def test_the_dockerfile_is_clean_by_hadolint() -> None:
    run(tool("hadolint"), PACKAGING / "Dockerfile")


@pytest.mark.heavy
def test_what_images_copy_is_enough_to_install(tmp_path: Path) -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (PACKAGING / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    for name in names:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
    apptainer = re.findall(r"^    (\S+) /source/", (PACKAGING / "apptainer.def").read_text("utf-8"), re.MULTILINE)
    assert sorted(names) == sorted(allowed) == sorted(apptainer)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", tmp_path)
    assert len(list((tmp_path / "dist").glob("*.whl"))) == 1


@pytest.mark.heavy
def test_the_galaxy_tool_passes_lint() -> None:
    run(tool("planemo"), "lint", "--fail_level", "warn", PACKAGING / "galaxy" / "virnucpro.xml")


@pytest.mark.heavy
def test_the_citation_is_valid() -> None:
    assert "valid" in run(tool("cffconvert"), "--validate")


RENDER = """
import sys
from rattler_build import RenderConfig, Stage0Recipe, VariantConfig

(found,) = Stage0Recipe.from_file(sys.argv[1]).render(VariantConfig(), RenderConfig())
print(found)
"""


@pytest.mark.heavy
def test_the_recipe_renders() -> None:
    python = Path(tool("planemo")).with_name("python")
    assert f"version='{__version__}'" in run(python, "-c", RENDER, PACKAGING / "conda" / "recipe.yaml")


@pytest.mark.heavy
def test_the_snakemake_wrapper_runs(toy: Path, complete: Path, tmp_path: Path) -> None:
    pytest.importorskip("snakemake", reason="Snakemake is not installed")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "virnucpro"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m virnucpro "$@"\n')
    program.chmod(0o755)
    path = complete.parent / "in.fa"
    config = (f"input={path}", f"extra=--model {toy} -d cpu --dtype fp32")
    words = (sys.executable, "-m", "snakemake", "-s", PACKAGING / "snakemake" / "Snakefile", "-d", tmp_path)
    run(*words, "--cores", 1, "--config", *config, PATH=f"{program.parent}:{os.environ['PATH']}")
    run_predict(PredictConfig((path,), tmp_path / "same", prefix="sample", model=str(toy), device="cpu", dtype="fp32"))
    assert (tmp_path / "out" / "sample.report.html").is_file()
    for name in ("sample.sequences.tsv", "sample.virus.fna", "sample.scores.gz"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()
    assert "sequences: " in (tmp_path / "logs" / "sample.log").read_text(encoding="utf-8")
