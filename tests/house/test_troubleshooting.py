"""The messages that docs/troubleshooting.md explains are messages that the program prints."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOREIGN = (
    "RESOURCE_EXHAUSTED: Out of memory",
    "Killed",
    "No space left on device",
    "No visible TPU",
)  # of JAX and Linux


def messages() -> list[str]:
    """The code spans in the first column of every table."""
    rows = [
        line for line in (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"
    ]
    return [span for row in rows for span in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def printed() -> str:
    """All literal text of the package, in its order; what an f-string fills in is a gap."""
    found = []
    for file in sorted((ROOT / "dualdiff_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[sdg]", "\0", node.value))
    return "\n".join(found)


@pytest.mark.parametrize("message", [message for message in messages() if message not in FOREIGN])
def test_a_message_is_one_that_the_program_prints(message):
    pattern = r"[^\n]*?".join(re.escape(part.strip()) for part in message.split("..."))
    assert re.search(pattern, printed()), message


def test_there_are_messages_of_all_kinds():
    assert len(messages()) > 15 and set(FOREIGN) <= set(messages())
