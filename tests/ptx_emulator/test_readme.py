"""The README's worked example runs as it stands, and its claim about the missing barrier is true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "ptx_emulator" / "README.md"


def example() -> str:
    (found,) = [b for b in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "@cute.kernel" in b]
    return found


@pytest.mark.parametrize("barrier", [True, False])
def test_worked_example(tmp_path, barrier):
    text = example()
    assert "    cute.arch.sync_threads()\n" in text
    script = tmp_path / "example.py"
    script.write_text(text if barrier else text.replace("    cute.arch.sync_threads()\n", ""))
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); runpy.run_path({str(script)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if barrier:
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.startswith("5 CTAs,")
    else:
        assert done.returncode == 1 and "AssertionError" in done.stderr
