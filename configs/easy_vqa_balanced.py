"""easy-VQA, second of three stages: all questions, each answer as frequent as the others (``demo/easy_vqa.py``).

    python main.py --mode=train --config=configs/easy_vqa_balanced.py --workdir=runs/easy_vqa/balanced

Hardware: 2 CPU cores. The stages around it: ``configs/easy_vqa_hints.py`` and ``configs/easy_vqa.py``.
"""

from configs.easy_vqa import common, source


def get_config():
    config = common()
    config.data.sources = [source("balanced", "balanced_{questions,annotations}.json")]
    config.optimizer.update(learning_rate=8e-3, schedule="cosine")
    config.train.steps = 3600
    config.init_from = "runs/easy_vqa/hints/model"
    return config
