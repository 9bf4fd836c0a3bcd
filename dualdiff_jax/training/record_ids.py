"""Which records a batch was made of: the order of the data, run through with the records' ids in place of examples."""

import hashlib

import grain
import jax

from dualdiff_jax.config import RunConfig, SourceConfig
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.data.tokenizer import Tokenizer


class _Ids(Mixture):
    """The same streams, with an id for each example."""

    def _examples_of(self, source: SourceConfig) -> grain.MapDataset:
        seed = int.from_bytes(hashlib.sha256(f"{self._seed}/{source.name}".encode()).digest()[:4], "big")
        records = grain.MapDataset.source(self._sources[source.name]).seed(seed)
        return records.shuffle().repeat(None).map(lambda record: record.record_id)


def record_ids(config: RunConfig, tokenizer: Tokenizer, step: int) -> dict[str, list[str]]:
    """The ids in this host's part of batch ``step``, counted from 0, by stream."""
    ids = _Ids(
        config.data,
        tokenizer,
        seed=config.seed,
        global_batch_size=config.train.global_batch_size,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    batch = ids.batch(step)
    return {"image_stream": [str(one) for one in batch.image], "text_stream": [str(one) for one in batch.text]}
