"""What a message takes over from another library's error."""

from dualdiff_jax.errors import REASON, reason


def test_a_long_reason_keeps_what_was_done_and_why_it_failed():
    found = reason(OSError(f"Error writing {'/deep' * 200}: File too large\nand more"))
    assert found.startswith("Error writing /deep") and found.endswith(": File too large")
    assert len(found) == REASON + len(" ... ")


def test_a_short_reason_is_its_first_line_and_an_empty_one_is_the_type():
    assert reason(OSError("x" * REASON + "\ny")) == "x" * REASON
    assert reason(KeyboardInterrupt()) == "KeyboardInterrupt"
