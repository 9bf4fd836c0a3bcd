"""configs/dual_diff_sft.py on digits, in about a minute on two CPU cores.

    python -m demo.data --output=runs/demo/data
    python main.py --mode=train --config=configs/tiny/dual_diff_sft.py --workdir=runs/tiny/sft \\
        --config.init_from=runs/tiny/pretrain/model
"""

from configs import dual_diff_sft
from configs.tiny.digits import tiny


def get_config():
    return tiny(dual_diff_sft.get_config(), steps=1500)
