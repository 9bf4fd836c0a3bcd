"""What the choices of text sampling cost and give, on the demo's model: passes a caption, and captions that are right.

    python -m benchmarks.text_orders --model=runs/demo/model

Every row reads all held-out digits, with one seed. ``passes`` is the mean number of evaluations of the network that a
caption took part in, ``right`` the share of captions that are right word for word, as the demo's report counts them.
``t5_8_bits`` compares T5 with its kernels in 8 bits with T5 as it is: the relative error of the embeddings of all
captions, and of what is predicted for held-out digits whose captions are half masked, by how much a log-probability
above -7 (one in a thousand) differs.
"""

import argparse
import itertools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image

from benchmarks import record
from demo.digits import CAPTIONS, WORDS, Digits, load
from demo.samples import ANCESTRAL_STEPS
from demo.scores import is_caption
from dualdiff_jax.data.images import read_image
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.runtime import environment

LIKELY = -7.0  # nats
MANY_STEPS = 2048
ROWS: tuple[dict[str, Any], ...] = (
    {"order": "confidence", "steps": 12, "early_stop": False},
    {"order": "confidence", "steps": 12},
    {"order": "confidence", "steps": 4},
    *({"order": "threshold", "threshold": bound} for bound in (0.5, 0.7, 0.9, 0.95)),
    *({"order": "entropy_bound", "entropy_bound": bound} for bound in (0.1, 0.3, 0.7)),
    {"order": "confidence", "steps": 12, "exit_margin": 8.0},
    {"order": "ancestral", "steps": ANCESTRAL_STEPS},
    {"order": "ancestral", "steps": ANCESTRAL_STEPS, "anchor_end": False},
    {"order": "ancestral", "steps": ANCESTRAL_STEPS, "remask": 0.05, "early_stop": False},
    {"order": "ancestral", "steps": ANCESTRAL_STEPS, "temperature": 0.7},
    {"order": "ancestral", "steps": MANY_STEPS},  # so that no two tokens are drawn at once
    *(
        {"order": "ancestral", "steps": ANCESTRAL_STEPS, "length": length, "anchor_end": anchor_end}
        for length in (8, 7, 6, 5)
        for anchor_end in (True, False)
    ),
)


def captions(pipeline: DualDiffusionPipeline, held_out: Digits, seed: int, **options: Any) -> dict[str, float]:
    """(mean passes, share of right captions) of one way to sample."""
    length, images = pipeline.config.sampling.caption_length, list(held_out.images)
    nothing = np.zeros(0, np.int32)
    given = {"length": length, "steps": None, "seed": seed, "early_stop": True} | options  # as in image_to_text
    sample = pipeline.generate_text(images, [nothing] * len(images), **given)
    texts = map(pipeline.tokenizer.decode, np.asarray(sample.token_ids))
    right = [is_caption(text, (int(label),)) for text, label in zip(texts, held_out.labels, strict=True)]
    return {"passes": round(float(sample.passes.mean()), 2), "right": round(float(np.mean(right)), 4)}


def orders(pipeline: DualDiffusionPipeline, held_out: Digits, seed: int, **row: Any) -> Iterator[dict[str, Any]]:
    """One figure for each of ``ROWS``; ``row`` is written into each."""
    for options in ROWS:
        yield row | options | captions(pipeline, held_out, seed, **options)


def t5_8_bits(model: str, held_out: Digits, seed: int) -> dict[str, float]:
    """How far T5 in 8 bits is from T5 as it is."""
    exact, rounded = (
        DualDiffusionPipeline.from_pretrained(model),
        DualDiffusionPipeline.from_pretrained(model, t5_bits=8),
    )
    tokenizer, length = exact.tokenizer, exact.config.sampling.caption_length
    possible = [text.format(word) for text, word in itertools.product(CAPTIONS, WORDS)]
    token_ids = np.stack([tokenizer.caption_ids(text, length) for text in possible])
    ours, theirs = (np.asarray(pipe.encode_text(token_ids), np.float64) for pipe in (rounded, exact))
    texts = [CAPTIONS[i % len(CAPTIONS)].format(WORDS[label]) for i, label in enumerate(held_out.labels)]
    token_ids = np.stack([tokenizer.caption_ids(text, length) for text in texts])
    is_masked = np.random.default_rng(seed).random(token_ids.shape) < 0.5
    token_ids = np.where(is_masked, tokenizer.mask_token_id, token_ids)
    images = np.stack([read_image(PIL.Image.fromarray(image), *image.shape) for image in held_out.images])
    latents = exact.encode_image(images)
    found, expected = (np.asarray(pipe.subs_log_probs(latents, token_ids))[is_masked] for pipe in (rounded, exact))
    differences = np.abs(found - expected)[expected > LIKELY]
    return {
        "embeddings_relative_error": float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)),
        "log_probability_error_mean": float(differences.mean()),
        "log_probability_error_largest": float(differences.max()),
        "same_best_token": float((found.argmax(-1) == expected.argmax(-1)).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text_orders", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/demo/model", help="the demo's model folder")
    parser.add_argument("--output", default="benchmarks/results/text_orders.json", help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0, help="of all samples")
    options = parser.parse_args()
    environment.keep_memory()
    result = record.circumstances(len(os.sched_getaffinity(0)), ("jax", "flax", "numpy"))
    _, held_out = load()
    figures = []
    for bits in (None, 8):
        pipeline = DualDiffusionPipeline.from_pretrained(options.model, t5_bits=bits)
        figures += record.print_all(orders(pipeline, held_out, options.seed, t5_bits=bits))
    errors = t5_8_bits(options.model, held_out, options.seed)
    print(errors)
    record.write(result | {"captions": len(held_out.labels), "figures": figures, "t5_8_bits": errors}, options.output)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
