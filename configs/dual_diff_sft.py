"""Supervised fine-tuning of the 2B model on visual instruction data, with image generation beside it.

    python main.py --mode=train --config=configs/dual_diff_sft.py --workdir=runs/sft

Only answers (and the padding after them) are masked; prompts stay visible. Hardware of the published run:
16 A100. This run has not been made with this code.
"""

from configs import dual_diff_pretrain
from configs.dual_diff_pretrain import source


def get_config():
    config = dual_diff_pretrain.get_config()
    config.data.text_length = 128
    config.data.sources = [s for s in config.data.sources if s["task"] == "image_generation"] + [
        source("llava_instruct", "instruction", "instructions.json"),
    ]
    config.objective.text_weight = 1.0
    config.train.update(steps=90_000, global_batch_size=512)
    return config
