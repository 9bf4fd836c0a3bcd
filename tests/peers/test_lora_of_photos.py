"""diffusers loads the file at the end of docs/your_photos.md, and computes with it what we compute with the LoRA."""

import jax
import numpy as np
import pytest

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.convert.importer import Import
from dualdiff_jax.pipeline.lora_calls import LoraCalls
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.weights import save_model
from tests import checkpoints
from tests.parity.comparison import OUTPUT_BOUND, assert_parity
from tests.parity.conftest import plain_arithmetic, seed  # noqa: F401 (fixtures)
from tests.parity.test_import import theirs
from tests.peers.test_lora import velocity
from tests.photo_path import walk, write_photos

pytestmark = pytest.mark.peers


def test_diffusers_loads_the_lora_of_the_photos(tmp_path, seed):  # noqa: F811
    transformer = checkpoints.write_sd3(tmp_path / "sd3", seed)["mmdit"]
    planned = Import(tmp_path / "sd3")
    weights = planned.load(make_mesh(MeshConfig(), jax.devices()[:1]))
    save_model(tmp_path / "model", planned.config, weights, planned.tokenizer)
    pipe = LoraCalls(planned.config, weights, planned.tokenizer)
    plain = velocity(pipe, seed)
    write_photos(tmp_path / "photos")
    # The small model does not know the prompt's words, and a compiler for GPUs is not installed here.
    walk(tmp_path, tmp_path / "model", leave_out=("generate", "plan"))
    pipe.load_lora(tmp_path / "runs" / "photos" / "lora")
    transformer.load_lora_adapter(str(tmp_path / "runs"), weight_name="my_dog.safetensors")
    found = velocity(pipe, seed)
    assert not np.array_equal(found, plain)
    assert_parity(
        {"velocity": found}, {"velocity": theirs(transformer, seed=seed)["velocity"]}, OUTPUT_BOUND, seed=seed
    )
