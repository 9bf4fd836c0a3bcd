"""The input of a training step."""

from typing import NamedTuple, Required, TypedDict

import numpy as np


class Example(TypedDict, total=False):
    """All examples of a batch have the same fields: image, or latent_mean, or neither for a text without an image."""

    image: np.ndarray  # (h, w, 3) uint8; in a batch fp32 in [-1, 1]
    latent_mean: np.ndarray  # (h, w, c), of the autoencoder's posterior
    latent_log_variance: np.ndarray  # (h, w, c), where the posterior has one
    text_embeddings: np.ndarray  # (l, d), T5's of token_ids
    token_ids: Required[np.ndarray]  # (l,) int32
    is_answer: Required[np.ndarray]  # (l,) bool, True where the text loss may mask


class Batch(NamedTuple):
    """One step's batches on the host: examples with a leading batch dim, or None for a stream that is not read."""

    image: Example | None = None
    text: Example | None = None
