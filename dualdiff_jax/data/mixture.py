"""Two endless streams of batches whose order is a function of (config, seed, step).

image stream: the ``image_generation`` sources; text stream: ``captioning`` and ``instruction``. In each
    numbers of a source's records of one shape -> shuffled anew every epoch -> example
            -> mixed by weight -> cut into batches -> shapes mixed batch by batch
so batch n needs no history: a resumed run starts at n, on any number of hosts and with any number of readers.
At every step both streams have the same image size, since both mix the sizes by the weights of the image
stream; only texts without an image have text batches of their own, in which there is no image. A stream that is
not asked for is not read, and its sources are not opened.
"""

import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import grain
import numpy as np
from absl import flags

from dualdiff_jax.config import DataConfig, SourceConfig
from dualdiff_jax.data.bad_records import BadRecords, Origin
from dualdiff_jax.data.batch import Batch, Example
from dualdiff_jax.data.catalog import Shape, divide
from dualdiff_jax.data.encoded import kind_of, refuse_mixed
from dualdiff_jax.data.examples import ExampleMaker
from dualdiff_jax.data.fingerprint import DataFingerprint, source_fingerprint
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.images import normalize
from dualdiff_jax.data.reader_watchdog import ReadingNotes, with_watchdog
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.manifest import LATENTS_AND_TEXT
from dualdiff_jax.data.records.record import Source
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path


class ShapedRecords(NamedTuple):
    """The records of one source that have one shape."""

    source: SourceConfig
    records: grain.MapDataset  # endless, (Example, Origin)
    weight: float  # the source's, by the share of its records


ByShape = Mapping[Shape, Sequence[ShapedRecords]]


STREAMS = ("image", "text")


class Mixture:
    """The streams of a data config. Opens and checks every source that they read.

    Args:
        config: sources and how to read them.
        tokenizer: makes tokens of their texts.
        streams: which of ``STREAMS`` to read.
        seed: of the order, and of the choices among captions and turns.
        global_batch_size: examples of each stream in a step, B.
        host: this host; it reads rows [host * B / hosts, (host + 1) * B / hosts) of each batch.
        hosts: how many there are.

    Raises:
        UserError: a source cannot be used, the streams cannot have the same image sizes, or B does not divide over the
            hosts.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: Tokenizer,
        *,
        streams: Sequence[str] = STREAMS,
        seed: int,
        global_batch_size: int,
        host: int = 0,
        hosts: int = 1,
    ):
        if global_batch_size % hosts:
            raise UserError(
                f"train.global_batch_size {global_batch_size} does not divide over {hosts} hosts; give a multiple"
            )
        self._config, self._tokenizer, self._seed, self._streams = config, tokenizer, seed, tuple(streams)
        self._host, self._hosts, self._per_host_batch_size = host, hosts, global_batch_size // hosts
        cache = self._cache = IndexCache.of(config)
        read = [source for source in config.sources if source.stream in streams]
        self._kinds = {source.name: kind_of(source, config, tokenizer) for source in read}
        self._notes = ReadingNotes()
        self._sources = {source.name: open_source(source, cache) for source in read}
        by_stream: dict[str, dict[Shape, list[ShapedRecords]]] = {stream: {} for stream in streams}
        for source in read:
            division = divide(source, self._sources[source.name], cache)
            total = sum(map(len, division.values()))
            for shape, indexes in division.items():
                examples = self._examples(source, self._sources[source.name], shape, indexes)
                records = ShapedRecords(source, examples, source.weight * len(indexes) / total)
                by_stream[source.stream].setdefault(shape, []).append(records)
        for stream, shapes in by_stream.items():
            names = [records.source.name for shape in shapes if shape for records in shapes[shape]]
            refuse_mixed(stream, [(name, self._kinds[name]) for name in names])
        self._steps = _Steps(self._batches_by_stream(by_stream))
        self.bad_records = BadRecords(config.max_bad_share)

    def counts(self) -> dict[str, int]:
        """Records per source."""
        return {name: len(source) for name, source in self._sources.items()}

    def fingerprint(self) -> DataFingerprint:
        """The fingerprint of every source, as the data were when it was first asked for.

        If it changes, step n is another batch. Raises ``UserError`` if a file cannot be read, and ``StuckError`` if a
        source takes longer than ``data.patience``.
        """
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> DataFingerprint:
        roots = {source.name: source.root for source in self._config.sources}
        found = (
            (name, source_fingerprint(source, roots[name], self._cache, self._notes))
            for name, source in self._sources.items()
        )
        return dict(itertools.islice(with_watchdog(found, self._notes, self._config.patience), len(self._sources)))

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """Yields batches first_step, first_step + 1, ..., read ahead by threads, in worker processes if there are any.

        Raises:
            UserError: too many records are bad, or a reader dies or hangs; the message names its records.
        """
        options = grain.ReadOptions(
            num_threads=self._config.read_threads, prefetch_buffer_size=self._config.prefetch_batches
        )
        steps = grain.MapDataset.source(self._steps)[first_step:].to_iter_dataset(options)
        if self._config.workers:
            if not flags.FLAGS.is_parsed():  # Grain's worker processes want to read them
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=self._config.workers)
            steps = steps.mp_prefetch(options)  # runtime/readers.py ends the processes with the run
        for rows in with_watchdog(iter(steps), self._notes, self._config.patience):
            yield self._count(rows)

    def batch(self, step: int) -> Batch:
        """The batch of one step, read now."""
        return self._count(self._steps[step])

    def origins(self, step: int) -> dict[str, Sequence[Origin]]:
        """The records that the rows of a step's batches come from, by stream."""
        return {stream: origins for stream, (_, origins) in self._steps[step].items()}

    def record_ids(self, step: int) -> dict[str, list[str]]:
        """The ids of the records in this host's part of a step's batches, by ``image_stream`` and ``text_stream``."""
        return {f"{stream}_stream": [o.record_id for o in found] for stream, found in self.origins(step).items()}

    def report_to(self, workdir: str | Path) -> None:
        """Names bad records in ``bad_records.jsonl`` there from now on, with the host's number in the name beyond 0."""
        self.bad_records.write_to(as_path(workdir) / f"bad_records{f'.{self._host}' if self._host else ''}.jsonl")

    def _count(self, rows: "Rows") -> Batch:
        for _, origins in rows.values():
            for origin in origins:
                self.bad_records.note(origin)
        return Batch(**{stream: arrays for stream, (arrays, _) in rows.items()})

    def _examples(
        self, config: SourceConfig, source: Source, shape: Shape, indexes: Sequence[int] | np.ndarray
    ) -> grain.MapDataset:
        has_text_embeddings = self._kinds[config.name] == LATENTS_AND_TEXT
        maker = ExampleMaker(
            *(config, self._config, self._tokenizer, source, shape, indexes, self._notes, has_text_embeddings),
            kept=self._cache.kept,
        )
        name = f"{self._seed}/{config.name}" + (f"/{shape}" if shape != (config.height, config.width) else "")
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        return grain.MapDataset.range(len(indexes)).seed(seed).shuffle().repeat(None).random_map(maker)

    def _batches_by_stream(self, by_stream: Mapping[str, ByShape]) -> dict[str, grain.MapDataset]:
        """Batches by stream, of the same image size at every step."""
        image, text = by_stream.get("image"), by_stream.get("text")
        if image is not None and None in image:
            names = ", ".join(records.source.name for records in image[None])
            raise UserError(f"data.sources {names}: has texts without an image, which cannot be drawn from")
        sizes = [shape for shape in (image if image is not None else text or {}) if shape is not None]
        found = {}
        if image is not None:
            found["image"] = _mix([self._batches_of(image[size]) for size in sizes], _weights(image, sizes))
        if text is not None:
            without_image = text.get(None, [])
            if not sizes:
                return found | {"text": self._batches_of(without_image)}
            _check_sizes(text, sizes)
            shares = [sum(_weights(text, sizes)), sum(records.weight for records in without_image)]
            batches = [
                _mix([self._batches_of(records) for records in (text[size], without_image) if records], shares)
                for size in sizes
            ]
            found["text"] = _mix(batches, _weights(image if image is not None else text, sizes))
        return found

    def _batches_of(self, sources: Sequence[ShapedRecords]) -> grain.MapDataset:
        mixed = _mix([source.records for source in sources], [source.weight for source in sources])
        batches = mixed.batch(self._per_host_batch_size, drop_remainder=True, batch_fn=_stack)
        return batches[self._host :: self._hosts]


