"""The figures of a source, from some of its records, evenly spaced and made into examples as training makes them."""

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dualdiff_jax.config import DataConfig, SourceConfig
from dualdiff_jax.data.batch import Example
from dualdiff_jax.data.catalog import Shape, nearest, passes
from dualdiff_jax.data.encoded import kind_of
from dualdiff_jax.data.examples import ExampleMaker
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.images import image_size
from dualdiff_jax.data.reader_watchdog import ReadingNotes
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.manifest import IMAGES, LATENTS_AND_TEXT
from dualdiff_jax.data.records.record import DataError, Record, Source
from dualdiff_jax.data.tokenizer import Tokenizer

SHOWN = 12  # examples of a source on the page


class Shown(NamedTuple):
    """One example on the page."""

    record: Record
    size: tuple[int, int] | None  # (height, width) of the image in its file
    shape: Shape
    example: Example
    cut: int  # tokens that did not fit


@dataclasses.dataclass
class Survey:
    """The figures of one source."""

    config: SourceConfig
    records: int
    kind: str  # what it stores for its images, as ``kind_of`` returns it
    looked_at: int = 0  # records examined; those below are among them
    filtered: int = 0
    without_image: int = 0
    bad: Counter[str] = dataclasses.field(default_factory=Counter)  # by cause
    messages: list[str] = dataclasses.field(default_factory=list)  # one for each cause
    shapes: Counter[Shape] = dataclasses.field(default_factory=Counter)  # good examples, by shape
    sizes: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # (height, width)
    caption_lengths: list[int] = dataclasses.field(default_factory=list)  # characters
    turns: list[int] = dataclasses.field(default_factory=list)
    tokens: list[int] = dataclasses.field(default_factory=list)  # of each example, without padding
    cut: list[int] = dataclasses.field(default_factory=list)  # tokens that did not fit, of each text that lost some
    seconds: float = 0.0  # that it took to make the good examples, on one thread
    shown: list[Shown] = dataclasses.field(default_factory=list)

    @property
    def good(self) -> int:
        return self.shapes.total()

    @property
    def examples_per_second(self) -> float:
        return self.good / self.seconds if self.seconds else 0.0


