"""Joint pretraining of the 2B model at 512 px: text to image and image to text at once.

    python main.py --mode=train --config=configs/dual_diff_pretrain.py --workdir=runs/pretrain

Data: folders under ``data/``, each with a JSON list of records (``image_path``, captions); change ROOT and the
sources to yours. Hardware of the published run: 32 H100. This run has not been made with this code.
"""

from configs import sizes
from dualdiff_jax.config import empty_config

ROOT = "data"
SIDE = dict(height=512, width=512)


def get_config():
    config = empty_config()
    config.model.update(sizes.D_DIT_2B)
    config.data.tokenizer = "dualdiff_jax/data/t5_tokenizer"
    recaptioned = dict(caption_keys=("re_caption", "org_caption"), caption_weights=(0.9, 0.1))
    config.data.sources = [
        source("recap_laion_aesthetic", "image_generation", "meta_data_all.json", **recaptioned),
        source("recap_datacomp_aesthetic", "image_generation", "meta_data_all.json", **recaptioned),
        source("openimages", "captioning", "meta_data.json"),
        source("sharegpt4v", "captioning", "meta_data.json"),
    ]
    config.train.update(steps=200_000, save_every=2500, log_every=25)
    return config


def source(name, task, metadata, **fields):
    return dict(name=name, root=f"{ROOT}/{name}", metadata=metadata, task=task, **SIDE, **fields)
