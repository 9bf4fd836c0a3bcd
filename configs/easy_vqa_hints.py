"""easy-VQA, first of three stages: questions without negation, answered with hints (``demo/easy_vqa.py``).

    python main.py --mode=train --config=configs/easy_vqa_hints.py --workdir=runs/easy_vqa/hints

Hardware: 2 CPU cores. The stages after it: ``configs/easy_vqa_balanced.py``, ``configs/easy_vqa.py``.
"""

from configs.easy_vqa import common, source


def get_config():
    config = common()
    config.data.sources = [source("hints", "hints_{questions,annotations}.json", answer_choice="random")]
    config.train.steps = 800
    return config
