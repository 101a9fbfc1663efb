import pytest

from .cases import FILE, Command


@pytest.fixture
def command(tmp_path, capsys):
    path = tmp_path / "reverse.py"
    path.write_text(FILE)
    return Command(str(path), capsys)
