"""Fine-tuning on your own captioned images, text to image only, as one fine-tunes SD3.

    python main.py --mode=train --config=configs/finetune_t2i.py --workdir=runs/mine \\
        --config.init_from=MODEL_DIR --config.train.steps=2000

Steps have no text stream, and the text head stays as it is, so image to text may get worse. With little
memory, train low-rank factors instead; they are merged into the model folder:
    --config.train.trainable='()' --config.lora.rank=16 --config.optimizer.learning_rate=1e-4

Hardware: 8 H100 or a v5e-32; with low-rank factors, one H100.
Data: data/mine/metadata.json, a list of {"image_path", "height", "width", "ratio", "caption"}.
"""

from dualdiff_jax.config import empty_config, published

SIZE = dict(height=512, width=512)
IMAGE_PARTS = ("blocks.*", "image_*", "patch_*", "timestep_*", "text_embedding.*")  # all that images depend on


def get_config():
    config = empty_config()
    config.model.update(published.D_DIT_2B)
    config.model.sampling.update(SIZE)
    config.data.tokenizer = "dualdiff_jax/data/t5_tokenizer"
    images = dict(name="images", task="image_generation", root="data/mine", files="metadata.json")
    config.data.sources = [images | SIZE]
    config.objective.text_weight = 0.0
    config.optimizer.update(learning_rate=1e-5, warmup_steps=500, clip_norm=1.0, ema_warmup=True)
    config.train.update(steps=10_000, global_batch_size=64, trainable=tuple(f"mmdit.{part}" for part in IMAGE_PARTS))
    config.init_from = ""
    return config
