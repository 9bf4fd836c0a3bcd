"""What the tests of refused imports share."""

from pathlib import Path

import pytest

from convert.__main__ import main


def refusal(tmp_path: Path, source: Path, *arguments: str) -> str:
    """The message of an import that fails. Checks that it exits with 1 and leaves no new file."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stop:
        main(["import", str(source), f"--output={tmp_path / 'model'}", *arguments])
    message = str(stop.value.code)
    assert message.startswith("error: "), message
    assert sorted(tmp_path.iterdir()) == before
    return message
