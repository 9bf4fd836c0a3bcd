"""Two endless streams of batches whose order is a function of (config, seed, step).

image stream: the ``image_generation`` sources; text stream: ``captioning`` and ``instruction``. In each
    numbers of a source's records of one shape -> shuffled anew every epoch -> example
            -> mixed by weight -> cut into batches -> shapes mixed batch by batch
so batch n needs no history: resuming is starting at n, on any number of hosts and with any number of readers.
At every step both streams have the same image size, since both mix the sizes by the weights of the image
stream; only texts without an image have text batches of their own, in which there is no image.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import grain
import numpy as np
from absl import flags

from dualdiff_jax.config import DataConfig, SourceConfig
from dualdiff_jax.data.bad_records import BadRecords, Origin
from dualdiff_jax.data.batch import Batch, Example
from dualdiff_jax.data.catalog import Shape, divide
from dualdiff_jax.data.encoded import kind_of, refuse_mixed
from dualdiff_jax.data.examples import ExampleMaker
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.images import normalize
from dualdiff_jax.data.reader_watchdog import ReadingNotes, watched
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.manifest import LATENTS_AND_TEXT
from dualdiff_jax.data.records.record import Source
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError


class ShapedRecords(NamedTuple):
    """The records of one source that have one shape."""

    source: SourceConfig
    records: grain.MapDataset  # endless, (Example, Origin)
    weight: float  # the source's, by the share of its records


class Mixture:
    """The streams of ``config``. Opens and checks every source, and raises their ``UserError``.

    ``global_batch_size`` examples of each stream make a step; this host reads rows
    [host * B / hosts, (host + 1) * B / hosts) of each.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: Tokenizer,
        *,
        seed: int,
        global_batch_size: int,
        host: int = 0,
        hosts: int = 1,
    ):
        if global_batch_size % hosts:
            raise UserError(
                f"train.global_batch_size {global_batch_size} does not divide over {hosts} hosts; give a multiple"
            )
        self._config, self._tokenizer, self._seed = config, tokenizer, seed
        self._host, self._hosts, self._per_host_batch_size = host, hosts, global_batch_size // hosts
        cache = IndexCache(config.index_cache)
        self._kinds = {source.name: kind_of(source, config, tokenizer) for source in config.sources}
        self._notes = ReadingNotes()
        self._sources = {source.name: open_source(source, cache) for source in config.sources}
        parts: dict[bool, dict[Shape, list[ShapedRecords]]] = {True: {}, False: {}}
        for source in config.sources:
            division = divide(source, self._sources[source.name], cache)
            total = sum(map(len, division.values()))
            for shape, indexes in division.items():
                examples = self._examples(source, self._sources[source.name], shape, indexes)
                part = ShapedRecords(source, examples, source.weight * len(indexes) / total)
                parts[source.task == "image_generation"].setdefault(shape, []).append(part)
        for stream, of in (("image", parts[True]), ("text", parts[False])):
            sources = [part.source.name for shape in of if shape for part in of[shape]]
            refuse_mixed(stream, [(name, self._kinds[name]) for name in sources])
        self._steps = _Steps(*self._streams(parts[True], parts[False]))
        self.bad_records = BadRecords(config.max_bad_share)

    def fingerprint(self) -> dict[str, int]:
        """Records per source: if it changes, step n is another batch."""
        return {name: len(source) for name, source in self._sources.items()}

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """Batches first_step, first_step + 1, ..., read ahead by threads, in worker processes where there are some.

        Raises ``UserError`` where too many records are bad, or where a reader dies or hangs, with what it read.
        """
        options = grain.ReadOptions(
            num_threads=self._config.read_threads, prefetch_buffer_size=self._config.prefetch_batches
        )
        steps = grain.MapDataset.source(self._steps)[first_step:].to_iter_dataset(options)
        if self._config.workers:
            if not flags.FLAGS.is_parsed():  # Grain's worker processes want to read them
                flags.FLAGS.mark_as_parsed()
            steps = steps.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._config.workers))
        for rows in watched(iter(steps), self._notes, self._config.patience):
            yield self._count(rows)

    def batch(self, step: int) -> Batch:
        """The batch of one step, read now."""
        return self._count(self._steps[step])

    def origins(self, step: int) -> tuple[Sequence[Origin], Sequence[Origin]]:
        """Which records the rows of a step's two batches come from."""
        return tuple(origins for _, origins in self._steps[step])

    def record_ids(self, step: int) -> dict[str, list[str]]:
        """The ids of the records in this host's part of a step's batches, by stream."""
        names = ("image_stream", "text_stream")
        return {name: [o.record_id for o in of] for name, of in zip(names, self.origins(step), strict=True)}

    def report_to(self, workdir: str | Path) -> None:
        """From now on the bad records are named in ``bad_records.jsonl`` there, with the host's number beyond 0."""
        self.bad_records.write_to(Path(workdir) / f"bad_records{f'.{self._host}' if self._host else ''}.jsonl")

    def _count(self, rows: "Rows") -> Batch:
        for _, origins in rows:
            for origin in origins:
                self.bad_records.note(origin)
        return Batch(*(arrays for arrays, _ in rows))

    def _examples(
        self, config: SourceConfig, source: Source, shape: Shape, indexes: Sequence[int] | np.ndarray
    ) -> grain.MapDataset:
        is_stored = self._kinds[config.name] == LATENTS_AND_TEXT
        maker = ExampleMaker(config, self._config, self._tokenizer, source, shape, indexes, self._notes, is_stored)
        name = f"{self._seed}/{config.name}" + (f"/{shape}" if shape != (config.height, config.width) else "")
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        return grain.MapDataset.range(len(indexes)).seed(seed).shuffle().repeat(None).random_map(maker)

    def _streams(
        self, image: Mapping[Shape, list[ShapedRecords]], text: Mapping[Shape, list[ShapedRecords]]
    ) -> tuple[grain.MapDataset, grain.MapDataset]:
        """(batches to draw, batches to read), of the same size at every step."""
        if None in image:
            names = ", ".join(part.source.name for part in image[None])
            raise UserError(f"data.sources {names}: has texts without an image, which cannot be drawn from")
        texts = text.get(None, [])
        for shape in image:
            if shape not in text:
                raise UserError(
                    f"no captioning or instruction source has an image for {shape[0]} x {shape[1]}, to which "
                    "image_generation sources have some; leave that size out of buckets"
                )
        with_image = sum(part.weight for shape in image for part in text[shape])
        without = sum(part.weight for part in texts)
        weights = [sum(part.weight for part in parts) for parts in image.values()]
        images, readings = [], []
        for shape in image:
            images.append(self._batches_of(image[shape]))
            reading = [self._batches_of(text[shape])] + ([self._batches_of(texts)] if texts else [])
            readings.append(_mix(reading, [with_image, without][: len(reading)]))
        return _mix(images, weights), _mix(readings, weights)

    def _batches_of(self, parts: Sequence[ShapedRecords]) -> grain.MapDataset:
        mixed = _mix([part.records for part in parts], [part.weight for part in parts])
        batches = mixed.batch(self._per_host_batch_size, drop_remainder=True, batch_fn=_stack)
        return batches[self._host :: self._hosts]


Rows = tuple[tuple[Example, Sequence[Origin]], tuple[Example, Sequence[Origin]]]


class _Steps:
    """Both streams side by side, so that one set of readers serves both."""

    def __init__(self, image: grain.MapDataset, text: grain.MapDataset):
        self._image, self._text = image, text

    def __len__(self) -> int:
        return min(len(self._image), len(self._text))

    def __getitem__(self, step: int) -> Rows:
        return self._image[step], self._text[step]


def _mix(datasets: Sequence[grain.MapDataset], weights: Sequence[float]) -> grain.MapDataset:
    return grain.MapDataset.mix(datasets, weights) if len(datasets) > 1 else datasets[0]


def _stack(examples: Sequence[tuple[Example, Origin]]) -> tuple[Example, list[Origin]]:
    arrays, origins = [example for example, _ in examples], [origin for _, origin in examples]
    batch = {name: np.stack([a[name] for a in arrays]) for name in arrays[0] if name != "image"}
    if "image" not in arrays[0]:
        return batch, origins
    images = np.empty((len(arrays), *arrays[0]["image"].shape), np.float32)
    for example, image in zip(arrays, images, strict=True):
        normalize(example["image"], image)
    return {"image": images} | batch, origins
