"""easy-VQA, last of three stages: the published questions, after ``configs/easy_vqa_{hints,balanced}.py``.

    make easy-vqa
or, once the second stage is there,
    python main.py --mode=train --config=configs/easy_vqa.py --workdir=runs/easy_vqa/train

Hardware: 2 CPU cores. Scores of the test split: benchmarks/results/easy_vqa.json.
"""

from dualdiff_jax.config import empty_config

DATA = "runs/easy_vqa/data"
SIDE, PATCH = 64, 8  # pixels; identity latents
VOCABULARY = 40  # words of the tokenizer
LENGTH = 13  # tokens of the longest question, its answer and the end


def get_config():
    config = common()
    config.data.sources = [source("questions", "")]
    config.optimizer.update(learning_rate=2e-3, schedule="cosine")
    config.train.steps = 300
    config.init_from = "runs/easy_vqa/balanced/model"
    return config


def common():
    """What all stages share."""
    config, grid = empty_config(), SIDE // PATCH
    config.model.compute_dtype = "float32"
    config.model.mmdit.update(
        depth=3, width=64, heads=2, vocab_size=VOCABULARY, patch_size=PATCH, position_grid=grid, position_base=grid
    )
    config.model.t5.update(vocab_size=VOCABULARY, width=64, depth=2, heads=4, head_dim=16, mlp_width=128)
    config.model.sampling.update(
        height=SIDE, width=SIDE, answer_length=LENGTH, answer_steps=2, text_order="confidence", batch_size=128
    )
    config.data.update(tokenizer=f"{DATA}/tokenizer", text_length=LENGTH, read_threads=1)
    config.objective.update(image_weight=0.0, text_weight=1.0, text_normalization="answer_tokens")
    config.optimizer.update(name="muon", learning_rate=2e-2, warmup_steps=100, clip_norm=0.5, ema_decay=0.99)
    config.train.update(global_batch_size=64, trainable=("mmdit.*", "t5.*"), save_every=200)
    return config


def source(name, files, **fields):
    sizes = dict(height=SIDE, width=SIDE)
    return dict(
        name=name, root=DATA, files=files, task="instruction", format="vqa_v2", question_suffix="", **sizes, **fields
    )
