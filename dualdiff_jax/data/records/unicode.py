"""The one place that mends text which is no valid Unicode.

JSON may hold half of a surrogate pair ("\\ud83d"), and a name of a file or an argument any bytes. Neither can be
written as UTF-8, so tokenizers and reports would fail on it.
"""


def mend_text(text: str) -> str:
    """``text`` with U+FFFD in place of each lone surrogate; valid text is returned as it is."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