def survey(config: SourceConfig, data: DataConfig, tokenizer: Tokenizer, samples: int) -> Survey:
    """Surveys a source.

    Args:
        config: the source.
        data: how training reads it.
        tokenizer: turns text into tokens.
        samples: at most how many records to examine.

    Raises:
        UserError: the source cannot be opened, or what it stores does not fit ``data``.
    """
    cache, notes = IndexCache.of(data), ReadingNotes()
    kind = kind_of(config, data, tokenizer)
    source = open_source(config, cache)
    found = Survey(config, len(source), kind)
    places = np.unique(np.linspace(0, len(source) - 1, samples).astype(int)).tolist()
    makers: dict[Shape, ExampleMaker] = {}
    every = max(1, len(places) // SHOWN)
    for place, index in enumerate(places):
        found.looked_at += 1
        try:
            _look(found, source, index, data, tokenizer, makers, notes, is_shown=place % every == 0)
        except DataError as error:
            if error.cause not in found.bad:
                found.messages.append(f"{error.cause}: {error}")
            found.bad[error.cause] += 1
    return found


def _look(
    found: Survey,
    source: Source,
    index: int,
    data: DataConfig,
    tokenizer: Tokenizer,
    makers: dict[Shape, ExampleMaker],
    notes: ReadingNotes,
    *,
    is_shown: bool,
) -> None:
    """Adds one record to ``found``. Raises ``DataError`` if it is bad."""
    config, start = found.config, time.perf_counter()
    record = source[index]
    size = record.size
    if record.image is not None:
        size = image_size(record.image, record.record_id)
    lengths = [len(text) for texts in record.captions.values() for text in texts] or [0]
    row = np.asarray([[*(size or (0, 0)), min(lengths), max(lengths)]])
    if not passes(config, row)[0]:
        found.filtered += 1
        return
    shape = None if record.is_text_only else config.sizes()[int(nearest(config.sizes(), row)[0])]
    if shape not in makers:
        has_text_embeddings = found.kind == LATENTS_AND_TEXT
        makers[shape] = ExampleMaker(
            config, data, tokenizer, source, shape, range(len(source)), notes, has_text_embeddings
        )
    example, cut = makers[shape].example(record, np.random.default_rng(index))
    found.seconds += time.perf_counter() - start
    found.shapes[shape] += 1
    found.without_image += shape is None
    found.sizes += [size] if size else []
    found.caption_lengths += lengths if record.captions else []
    found.turns += [len(record.turns)] if record.turns else []
    found.tokens.append(_length(example["token_ids"], tokenizer.end_token_id))
    found.cut += [cut] if cut else []
    if is_shown and len(found.shown) < SHOWN:
        found.shown.append(Shown(record, size, shape, example, cut))


def _length(token_ids: np.ndarray, end: int) -> int:
    """Tokens up to the last one that is not padding."""
    (places,) = np.nonzero(token_ids != end)
    return int(places[-1]) + 1 if len(places) else 0


def summary(found: Survey) -> list[tuple[str, str]]:
    """The report of one source: lines of (label, figure), in order; figures that say nothing are left out."""
    config, looked = found.config, found.looked_at
    aspects = [width / height for height, width in found.sizes]
    lines = [
        ("source", f"{config.name} ({config.format}, {config.task}, weight {config.weight:g})"),
        ("records", f"{found.records:,}, looked at {looked:,}"),
        ("encoded", found.kind) if found.kind != IMAGES else None,
        ("bad", _causes(found.bad, looked)),
        ("filtered out", f"{found.filtered} ({found.filtered / looked:.1%})"),
        ("without an image", f"{found.without_image}") if found.without_image else None,
        ("image width", _spread([width for _, width in found.sizes], "px")),
        ("image height", _spread([height for height, _ in found.sizes], "px")),
        ("width / height", _spread(aspects, "")),
        ("smaller than the model sees", _smaller(found)),
        ("caption length", _spread(found.caption_lengths, "characters")),
        ("turns of a dialogue", _spread(found.turns, "")),
        ("tokens of an example", _spread(found.tokens, "")),
        ("texts that lost tokens", f"{len(found.cut)} ({sum(found.cut)} tokens)"),
        ("shapes", ", ".join(f"{shape_name(s)}: {n}" for s, n in found.shapes.most_common())),
        ("examples per second", f"{found.examples_per_second:.0f} on one thread"),
    ]
    return [line for line in lines if line is not None and line[1]]


def figures(found: Survey) -> dict[str, Any]:
    """The same figures as numbers, for programs: counts, and the quartiles of what varies (least, 25 %, ..., most)."""
    config = found.config
    return {
        "name": config.name,
        "format": config.format,
        "task": config.task,
        "weight": config.weight,
        "stores": found.kind,
        "records": found.records,
        "looked_at": found.looked_at,
        "bad": dict(found.bad),
        "messages": found.messages,
        "filtered": found.filtered,
        "without_image": found.without_image,
        "image_height": _quartiles([height for height, _ in found.sizes]),
        "image_width": _quartiles([width for _, width in found.sizes]),
        "caption_length": _quartiles(found.caption_lengths),
        "turns": _quartiles(found.turns),
        "tokens": _quartiles(found.tokens),
        "texts_cut": len(found.cut),
        "tokens_cut": sum(found.cut),
        "shapes": {shape_name(shape): count for shape, count in found.shapes.most_common()},
        "examples_per_second": found.examples_per_second,
    }


def shape_name(shape: Shape) -> str:
    return "no image" if shape is None else f"{shape[0]} x {shape[1]}"


def _causes(bad: Counter, looked: int) -> str:
    total = bad.total()
    causes = ", ".join(f"{count} {cause}" for cause, count in bad.most_common())
    return f"{total} ({total / looked:.1%})" + (f": {causes}" if causes else "")


def _smaller(found: Survey) -> str:
    """How many images are smaller than the model's and have to be enlarged."""
    least = min(min(size) for size in found.config.sizes())
    count = sum(min(size) < least for size in found.sizes)
    return f"{count} ({count / len(found.sizes):.1%})" if found.sizes else ""


def _spread(values: Sequence[float], unit: str) -> str:
    """Range, quartiles and median; "" of no values."""
    if not values:
        return ""
    low, quarter, middle, most, high = _quartiles(values)
    text = f"{low:.4g} to {high:.4g}, half of them {quarter:.4g} to {most:.4g}, median {middle:.4g}"
    return f"{text} {unit}".strip()


def _quartiles(values: Sequence[float]) -> list[float]:
    """The least, the quartiles and the most; [] of no values."""
    return np.percentile(values, [0, 25, 50, 75, 100]).tolist() if values else []
