"""What all command lines share."""

from __future__ import annotations

import argparse

import pytest

from wrappers import command_line


def test_ctrl_c_ends_without_a_traceback(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        command_line.run(main)
    assert stopped.value.code == 130 and capsys.readouterr().err == "interrupted\n"
    with pytest.raises(SystemExit) as stopped:
        command_line.run(lambda: 1)
    assert stopped.value.code == 1


def test_checking_an_output_leaves_it_as_it_is(tmp_path):
    (tmp_path / "there").write_text("kept")
    assert command_line.output_file(str(tmp_path / "there")) == str(tmp_path / "there")
    command_line.output_file(str(tmp_path / "new"))
    assert command_line.output_file("-") == "-"
    command_line.output_folder(str(tmp_path / "a" / "b"))
    command_line.output_folder(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["there"] and (tmp_path / "there").read_text() == "kept"
    for text in (str(tmp_path), str(tmp_path / "a" / "b"), str(tmp_path / "there" / "b"), "\0"):
        with pytest.raises(argparse.ArgumentTypeError, match="cannot be written"):
            command_line.output_file(text)
    with pytest.raises(argparse.ArgumentTypeError, match="cannot be written"):
        command_line.output_folder(str(tmp_path / "there" / "b"))


def test_numbers():
    read = command_line.integer(-2, 5)
    assert [read(text) for text in ("-2", "0", "5", "005")] == [-2, 0, 5, 5]
    for text in ("-3", "6", "", "-", "1.0", "1e1", "x", " 1", "1_0", "\u0661", "9" * 5000):
        with pytest.raises(argparse.ArgumentTypeError, match="must be an integer of -2..5"):
            read(text)
    assert command_line.list_of(command_line.positive)("1, 2.5") == [1.0, 2.5]
    for text in ("0", "-1", "nan", "inf", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="must be"):
            command_line.positive(text)
