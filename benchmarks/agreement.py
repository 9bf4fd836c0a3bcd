"""A check that both sides compute the same, made before anything is timed."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from benchmarks.workload import Size, Vocabulary, random_batch
from dualdiff_jax.convert.state_dict import to_torch
from dualdiff_jax.models.bundle import bind, leaf_specs, split_trainable
from dualdiff_jax.objectives.joint import ImageExamples, Objective, TextExamples
from dualdiff_jax.objectives.time_sampling import TIMESTEPS

if TYPE_CHECKING:
    from benchmarks.torch_peer import TorchPeer

BOUND = 1e-4  # relative error allowed, in fp32


def differences(size: Size, weights: Mapping[str, Any], peer: "TorchPeer") -> dict[str, float]:
    """Relative differences of velocity, logits, loss and gradient, with the same weights and draws, in fp32.

    Args:
        size: the model and its training step.
        weights: of all networks, by leaf name; ``peer`` has the same.
        peer: the torch side.
    """
    config = size.config
    batch, tokenizer = random_batch(size, config.train.global_batch_size), Vocabulary(config.model.mmdit.vocab_size)
    null = tokenizer.null_ids(config.data.text_length)
    objective = Objective(config.objective, null_token_ids=null, mask_token_id=tokenizer.mask_token_id)

    @jax.jit
    def corrupted(weights: dict[str, jax.Array]) -> Any:
        encode = bind(config.model, weights).autoencoder.encode
        image = ImageExamples(encode(batch.image["image"]), batch.image["token_ids"])
        text = TextExamples(encode(batch.text["image"]), batch.text["token_ids"], batch.text["is_answer"])
        return objective.corrupt(jax.random.key(2), image, text)

    def loss(params: dict[str, jax.Array], part: Any) -> tuple[jax.Array, Any]:
        model = bind(config.model, params | frozen)
        output = model(part.image.noisy_latents, TIMESTEPS * part.image.sigma, part.image.token_ids)
        return objective.loss(model, part)[0], output

    params, frozen = split_trainable(config.model, jax.device_put(dict(weights)), config.train.trainable)
    with jax.default_matmul_precision("highest"):
        part = corrupted(weights)
        (our_loss, output), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, part)
    velocity, logits = peer.evaluate(part)
    their_loss, their_gradient = peer.gradients(part)
    zeros = {name: np.zeros(spec.shape, np.float32) for name, spec in leaf_specs(config.model).items()}
    our_gradient = to_torch(zeros | {name: np.asarray(value) for name, value in gradient.items()}, config.model)
    found = {
        "velocity": difference(output.velocity, velocity),
        "logits": difference(output.logits, logits),
        "loss": difference(our_loss, their_loss),
        "gradient": difference(*(_flat(side, their_gradient) for side in (our_gradient, their_gradient))),
    }
    return {name: float(f"{value:.2e}") for name, value in found.items()}


def beyond_bound(found: dict[str, float]) -> list[str]:
    """Name and value of each difference that is above ``BOUND``."""
    return [f"{name} {value:.1e}" for name, value in found.items() if not value <= BOUND]


def difference(found: Any, expected: Any) -> float:
    """Norm of the difference over norm of ``expected``."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _flat(arrays: dict[str, np.ndarray], names: dict[str, Any]) -> np.ndarray:
    return np.concatenate([arrays[name].ravel() for name in names])
