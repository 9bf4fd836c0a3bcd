"""The peer's training step in half precision, in parts and from stored encodings, none of which is timed on a CPU."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.h100_sizes import tiny_size
from benchmarks.torch_peer import TorchPeer, build
from benchmarks.workload import Vocabulary, random_batch

SIZE = tiny_size()


def make_peer(dtype: str) -> TorchPeer:
    model = dataclasses.replace(SIZE.config.model, compute_dtype=dtype)
    config = dataclasses.replace(SIZE.config, model=model)
    tokenizer = Vocabulary(model.mmdit.vocab_size)
    torch.manual_seed(0)
    null = tokenizer.null_ids(config.data.text_length)
    return TorchPeer(config, build(config, "cpu"), null_token_ids=null, mask_token_id=tokenizer.mask_token_id)


def step(dtype: str = "float32", parts: int = 1, is_encoded: bool = False) -> tuple[float, float]:
    """Loss and gradient norm of a step of four pairs, always with the same draws."""
    peer, compute_dtypes = make_peer(dtype), set()
    peer.mmdit.text_proj_out.register_forward_hook(lambda _, inputs, output: compute_dtypes.add(output.dtype))
    batch = peer.place(random_batch(SIZE, 4, is_encoded=is_encoded))
    torch.manual_seed(1)
    loss, norm = peer.train_step(batch, parts)
    assert compute_dtypes == {getattr(torch, dtype)}
    assert all(p.dtype == torch.float32 for p in peer.parameters.values())
    return loss.item(), norm.item()


@pytest.mark.parametrize("is_encoded", [False, True])
def test_parts_of_a_batch_add_up(is_encoded):
    undivided = step(is_encoded=is_encoded)
    np.testing.assert_allclose(step(parts=2, is_encoded=is_encoded), undivided, rtol=1e-5)
    np.testing.assert_allclose(step(parts=4, is_encoded=is_encoded), undivided, rtol=1e-5)


def test_half_precision_is_close_to_single():
    """The autoencoder's noise is drawn in the compute dtype, so the step from stored latents is compared."""
    exact, half = step(is_encoded=True), step("bfloat16", is_encoded=True)
    assert exact != half
    np.testing.assert_allclose(half, exact, rtol=0.03)
    loss, norm = step("bfloat16")
    assert np.isfinite(loss) and norm > 0


def test_frozen_networks_are_in_half_precision_without_gradients():
    peer = make_peer("bfloat16")
    assert peer.t5.shared.weight.dtype == torch.bfloat16 and not peer.t5.shared.weight.requires_grad
    assert next(peer.autoencoder.parameters()).dtype == torch.bfloat16
    assert set(peer.parameters) == {name for name, _ in peer.mmdit.named_parameters()}
