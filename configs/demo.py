"""The demo: handwritten digits on a CPU, text to image and image to text.

    make demo
or, once ``python -m demo.data`` has written the data,
    python main.py --mode=train --config=configs/demo.py --workdir=runs/demo

Hardware: 2 CPU cores, about 11 minutes. Expected scores: benchmarks/results/demo.json.
"""

from dualdiff_jax.config import empty_config

DATA = "runs/demo/data"
DIGITS, PAIRS = dict(height=8, width=8), dict(height=8, width=16)
TWO_CAPTIONS = dict(caption_keys=("caption", "re_caption"), caption_weights=(0.5, 0.5))
VOCABULARY = 33  # words of the demo's tokenizer


def get_config():
    config = empty_config()
    config.model.compute_dtype = "float32"
    config.model.mmdit.update(depth=3, width=96, heads=3, vocab_size=VOCABULARY, position_grid=16, position_base=16)
    config.model.t5.update(vocab_size=VOCABULARY, width=64, depth=2, heads=4, head_dim=16, mlp_width=128)
    config.model.autoencoder.channels = 1
    config.model.sampling.update(
        DIGITS,
        text_length=12,
        guidance_scale=4.0,
        sigma_shift=1.0,
        caption_length=12,
        caption_steps=12,
        answer_length=12,
        answer_steps=3,
        text_order="confidence",
        batch_size=64,
    )
    config.data.tokenizer = f"{DATA}/tokenizer"
    config.data.update(text_length=12, read_threads=1, cache_images=32768)
    config.data.sources = [
        source("digits", "digits.json", "image_generation", 1.0, **DIGITS, **TWO_CAPTIONS),
        source("pairs", "pairs.json", "image_generation", 2.0, **PAIRS),
        source("digit_captions", "moved_digits.json", "captioning", 2.0, **DIGITS, **TWO_CAPTIONS),
        source("digit_questions", "moved_digits.json", "instruction", 1.0, **DIGITS),
        source("pair_captions", "moved_pairs.json", "captioning", 1.0, **PAIRS),
    ]
    config.objective.update(text_weight=2.0)
    config.optimizer.update(name="muon", learning_rate=4e-3, schedule="cosine", warmup_steps=100, weight_decay=0.05)
    config.optimizer.ema_decay = 0.995
    config.train.update(steps=4400, global_batch_size=32, trainable=("mmdit.*", "t5.*"), save_every=1100)
    config.preview.every = 2200
    config.preview.prompts = tuple(
        f"a handwritten {word}" for word in ("zero", "two", "three", "five", "eight", "nine")
    )
    config.preview.images = tuple(f"{DATA}/held_out/{index:05d}.png" for index in range(6))
    config.preview.question = "which digit is this?"
    return config


def source(name, files, task, weight, **fields):
    return dict(name=name, root=DATA, files=files, task=task, weight=weight, **fields)
