"""From a record to the arrays of one training example."""

import functools
from pathlib import Path
from typing import TypedDict

import numpy as np

from dualdiff_jax.config import DataConfig, SourceConfig
from dualdiff_jax.data.sources import Record
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.data.transforms import fit, open_image


class Example(TypedDict):
    image: np.ndarray  # (h, w, 3) fp32 in [-1, 1]
    token_ids: np.ndarray  # (l,) int32
    is_answer: np.ndarray  # (l,) bool, True where the text loss may mask


class ExampleMaker:
    """Record -> Example, with the caption chosen by ``rng`` among the source's keys by their weights.

    The last ``data.cache_images`` pictures stay in memory, resized: a small set is decoded once.
    """

    def __init__(self, source: SourceConfig, data: DataConfig, tokenizer: Tokenizer):
        self._tokenizer, self._length = tokenizer, data.text_length
        self._thresholds = np.cumsum(source.caption_weights) / sum(source.caption_weights)
        size = (source.height, source.width)

        @functools.lru_cache(maxsize=data.cache_images)
        def read(path: Path) -> np.ndarray:
            return fit(open_image(path), *size)

        self._read = read

    def __call__(self, record: Record, rng: np.random.Generator) -> Example:
        if record.captions:
            caption = record.captions[int(np.searchsorted(self._thresholds, rng.random(), side="right"))]
            token_ids = self._tokenizer.caption_ids(caption, self._length)
            is_answer = np.ones(self._length, bool)
        else:
            token_ids, is_answer = self._tokenizer.dialogue_ids(record.question, record.answer, self._length)
        return Example(image=self._read(record.image_path), token_ids=token_ids, is_answer=is_answer)
