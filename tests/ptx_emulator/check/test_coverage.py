"""The coverage command: what it lists is what the decoder accepts and refuses."""

from __future__ import annotations

import json

import pytest

from ptx_emulator import Program
from ptx_emulator.check.coverage import coverage, main
from ptx_emulator.errors import UnsupportedInstruction

from ..lanes import program

GOOD = """
    add.u32 %r1, %r2, %r3;
    add.u32 %r1, %r2, %r3;
    tcgen05.wait::ld.sync.aligned;
"""
BAD = """
    add.u32 %r1, %r2, %r3;
    no.such.instruction %r1, %r2;
    @%p1 no.such.instruction %r1, %r2;
    fence.mbarrier_init.release.cluster.surprise;
    tcgen05.wait::ld.sync.aligned.surprise;
"""


@pytest.fixture
def files(tmp_path):
    paths = []
    for name, body in (("good", GOOD), ("bad", BAD)):
        paths.append(tmp_path / f"{name}.ptx")
        paths[-1].write_text(program(body, 0))
    return [str(path) for path in paths]


def line_of(ptx: str, text: str) -> int:
    return ptx[: ptx.index(text)].count("\n") + 1


def test_supported_forms_are_counted_with_their_first_line():
    ptx = program(GOOD, 0)
    found = coverage(ptx)
    assert found.complete
    form = found.forms["add.u32"]
    assert (form.count, form.line) == (3, line_of(ptx, "add.u32"))  # the header of `program` has one too
    assert found.forms["tcgen05.wait::ld.sync.aligned"].count == 1
    assert "ret" in found.forms


def test_missing_forms_are_named_with_line_and_reason():
    ptx = program(BAD, 0)
    found = coverage(ptx)
    missing = {form.opcode: form for form in found.missing}
    assert set(missing) == {
        "no.such.instruction",
        "fence.mbarrier_init.release.cluster.surprise",
        "tcgen05.wait::ld.sync.aligned.surprise",
    }
    assert missing["no.such.instruction"].count == 2
    assert missing["no.such.instruction"].line == line_of(ptx, "no.such")
    assert "surprise" in missing["tcgen05.wait::ld.sync.aligned.surprise"].reason


@pytest.mark.parametrize("body", [GOOD, *(line for line in BAD.strip().splitlines())])
def test_agrees_with_the_decoder(body):
    ptx = program(body, 0)
    found = coverage(ptx)
    if found.complete:
        Program(ptx).kernel()
    else:
        with pytest.raises(UnsupportedInstruction) as error:
            Program(ptx).kernel()
        assert error.value.line == found.missing[0].line
        assert error.value.message == found.missing[0].reason


def test_an_opcode_that_is_missing_for_some_operands_only():
    ptx = program("setmaxnreg.inc.sync.aligned.u32 24;\nsetmaxnreg.inc.sync.aligned.u32 25;", 0)
    (form,) = coverage(ptx).missing
    assert (form.count, form.line) == (2, line_of(ptx, "setmaxnreg.inc.sync.aligned.u32 25"))


def test_text_that_cannot_be_parsed():
    found = coverage(program("mov.u32 %r1, %nope;", 0))
    assert not found.complete and "%nope" in found.error


def test_exit_status_and_text(files, capsys):
    assert main(files[:1]) == 0
    assert "0 missing" in capsys.readouterr().out
    assert main(files) == 1
    printed = capsys.readouterr().out
    assert "3 missing" in printed and "MISSING      2x" in printed
    assert main([files[1], "--missing"]) == 1
    assert "add.u32" not in capsys.readouterr().out


def test_json(files, capsys):
    assert main([*files, "--json"]) == 1
    good, bad = json.loads(capsys.readouterr().out)
    assert (good["file"], good["missing"], bad["missing"]) == (files[0], 0, 3)
    assert {"opcode", "count", "line", "supported", "reason"} == set(good["forms"][0])
    assert [form["opcode"] for form in bad["forms"] if not form["supported"]] == sorted(
        form["opcode"] for form in bad["forms"] if form["reason"]
    )


def test_a_file_that_is_not_ptx(tmp_path, capsys):
    path = tmp_path / "x.ptx"
    path.write_text("hello")
    assert main([str(path)]) == 1
    assert "cannot be read as PTX" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "none.ptx")])
    assert stop.value.code == 2
