"""configs/dual_diff_pretrain.py on digits, in about a minute on two CPU cores.

    python -m demo.data --output=runs/demo/data
    python main.py --mode=train --config=configs/tiny/dual_diff_pretrain.py --workdir=runs/tiny/pretrain \\
        --config.init_from=runs/tiny/pretrain_256/model
"""

from configs import dual_diff_pretrain
from configs.tiny.digits import tiny


def get_config():
    return tiny(dual_diff_pretrain.get_config(), steps=300)
