"""The reference shows each call of the pipeline with all of its arguments, its result and its exceptions."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dualdiff_jax import DualDiffusionPipeline

SECTION = re.compile(r"^(Args|Returns|Yields|Raises):\n((?:    .*\n?|\n)+)", re.MULTILINE)
ENTRY = re.compile(r"^    (\w+): \S", re.MULTILINE)
RAISE_NOTHING = {"batches", "null_text_embeddings", "place", "run"}


def calls(owner: type) -> dict[str, Callable[..., Any]]:
    """The public methods of a class and of those that it is made of; properties are none."""
    return {name: call for name, call in inspect.getmembers(owner, inspect.isroutine) if not name.startswith("_")}


def undocumented(name: str, call: Callable[..., Any]) -> Iterator[str]:
    sections = dict(SECTION.findall(inspect.getdoc(call) or ""))
    signature = inspect.signature(call)
    known = [parameter for parameter in signature.parameters if parameter != "self"]
    documented = ENTRY.findall(sections.get("Args", ""))
    yield from (f"argument {parameter}" for parameter in known if parameter not in documented)
    yield from (f"no argument {parameter}" for parameter in documented if parameter not in known)
    if signature.return_annotation not in (None, "None") and not sections.keys() & {"Returns", "Yields"}:
        yield "result"
    if name not in RAISE_NOTHING and "Raises" not in sections:
        yield "exceptions"


@pytest.mark.parametrize("name", calls(DualDiffusionPipeline))
def test_a_call_of_the_pipeline_is_documented_in_full(name):
    assert list(undocumented(name, calls(DualDiffusionPipeline)[name])) == []


def test_the_search_covers_the_pipeline_and_its_parts():
    assert {"from_pretrained", "text_to_image", "stream_text", "run"} <= calls(DualDiffusionPipeline).keys()


def test_what_a_docstring_lacks_is_found():
    def call(image: str, steps: int, **options: Any) -> str:
        """A text.

        Args:
            image: a path.
                wrapped: no argument.
            length: in tokens.
        """
        return f"{image}{steps}{options}"

    expected = ["argument steps", "argument options", "no argument length", "result", "exceptions"]
    assert list(undocumented("call", call)) == expected
    assert list(undocumented("run", call)) == expected[:-1]
