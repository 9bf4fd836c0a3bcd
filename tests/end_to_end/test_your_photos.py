"""A stranger's path: from a folder of photos to a LoRA, to images, to a file for diffusers."""

import dataclasses
import json

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from dualdiff_jax.data.tokenizer import T5_TOKENIZER, Tokenizer
from dualdiff_jax.weights import save_model
from tests.photo_path import walk, write_photos
from tests.small_run import small_run
from tests.unit.tiny import random_weights

T5_VOCABULARY = 32100


def test_the_page_leads_from_photos_to_images_and_a_file_for_diffusers(tmp_path):
    config = small_run(tmp_path / "small")[0].model
    words = {"vocab_size": T5_VOCABULARY}  # T5's own, since the page's captions may have any
    model = dataclasses.replace(
        config, mmdit=dataclasses.replace(config.mmdit, **words), t5=dataclasses.replace(config.t5, **words)
    )
    save_model(tmp_path / "model", model, random_weights(model), Tokenizer(T5_TOKENIZER))
    write_photos(tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").write_bytes((tmp_path / "photos" / "0000.jpg").read_bytes()[:500])
    walk(tmp_path, tmp_path / "model", leave_out=("plan",))  # a compiler for GPUs is not installed here
    records = json.loads((tmp_path / "photos" / "metadata.json").read_text())
    assert len(records) == 40
    assert {record["caption"] for record in records} == {"a photo of my dog", "a one"}
    assert records[0] | {"caption": ""} == {
        "image_path": "0000.jpg", "height": 427, "width": 640, "ratio": 640 / 427, "caption": ""
    }  # fmt: skip
    assert "a photo of my dog" in (tmp_path / "runs" / "look" / "data.html").read_text()
    drawn = list((tmp_path / "runs" / "drawn").glob("*.png"))
    assert len(drawn) == 1 and np.ptp(np.asarray(Image.open(drawn[0]))) > 0
    pairs = load_file(tmp_path / "runs" / "my_dog.safetensors")
    assert pairs and all(name.startswith("transformer.transformer_blocks.") for name in pairs)
    assert any(np.abs(tensor).max() > 0 for name, tensor in pairs.items() if "lora_B" in name)
