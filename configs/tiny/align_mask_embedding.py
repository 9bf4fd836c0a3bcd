"""configs/align_mask_embedding.py on digits, in about a minute on two CPU cores.

    python -m demo.data --output=runs/demo/data
    python main.py --mode=train --config=configs/tiny/align_mask_embedding.py --workdir=runs/tiny/align \\
        --config.init_from=MODEL_DIR
"""

from configs import align_mask_embedding
from configs.tiny.digits import tiny


def get_config():
    return tiny(align_mask_embedding.get_config(), steps=150, learning_rate=3e-2)
