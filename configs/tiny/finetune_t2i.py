"""configs/finetune_t2i.py on digits, in about a minute on two CPU cores.

    python -m demo.data --output=runs/demo/data
    python main.py --mode=train --config=configs/tiny/finetune_t2i.py --workdir=runs/tiny/finetune \\
        --config.init_from=runs/tiny/sft/model
"""

from configs import finetune_t2i
from configs.tiny.digits import tiny


def get_config():
    return tiny(finetune_t2i.get_config(), steps=200, learning_rate=5e-4)
