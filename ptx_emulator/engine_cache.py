"""Keeps numba's on-disk cache honest.

numba recompiles a cached function when its own file changes, but not when a module does whose constants or
functions it uses. The sources of the engine and of the tensor core's arithmetic are therefore hashed together, and
cached code of another hash is removed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_STAMP = "engine.sha256"
_COMPILED = ("engine", "numerics")  # file name prefixes


def drop_stale_code() -> None:
    """Removes cached engine code that was compiled from other sources. Does nothing if the folder is read-only."""
    folder = Path(__file__).parent
    compiled = [path for prefix in _COMPILED for path in sorted(folder.glob(f"{prefix}*.py"))]
    sources = [*compiled, folder / "microcode.py", folder / "state.py"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    cache = folder / "__pycache__"
    stamp = cache / _STAMP
    try:
        if stamp.exists() and stamp.read_text() == digest:
            return
        for prefix in _COMPILED:
            for path in cache.glob(f"{prefix}*.nb[ic]"):
                path.unlink(missing_ok=True)
        cache.mkdir(exist_ok=True)
        stamp.write_text(digest)
    except OSError:
        return


drop_stale_code()