Rows = dict[str, tuple[Example, Sequence[Origin]]]  # stream -> its batch of one step, and where each row comes from


class _Steps:
    """All streams at once, so that one set of readers serves them."""

    def __init__(self, streams: Mapping[str, grain.MapDataset]):
        self._streams = streams

    def __len__(self) -> int:
        return min(len(stream) for stream in self._streams.values())

    def __getitem__(self, index: Any) -> Rows:
        return {name: cast(Any, stream[int(index)]) for name, stream in self._streams.items()}


def _weights(by_shape: ByShape, sizes: Sequence[Shape]) -> list[float]:
    return [sum(records.weight for records in by_shape[size]) for size in sizes]


def _check_sizes(text: ByShape, sizes: Sequence[Shape]) -> None:
    for size in sizes:
        if size is not None and size not in text:
            raise UserError(
                f"no captioning or instruction source has an image for {size[0]} x {size[1]}, to which "
                "image_generation sources have some; leave that size out of buckets"
            )


def _mix(datasets: Sequence[grain.MapDataset], weights: Sequence[float]) -> grain.MapDataset:
    return grain.MapDataset.mix(datasets, weights[: len(datasets)]) if len(datasets) > 1 else datasets[0]


def _stack(examples: Sequence[tuple[Example, Origin]]) -> tuple[Example, list[Origin]]:
    """Examples as one batch; images become fp32 in [-1, 1] on the way."""
    arrays: list[dict[str, np.ndarray]] = [cast(Any, example) for example, _ in examples]
    origins = [origin for _, origin in examples]
    batch = {name: np.stack([a[name] for a in arrays]) for name in arrays[0] if name != "image"}
    if "image" in arrays[0]:
        images = np.empty((len(arrays), *arrays[0]["image"].shape), np.float32)
        for number, example in enumerate(arrays):
            normalize(example["image"], images[number])
        batch = {"image": images} | batch
    return cast(Example, batch), origins
