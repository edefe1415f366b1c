"""The wheel: built from the repository, installed elsewhere, and used there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves files in its folder, where others may build or read."""
    out, copy = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("copy") / "virnucpro"
    unneeded = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "demo")
    shutil.copytree(ROOT, copy, ignore=unneeded)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_both_are_fit_for_pypi(wheel: Path) -> None:
    pytest.importorskip("twine", reason="needs twine, from PyPI")
    files = sorted(map(str, wheel.parent.iterdir()))
    assert [name.endswith((".whl", ".tar.gz")) for name in files] == [True, True]
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wheel_holds_the_embedded_models_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert f"virnucpro/models/embedded/dnabert-mini/{name}" in names
    assert "virnucpro/models/embedded/codon-mini/config.json" in names
    for name in ("mini", "mini-1"):
        assert {f"virnucpro/models/embedded/{name}/{file}" for file in ("model.json", "model.safetensors")} <= set(
            names
        )
    assert "virnucpro/py.typed" in names
    for name in ("report.html", "report.css", "report.js", "uplot.js", "uplot.css", "uplot.LICENSE"):
        assert f"virnucpro/report/assets/{name}" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "training"))]


def test_wheel_works_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    """Installed without the repository; the dependencies are those of this environment, to avoid downloads."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    target = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    here = Path(sys.modules["pytest"].__file__ or "").parents[1]
    (target / "dependencies.pth").write_text(f"{here}\n")
    done = subprocess.run(
        [python, "-m", "virnucpro", "doctor", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads(done.stdout)["trial"] == "ok"
    where = subprocess.run(
        [python, "-c", "import virnucpro; print(virnucpro.__file__)"], cwd=tmp_path, capture_output=True, text=True
    )
    assert where.stdout.startswith(str(target))
