"""HTML of what visitors and models write: escaped, so that no text of theirs becomes markup or a template."""

import html
from collections.abc import Iterable

STEPS = 10  # shades of a colour


def escaped(text: object) -> str:
    """A text as HTML shows it; signs that open a template are escaped too."""
    found = html.escape(str(text))
    return found.replace("$", "&#36;").replace("{", "&#123;").replace("`", "&#96;")


def element(tag: str, text: object, kind: str = "", **attributes: object) -> str:
    """One element with an escaped text and attributes; ``kind`` is its class."""
    given = {"class": kind, **attributes} if kind else attributes
    written = "".join(f' {name}="{escaped(value)}"' for name, value in given.items())
    return f"<{tag}{written}>{escaped(text)}</{tag}>"


def alert(sentence: str, number: int) -> str:
    """A fault, as one sentence. Its number differs from the last fault's, so that a browser announces both."""
    return element("p", sentence, "fault", role="alert", **{"data-number": number})


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{escaped(each)}</th>" for each in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table class=ranked><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
