"""Keeps numba's on-disk cache honest.

numba recompiles a cached function when its own file changes, but not when a module does whose constants or
functions it uses. All engine sources are therefore hashed together, and cached code of another hash is removed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_STAMP = "engine.sha256"


def drop_stale_code(folder: Path, prefix: str, *others: Path) -> None:
    """Removes cached code of `folder`'s modules `prefix*` that was compiled from other sources than these and `others`.

    Does nothing if the folder is read-only.
    """
    sources = [*sorted(folder.glob(f"{prefix}*.py")), *others]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    cache = folder / "__pycache__"
    stamp = cache / _STAMP
    try:
        if stamp.exists() and stamp.read_text() == digest:
            return
        for path in [*cache.glob(f"{prefix}*.nbi"), *cache.glob(f"{prefix}*.nbc")]:
            path.unlink(missing_ok=True)
        cache.mkdir(exist_ok=True)
        stamp.write_text(digest)
    except OSError:
        return


ENGINE = Path(__file__).parent
SHARED_SOURCES = (ENGINE / "microcode.py", ENGINE / "state.py")
drop_stale_code(ENGINE, "engine", *SHARED_SOURCES)
