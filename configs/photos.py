"""A LoRA of your own pictures, text to image, on any model.

    python main.py --mode=list-images --images=photos --text="a photo of my dog"
    python main.py --mode=train --config=configs/photos.py --workdir=runs/photos --config.init_from=MODEL_DIR

The model, its tokenizer and the size of its images are those of MODEL_DIR. docs/your_photos.md is the whole path.

Hardware: one accelerator that holds the model and its activations; the 2B model: --mode=plan says what it needs.
Data: photos/metadata.json, which --mode=list-images writes.
"""

from dualdiff_jax.config import empty_config


def get_config():
    config = empty_config()
    config.data.sources = [dict(name="photos", task="image_generation", root="photos", files="metadata.json")]
    config.objective.text_weight = 0.0
    config.lora.update(rank=16, merge=False)
    config.optimizer.update(learning_rate=1e-4, warmup_steps=20, clip_norm=1.0, ema_warmup=True)
    config.train.update(steps=400, global_batch_size=4, trainable=())
    config.init_from = ""
    return config
