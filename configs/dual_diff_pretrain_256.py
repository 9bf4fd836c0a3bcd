"""Stage 2 at 256 px: image and text diffusion together, T5 and the autoencoder frozen.

    python main.py --mode=train --config=configs/dual_diff_pretrain_256.py --workdir=runs/pretrain_256 \\
        --config.init_from=runs/align/model

Hardware: 32 H100 or a v5p-64. Optimizer, batch and lambda are the published run's (arXiv 2501.00289).
Data: recaptioned DataComp for images, OpenImages and ShareGPT4V captions for text, as JSON metadata under data/.
--config.recipe=original trains as the released code does (docs/coming_from_pytorch.md).
"""

from dualdiff_jax.config import empty_config, published

SIZE = dict(height=256, width=256)
RECAPTIONED = dict(caption_keys=("re_caption", "caption"))  # the recipe says how often each is taken
FILTERS = dict(max_aspect=4.0, min_side=256)  # images that the published run leaves out, at 512 px too


def get_config():
    config = empty_config()
    config.model.update(published.D_DIT_2B)
    config.model.sampling.update(SIZE)
    config.data.tokenizer = "dualdiff_jax/data/t5_tokenizer"
    config.data.sources = [
        source("datacomp", "image_generation", **RECAPTIONED),
        source("openimages", "captioning"),
        source("sharegpt4v", "captioning"),
    ]
    config.objective.text_weight = 0.2
    config.train.update(steps=60_000, global_batch_size=256, keep_every=10_000)
    config.init_from = ""
    return config


def source(name, task, **fields):
    return dict(name=name, root=f"data/{name}", files="metadata.json", task=task, **SIZE, **FILTERS, **fields)
