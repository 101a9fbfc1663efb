"""The README's files and commands, run as they stand there: what they print, and how they end."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ptx_emulator.__main__ import main

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "ptx_emulator" / "README.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", TEXT, re.S))
NEAR = 0.1  # modelled numbers may differ by this share: constants of the model change


def commands() -> list[tuple[list[str], int, list[str]]]:
    """(arguments, exit status, lines that are shown) of every command in a console block."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", TEXT, re.S):
        for shown in block.split("$ python -m ptx_emulator ")[1:]:
            line, *output = shown.splitlines()
            command, _, status = line.partition("  # exit status ")
            found.append((shlex.split(command), int(status or 0), output))
    return found


def fits(shown: str, line: str) -> bool:
    """Whether a line is as shown: `...` stands for anything, numbers with a point for numbers near them."""
    pattern = re.sub(r"\d+\\\.\d+", r"(\\d+\\.\\d+)", re.escape(shown)).replace(r"\.\.\.", ".*")
    match = re.fullmatch(pattern, line)
    numbers = re.findall(r"\d+\.\d+", shown)
    return match is not None and all(
        abs(float(got) - float(number)) <= NEAR * float(number)
        for got, number in zip(match.groups(), numbers, strict=True)
    )


def missing(shown: list[str], printed: list[str]) -> str | None:
    """The first line that is shown and was not printed where it should be: next, or anywhere later after `...`."""
    rest, skip = list(printed), False
    for line in shown:
        if line == "...":
            skip = True
            continue
        while skip and rest and not fits(line, rest[0]):
            rest.pop(0)
        if not rest or not fits(line, rest.pop(0)):
            return line
        skip = False
    return None if skip or not rest else f"nothing before {rest[0]}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_file_and_command_is_found():
    assert set(FILES) == {"reverse.py", "column_sums.py"}
    assert [arguments[0] for arguments, _, _ in commands()] == ["run", "check", "check", "mutate", "time", "time"]


@pytest.mark.parametrize(("arguments", "status", "shown"), commands(), ids=lambda value: str(value)[:40])
def test_a_command_does_what_is_shown(folder, capsys, arguments, status, shown):
    assert main(arguments) == status
    printed = capsys.readouterr().out.splitlines()
    assert missing(shown, printed) is None, "\n".join(printed)
    if "--trace" in arguments:
        events = json.loads((folder / arguments[-1]).read_text())["traceEvents"]
        (warp,) = (event["tid"] for event in events if event["ph"] == "M" and event["args"]["name"] == "warp 0")
        waits = [event["dur"] for event in events if event["name"] == "waits: 0x400" and event["tid"] == warp]
        assert len(waits) == 32 and sum(waits) / 32 == pytest.approx(0.64, rel=NEAR)


def test_the_first_command_from_a_shell(folder):
    arguments, status, shown = commands()[0]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    command = [sys.executable, "-m", "ptx_emulator", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == status, done.stderr[-2000:]
    assert missing(shown, done.stdout.splitlines()) is None


def test_a_script_as_it_is(folder, monkeypatch, capsys):
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "runpy" in block]
    monkeypatch.syspath_prepend(str(folder))
    script = """
        import cutlass.cute as cute, torch
        from cutlass.cute.runtime import from_dlpack
        from reverse import reverse
        source, out = torch.randn(2, 3, 64)
        given = from_dlpack(source), from_dlpack(out)
        cute.compile(reverse, *given, True)(*given)
        print(torch.equal(out, source.flip(1)))
    """
    (folder / "script.py").write_text(textwrap.dedent(script))
    exec(example, {})
    assert capsys.readouterr().out == "True\n[] []\n"


def test_the_comparison_sees_what_is_not_so():
    printed = ["a 2.0 us", "b", "warp 1 waits 90.1% (tma)"]
    assert missing(["a 2.1 us", "...", "warp 1 ... 91.0% (tma)"], printed) is None
    for shown in (
        ["a 2.3 us", "..."],
        ["...", "c"],
        ["b", "..."],
        ["a 2.0 us", "b"],
        ["...", "warp 1 waits 50.0% (tma)"],
    ):
        assert missing(shown, printed) is not None
