"""Stage 3: visual instruction data together with images, 128 tokens, lambda 1.

    python main.py --mode=train --config=configs/dual_diff_sft.py --workdir=runs/sft \\
        --config.init_from=runs/pretrain/model

Hardware: 16 A100 or a v5p-32.
Data: the files of LLaVA-1.5, VQAv2, OKVQA, GQA, TextVQA and VizWiz as their publishers name them, images beside them,
each set in its folder under data/ (docs/data.md), and the images of stage 2.
"""

from configs import dual_diff_pretrain

LENGTH = 128
# Thousands of records of each set in the published run, which draws all records alike.
RECORDS = dict(llava=625.0, vqa_v2=444.0, okvqa=9.0, gqa=172.0, textvqa=35.0, vizwiz=21.0)


def get_config():
    config = dual_diff_pretrain.get_config()
    images, *_ = config.to_dict()["data"]["sources"]
    questions = [
        dict(name=name, format=name, root=f"data/{name}", task="instruction", weight=records, **dual_diff_pretrain.SIZE)
        for name, records in RECORDS.items()
    ]
    config.data.sources = [images, *questions]
    config.data.text_length = LENGTH
    config.model.sampling.text_length = LENGTH
    config.objective.text_weight = 1.0
    config.train.update(steps=90_000, global_batch_size=512)
    return config
