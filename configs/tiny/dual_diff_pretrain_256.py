"""configs/dual_diff_pretrain_256.py on digits, in about a minute on two CPU cores.

    python -m demo.data --output=runs/demo/data
    python main.py --mode=train --config=configs/tiny/dual_diff_pretrain_256.py --workdir=runs/tiny/pretrain_256 \\
        --config.init_from=runs/tiny/align/model
"""

from configs import dual_diff_pretrain_256
from configs.tiny.digits import tiny


def get_config():
    return tiny(dual_diff_pretrain_256.get_config(), steps=600)
