"""Stage 3: visual instruction data together with images, 128 tokens, lambda 1.

    python main.py --mode=train --config=configs/dual_diff_sft.py --workdir=runs/sft \\
        --config.init_from=runs/pretrain/model
"""

from configs import dual_diff_pretrain

LENGTH = 128


def get_config():
    config = dual_diff_pretrain.get_config()
    images, *texts = config.to_dict()["data"]["sources"]
    config.data.sources = [images, {**texts[0], **dict(name="llava", root="data/llava", task="instruction")}]
    config.data.text_length = LENGTH
    config.model.sampling.text_length = LENGTH
    config.objective.text_weight = 1.0
    config.train.update(steps=90_000, global_batch_size=512)
    return config
