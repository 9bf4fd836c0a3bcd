"""Stage 1: the frozen T5 learns to read masks. One row of its embedding is trained, by text diffusion, nothing else.

    python main.py --mode=train --config=configs/align_mask_embedding.py --workdir=runs/align \\
        --config.init_from=MODEL_DIR

MODEL_DIR: a model whose text head reads already. A fresh text head is zero and gives the row no gradient; from
SD3-medium's weights, train the head beside the row:
    --config.train.trainable='("t5.embedding[mask]", "mmdit.text_out.*")'

Hardware: one H100 or a v5e-8; the row is 4096 numbers, so there is no optimizer state to speak of.
Data: captions of ShareGPT4V-pretrain, as the authors say they did (data/sharegpt4v/metadata.json).
"""

from dualdiff_jax.config import empty_config, published

SIZE = dict(height=256, width=256)


def get_config():
    config = empty_config()
    config.model.update(published.D_DIT_2B)
    config.model.sampling.update(SIZE)
    config.data.tokenizer = "dualdiff_jax/data/t5_tokenizer"
    captions = dict(root="data/sharegpt4v", files="metadata.json", **SIZE)
    config.data.sources = [
        dict(name="captions", task="captioning", **captions),
        dict(name="beside", task="image_generation", **captions),  # not used: the objective leaves images out
    ]
    config.objective.update(image_weight=0.0, text_weight=1.0)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=100, clip_norm=1.0, ema_decay=0.99)
    config.train.update(steps=5000, global_batch_size=256, trainable=("t5.embedding[mask]",))
    config.init_from = ""
    return config
