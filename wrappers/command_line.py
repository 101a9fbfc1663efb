"""What the command lines of this project share: arguments that are checked before anything runs, and how they end.

Exit status: 0 done, 1 something did not pass, 2 wrong arguments (one line on stderr), 130 interrupted (Ctrl-C).
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

WRONG_ARGUMENTS, INTERRUPTED = 2, 130
MAX_INT = 2**31 - 1


class Parser(argparse.ArgumentParser):
    """Wrong arguments end with one line that says what is wrong; the usage is what --help is for."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_ARGUMENTS, f"{self.prog}: error: {message}\n")


def run(main: Callable[[], int]) -> NoReturn:
    """Ends the process with `main`'s exit status, after Ctrl-C without a traceback."""
    try:
        status = main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    sys.exit(status)


def integer(smallest: int, largest: int = MAX_INT) -> Callable[[str], int]:
    """Reads an integer of a range."""

    def parse(text: str) -> int:
        digits = text.removeprefix("-")
        value = int(text) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None
        if value is None or not smallest <= value <= largest:
            raise argparse.ArgumentTypeError(f"{text[:40]!r}: must be an integer of {smallest}..{largest}")
        return value

    return parse


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: must be a number")
    return value


def positive(text: str) -> float:
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: must be above 0")
    return value


def choice(allowed: Iterable[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"{text[:40]!r}: must be one of {', '.join(allowed)}")
        return text

    return parse


def list_of(read: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Reads values with commas between them."""

    def parse(text: str) -> list[Any]:
        return [read(part.strip()) for part in text.split(",")]

    return parse


def output_file(text: str) -> str:
    """A file that can be written, or "-"; its content is left as it is."""
    if text == "-":
        return text
    path = Path(text)
    try:
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text[:200]!r}: cannot be written ({reason(error)})") from error
    return text


def output_folder(text: str) -> Path:
    """A folder in which files can be made; it need not exist yet, and does not afterwards if it did not."""
    path = Path(text)
    try:
        there = next(parent for parent in (path, *path.parents) if parent.exists())
        tempfile.TemporaryDirectory(prefix=".probe-", dir=there).cleanup()
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text[:200]!r}: cannot be written ({reason(error)})") from error
    return path


def input_file(text: str) -> Path:
    """A file that can be read."""
    try:
        with Path(text).open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text[:200]!r}: cannot be read ({reason(error)})") from error
    return Path(text)


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
