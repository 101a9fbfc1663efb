"""The emulator as a distribution of its own: `pip install ./ptx_emulator`. What it imports is checked in
tests/test_imports.py.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import ptx_emulator

FOLDER = Path(ptx_emulator.__file__).parent
BUILD = "from setuptools import build_meta; import sys; print(build_meta.build_wheel(sys.argv[1]))"


def test_the_distribution_has_every_module_and_nothing_else(tmp_path):
    pytest.importorskip("setuptools", reason="builds the distribution without a network")
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    shutil.copytree(FOLDER, source, ignore=shutil.ignore_patterns("__pycache__"))
    wheels.mkdir()
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(wheels)], cwd=source, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(wheels / built.stdout.split()[-1]) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == {path.relative_to(FOLDER.parent).as_posix() for path in FOLDER.rglob("*.py")}
