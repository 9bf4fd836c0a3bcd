"""Two endless streams of batches whose order is a function of (config, seed, step).

image stream: the ``image_generation`` sources; text stream: ``captioning`` and ``instruction``. In each
    records -> shuffled anew every epoch -> example -> mixed by weight (sources of one image size)
            -> cut into batches -> sizes mixed batch by batch
so batch n needs no history: resuming is starting at n. Both streams have the same size at every step,
since they mix the sizes by the same weights (those of the image stream).
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import grain

from dualdiff_jax.config import DataConfig, SourceConfig
from dualdiff_jax.data.examples import Example, ExampleMaker
from dualdiff_jax.data.sources import JsonSource
from dualdiff_jax.data.tokenizer import Tokenizer


class Batch(NamedTuple):
    """One step's two batches on the host; each field of an Example with a leading batch dim."""

    image: Example
    text: Example


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
        self._config, self._tokenizer, self._seed = config, tokenizer, seed
        self._host, self._hosts, self._per_host_batch_size = host, hosts, global_batch_size // hosts
        self._sources = {source.name: JsonSource(source) for source in config.sources}
        self._image = self._stream(is_image=True)
        self._text = self._stream(is_image=False)

    def fingerprint(self) -> dict[str, int]:
        """Records per source: if it changes, step n is another batch."""
        return {name: len(source) for name, source in self._sources.items()}

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """Batches first_step, first_step + 1, ..., read ahead by threads."""
        options = grain.ReadOptions(
            num_threads=self._config.read_threads, prefetch_buffer_size=self._config.prefetch_batches
        )
        streams = [stream[first_step:].to_iter_dataset(options) for stream in (self._image, self._text)]
        return map(Batch, *streams)

    def batch(self, step: int) -> Batch:
        """The batch of one step, read now."""
        return Batch(self._image[step], self._text[step])

    def _stream(self, *, is_image: bool) -> grain.MapDataset:
        weights: dict[tuple[int, int], float] = {}
        groups: dict[tuple[int, int], list[SourceConfig]] = {}
        for source in self._config.sources:
            size, generates = (source.height, source.width), source.task == "image_generation"
            if generates:
                weights[size] = weights.get(size, 0.0) + source.weight
            if generates == is_image:
                groups.setdefault(size, []).append(source)
        batches = [self._batches_of(groups[size]) for size in weights]
        return grain.MapDataset.mix(batches, list(weights.values())) if len(batches) > 1 else batches[0]

    def _batches_of(self, sources: list[SourceConfig]) -> grain.MapDataset:
        examples = [self._examples_of(source) for source in sources]
        weights = [source.weight for source in sources]
        mixed = grain.MapDataset.mix(examples, weights) if len(examples) > 1 else examples[0]
        return mixed.batch(self._per_host_batch_size, drop_remainder=True)[self._host :: self._hosts]

    def _examples_of(self, source: SourceConfig) -> grain.MapDataset:
        maker = ExampleMaker(source, self._config, self._tokenizer)
        seed = int.from_bytes(hashlib.sha256(f"{self._seed}/{source.name}".encode()).digest()[:4], "big")
        records = grain.MapDataset.source(self._sources[source.name]).seed(seed)
        return records.shuffle().repeat(None).random_map(maker)
