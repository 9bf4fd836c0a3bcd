"""docs/data.md: every example runs and gives records, every snippet is a valid config."""

import re
from pathlib import Path

import numpy as np
import pytest

from dualdiff_jax.config import SourceConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.formats.official import OFFICIAL_FORMATS
from dualdiff_jax.data.formats.registry import FORMATS, open_source
from dualdiff_jax.data.images import read_image

TEXT = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
EXAMPLES = [block for block in BLOCKS if "\nsource = " in block]
SNIPPETS = [block for block in BLOCKS if "sources = [" in block]


def test_every_block_is_an_example_or_a_snippet():
    assert len(EXAMPLES) + len(SNIPPETS) == len(BLOCKS) >= 9


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: re.search(r'format="(\w+)"|$', block)[1] or "json")
def test_an_example_gives_a_record_with_its_image(tmp_path, monkeypatch, block):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(block, "docs/data.md", "exec"), names)
    config = resolve(names["source"], SourceConfig)
    record = open_source(config)[0]
    assert record.captions or record.turns
    image = read_image(record.image, config.height, config.width)
    assert image.shape == (512, 512, 3) and np.isfinite(image).all()


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_is_a_valid_config(number):
    block = SNIPPETS[number].replace("config.data.sources = ", "sources = ")
    names: dict = {}
    exec(compile(block, "docs/data.md", "exec"), names)
    for source in names["sources"]:
        resolve(source, SourceConfig)


def test_every_format_is_documented():
    shown = {re.search(r'format="(\w+)"|$', block)[1] or "json" for block in EXAMPLES} | {"tfds"}
    assert shown - {"gqa"} == FORMATS.keys() - OFFICIAL_FORMATS.keys()
    for name in OFFICIAL_FORMATS:
        assert f"`{name}`" in TEXT
