"""``--mode=evaluate --task=coco_captions`` beside pycocoevalcap on the predictions that it leaves."""

import json

import pytest

from dualdiff_jax.evaluation.predictions import Predictions
from dualdiff_jax.weights import save_model
from tests.benchmark_layouts import write_coco_captions
from tests.end_to_end.command import run_here
from tests.small_run import small_run
from tests.unit.tiny import random_weights

pytestmark = pytest.mark.peers


def evaluated(root, data, output):
    """The record of the task, and its predictions."""
    folders = [f"--model={root / 'model'}", f"--data={data}", f"--output={output}"]
    done = run_here("--mode=evaluate", "--task=coco_captions", *folders, "--steps=2", "--length=64")
    assert done.returncode == 0, done.stderr
    record = json.loads((output / "coco_captions.json").read_text())
    return record, list(Predictions(output / "coco_captions.predictions.jsonl").read().values())


def test_the_modes_scores_are_pycocoevalcaps(tmp_path):
    """A model of random weights says nothing that anybody wrote, so some of its words become references."""
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    config, tokenizer = small_run(tmp_path / "run")
    save_model(tmp_path / "model", config.model, random_weights(config.model), tokenizer)
    write_coco_captions(tmp_path / "data")
    _, said = evaluated(tmp_path, tmp_path / "data", tmp_path / "first")
    file = tmp_path / "data" / "annotations" / "captions_val2017.json"
    content = json.loads(file.read_text())
    for caption in content["annotations"][::5][:3]:  # the first of an image's five
        caption["caption"] = said[caption["image_id"]]["answer"]
    file.write_text(json.dumps(content))
    record, rows = evaluated(tmp_path, tmp_path / "data", tmp_path / "second")
    truth = PTBTokenizer().tokenize({row["id"]: [{"caption": text} for text in row["truth"]] for row in rows})
    answers = PTBTokenizer().tokenize({row["id"]: [{"caption": row["answer"]}] for row in rows})
    cider, _ = Cider().compute_score(truth, answers)
    assert cider > 0.1 and record["score"] == pytest.approx(100 * cider, abs=1e-9)
    assert record["parts"]["ROUGE-L"] == pytest.approx(100 * Rouge().compute_score(truth, answers)[0], abs=1e-9)
