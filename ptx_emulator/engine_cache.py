"""Keeps numba's on-disk cache honest.

numba recompiles a cached function when its own file changes, but not when a module does whose constants or
functions it uses. All engine sources are therefore hashed together, and cached code of another hash is removed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_STAMP = "engine.sha256"


def drop_stale_code() -> None:
    """Removes cached engine code that was compiled from other sources. Does nothing if the folder is read-only."""
    folder = Path(__file__).parent
    sources = [*sorted(folder.glob("engine*.py")), folder / "microcode.py", folder / "state.py"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    cache = folder / "__pycache__"
    stamp = cache / _STAMP
    try:
        if stamp.exists() and stamp.read_text() == digest:
            return
        for path in [*cache.glob("engine*.nbi"), *cache.glob("engine*.nbc")]:
            path.unlink(missing_ok=True)
        cache.mkdir(exist_ok=True)
        stamp.write_text(digest)
    except OSError:
        return


drop_stale_code()
