"""Stage 2 at 512 px: the same settings as at 256 px, starting from its weights.

    python main.py --mode=train --config=configs/dual_diff_pretrain.py --workdir=runs/pretrain \\
        --config.init_from=runs/pretrain_256/model
"""

from configs import dual_diff_pretrain_256

SIZE = dict(height=512, width=512)


def get_config():
    config = dual_diff_pretrain_256.get_config()
    config.model.sampling.update(SIZE)
    config.data.sources = [{**source, **SIZE} for source in config.to_dict()["data"]["sources"]]
    config.train.steps = 200_000
    return config
