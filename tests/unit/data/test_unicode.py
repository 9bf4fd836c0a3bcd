"""Text that is no valid Unicode is mended, and valid text stays the same."""

import pytest

from dualdiff_jax.data.records.unicode import mend_text


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("", ""),
        ("plain", "plain"),
        ("schön 漢字 \U0001f600 \ufffd \0", "schön 漢字 \U0001f600 \ufffd \0"),
        ("half \ud83d", "half \ufffd"),
        ("\ud83d half", "\ufffd half"),
        ("low \ude00 alone", "low \ufffd alone"),
        ("\ud83d\ud83d\ude00", "\ufffd\U0001f600"),  # two escapes that make a pair are one letter
        (b"caf\xe9".decode("utf-8", "surrogateescape"), "caf\ufffd"),
    ],
)
def test_only_lone_surrogates_are_replaced(text, mended):
    assert mend_text(text) == mended
    mended.encode("utf-8")
