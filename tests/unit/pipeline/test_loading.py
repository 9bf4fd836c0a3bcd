"""What is checked where a pipeline is made."""

import dataclasses
import shutil

import pytest

from dualdiff_jax import DualDiffusionPipeline, UserError
from dualdiff_jax.weights import save_model
from tests.unit.pipeline.test_pipeline import pipe  # noqa: F401


@pytest.mark.parametrize(("attention", "stored"), [("splash", "float32"), ("cudnn", "bfloat16")])
def test_a_kernel_that_does_not_run_here_is_named_before_weights_are_read(pipe, tmp_path, attention, stored):  # noqa: F811
    config = dataclasses.replace(pipe.config, attention=attention, compute_dtype=stored)
    save_model(tmp_path / "model", config, pipe.weights, pipe.tokenizer)
    shutil.rmtree(tmp_path / "model" / "weights")
    with pytest.raises(UserError, match=f"model.attention '{attention}' needs .*, but this is cpu with float32; give"):
        DualDiffusionPipeline.from_pretrained(tmp_path / "model", dtype="float32")
    with pytest.raises(UserError, match=f"model.attention '{attention}' needs .*, but this is cpu with {stored}; give"):
        DualDiffusionPipeline(config, pipe.weights, pipe.tokenizer)
