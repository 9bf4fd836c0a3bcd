"""Stage 1: the frozen T5 learns to read masks. Text diffusion trains one row of its embedding and nothing else.

    python main.py --mode=train --config=configs/align_mask_embedding.py --workdir=runs/align \\
        --config.init_from=MODEL_DIR

MODEL_DIR: a model whose text head is trained. A fresh text head is zero and gives the row no gradient, so with
SD3-medium's weights train the head together with the row:
    --config.train.trainable='("t5.embedding[mask]", "mmdit.text_out.*")'

Hardware: one H100 or a v5e-8; the row is 4096 numbers, so the optimizer state is tiny.
Data: captions of ShareGPT4V-pretrain, the authors' choice (data/sharegpt4v/metadata.json).
"""

from dualdiff_jax.config import empty_config, published

SIZE = dict(height=256, width=256)


def get_config():
    config = empty_config()
    config.model.update(published.D_DIT_2B)
    config.model.sampling.update(SIZE)
    config.data.tokenizer = "dualdiff_jax/data/t5_tokenizer"
    captions = dict(name="captions", task="captioning", root="data/sharegpt4v", files="metadata.json")
    config.data.sources = [captions | SIZE]
    config.objective.update(image_weight=0.0, text_weight=1.0)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=100, clip_norm=1.0, ema_decay=0.99)
    config.train.update(steps=5000, global_batch_size=256, trainable=("t5.embedding[mask]",))
    config.init_from = ""
    return config
