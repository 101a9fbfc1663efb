"""The emulator as a distribution of its own: `pip install ./ptx_emulator`. What it imports is checked in
tests/test_imports.py.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import ptx_emulator

FOLDER = Path(ptx_emulator.__file__).parent
BUILD = "from setuptools import build_meta; import sys; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("setuptools", reason="builds the distribution without a network")
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(FOLDER, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", BUILD, str(folder)]
    built = subprocess.run(command, cwd=folder / "source", capture_output=True, text=True, check=True)
    return folder / built.stdout.split()[-1]


def test_the_distribution_has_every_module_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as file:
        packed = {name for name in file.namelist() if ".dist-info/" not in name}
    assert packed == {path.relative_to(FOLDER.parent).as_posix() for path in FOLDER.rglob("*.py")}


def test_pytest_finds_the_plugin_beside_the_options_of_this_repository(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path)
    command = [sys.executable, "-m", "pytest", "--help", "tests/test_imports.py"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=FOLDER.parent, env=environment, capture_output=True, text=True, check=True)
    assert "--ptx-emulate" in done.stdout and "--seeds=SEEDS" in done.stdout
