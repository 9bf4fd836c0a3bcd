"""The joint transformer against the reference: module by module, then complete, values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.convert.state_dict import to_torch
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.models.embeddings import centre_crop, patchify, position_table, timestep_sinusoids, unpatchify
from dualdiff_jax.models.norms import layer_norm, modulate
from tests.parity.comparison import GRADIENT_BOUND, OUTPUT_BOUND, assert_parity
from tests.parity.pair import CONFIG, UNPATCHED, random_pair
from tests.parity.reference import ReferenceMMDiT, channels_first, channels_last, gradients, recorded

pytestmark = pytest.mark.parity

BATCH = 3
SHAPES = {  # config, latents (height, width) or None, text length
    "square": (CONFIG, (8, 8), 7),
    "wide": (CONFIG, (4, 18), 5),
    "tall": (CONFIG, (14, 2), 9),
    "odd_tokens": (CONFIG, (6, 10), 1),
    "unpatched": (UNPATCHED, (5, 3), 4),
    "null_image": (CONFIG, None, 6),
}


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def draw_timestep(rng: np.random.Generator) -> np.ndarray:
    """1000 sigma of random levels, with one 0, the timestep of text passes."""
    timestep = rng.uniform(0.0, 1000.0, BATCH).astype(np.float32)
    timestep[rng.integers(BATCH)] = 0.0
    return timestep


def test_timestep_sinusoids(seed):
    timestep = np.random.default_rng(seed).uniform(0.0, 1000.0, 64).astype(np.float32)
    timestep[:4] = 0.0, 1.0, 999.0, 1000.0
    expected = ReferenceMMDiT(CONFIG).time_text_embed.time_proj(torch.from_numpy(timestep)).numpy()
    assert_parity({"sinusoids": timestep_sinusoids(timestep)}, {"sinusoids": expected}, OUTPUT_BOUND, seed=seed)


def test_timestep_embedding(seed):
    pair, timestep = random_pair(CONFIG, seed), draw_timestep(np.random.default_rng(seed))
    ours = bind(CONFIG, pair.weights).mmdit.timestep_embedding(timestep, jnp.float32)
    expected = pair.mmdit.time_text_embed(torch.from_numpy(timestep)).detach().numpy()
    assert_parity({"embedding": ours}, {"embedding": expected}, OUTPUT_BOUND, seed=seed)


@pytest.mark.parametrize(("grid", "base", "width"), [(192, 64, 8), (9, 4, 24), (6, 6, 4)])
def test_position_table_is_that_of_a_checkpoint(grid, base, width):
    mmdit = {"depth": 1, "width": width, "heads": 1, "vocab_size": 4, "position_grid": grid, "position_base": base}
    t5 = {"vocab_size": 4, "width": 4, "depth": 1, "heads": 1, "head_dim": 2, "mlp_width": 4}
    sizes = {"mmdit": mmdit, "t5": t5, "sampling": {"height": 8, "width": 8}}
    expected = ReferenceMMDiT(resolve(sizes, ModelConfig)).pos_embed.pos_embed.numpy()[0]
    ours = position_table(grid, base, width).reshape(grid**2, width)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (2, 9), (9, 2), (3, 6), (1, 1)])
def test_centre_crop(seed, rows, columns):
    pair = random_pair(CONFIG, seed)
    patch = CONFIG.mmdit.patch_size
    expected = pair.mmdit.pos_embed.cropped_pos_embed(rows * patch, columns * patch).numpy()[0]
    np.testing.assert_array_equal(centre_crop(pair.weights["mmdit.positions"], rows, columns), expected)


@pytest.mark.parametrize("shape", ["square", "wide", "unpatched"])
def test_patch_embedding(seed, shape):
    config, size, _ = SHAPES[shape]
    pair, patch = random_pair(config, seed), config.mmdit.patch_size
    latents = draw(np.random.default_rng(seed), BATCH, *size, config.autoencoder.channels)
    positions = centre_crop(pair.weights["mmdit.positions"], size[0] // patch, size[1] // patch)
    ours = bind(config, pair.weights).mmdit.patch_embedding(patchify(jnp.asarray(latents), patch)) + positions
    expected = pair.mmdit.pos_embed(channels_first(latents)).detach().numpy()
    assert_parity({"tokens": ours}, {"tokens": expected}, OUTPUT_BOUND, seed=seed)


def test_unpatchify(seed):
    """A token of the image head holds its patch in the order (row, column, channel)."""
    tokens = draw(np.random.default_rng(seed), BATCH, 3 * 5, 2 * 2 * 3)
    squares = torch.from_numpy(tokens).reshape(BATCH, 3, 5, 2, 2, 3)
    expected = torch.einsum("nhwpqc->nchpwq", squares).reshape(BATCH, 3, 6, 10)
    np.testing.assert_array_equal(unpatchify(tokens, 6, 10, 2), channels_last(expected))


@pytest.mark.parametrize("layer", range(CONFIG.mmdit.depth))
def test_one_block(seed, layer):
    pair, rng = random_pair(CONFIG, seed), np.random.default_rng(seed)
    width = CONFIG.mmdit.width
    image, text, conditioning = draw(rng, BATCH, 6, width), draw(rng, BATCH, 5, width), draw(rng, BATCH, width)
    graph, layers = nnx.split(bind(CONFIG, pair.weights).mmdit.blocks)
    block = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[layer], layers))
    our_image, our_text = block(image, text, block.modulation(jax.nn.silu(conditioning)))
    arguments = {"hidden_states": image, "encoder_hidden_states": text, "temb": conditioning}
    block = pair.mmdit.transformer_blocks[layer]
    text, image = block(**{name: torch.from_numpy(array) for name, array in arguments.items()})
    expected = {"image": image.detach().numpy(), "text": text.detach().numpy()}
    assert_parity({"image": our_image, "text": our_text}, expected, OUTPUT_BOUND, seed=seed)


@jax.jit
def our_layers(weights: dict, latents: jax.Array, timestep: jax.Array, text_embeddings: jax.Array) -> dict:
    """Both streams after each block, the embeddings before the blocks and the heads after them."""
    mmdit = bind(CONFIG, weights).mmdit
    image, text = mmdit.embed_image(latents, BATCH), mmdit.embed_text(text_embeddings)
    conditioning = mmdit.timestep_embedding(timestep, mmdit.dtype)
    outputs = {"pos_embed": (image,), "context_embedder": (text,), "time_text_embed": (conditioning,)}
    conditioning = jax.nn.silu(conditioning)
    graph, layers = nnx.split(mmdit.blocks)
    for layer in range(CONFIG.mmdit.depth):
        block = nnx.merge(graph, jax.tree.map(lambda leaf, layer=layer: leaf[layer], layers))
        image, text = block(image, text, block.modulation(conditioning))
        outputs[f"transformer_blocks.{layer}"] = text, image
    scale, shift = jnp.unstack(mmdit.image_modulation(conditioning), axis=1)
    image, text = modulate(image, shift, scale), layer_norm(text)
    outputs |= {"image_norm_out": (image,), "text_norm_out": (text,)}
    return outputs | {"image_proj_out": (mmdit.image_out(image),), "text_proj_out": (mmdit.text_out(text),)}


@pytest.mark.parametrize("shape", ["square", "wide", "tall"])
def test_layer_by_layer(seed, shape):
    """From the first embedding to both heads; the first layer that differs is the wrong one."""
    _, size, length = SHAPES[shape]
    pair, rng = random_pair(CONFIG, seed), np.random.default_rng(seed)
    latents, timestep = draw(rng, BATCH, *size, CONFIG.autoencoder.channels), draw_timestep(rng)
    text = draw(rng, BATCH, length, CONFIG.t5.width)
    found = our_layers(pair.weights, latents, timestep, text)
    with recorded(pair.mmdit, found) as passes:
        pair.mmdit(channels_first(latents), torch.from_numpy(timestep), torch.from_numpy(text))
    expected = {(name, number): array for name in passes for number, array in enumerate(passes[name].outputs)}
    found = {(name, number): array for name in found for number, array in enumerate(found[name])}
    assert_parity(found, expected, OUTPUT_BOUND, seed=seed)


def scalar(outputs: tuple, directions: tuple):
    """The outputs' product with fixed random directions, whose gradient depends on every output."""
    pairs = zip(outputs, directions, strict=True)
    return sum((output * direction).sum() for output, direction in pairs if output is not None)


@partial(jax.jit, static_argnums=0)
def our_pass(config: ModelConfig, trained: dict, constants: dict, inputs: tuple, directions: tuple):
    """((velocity, logits), gradients by trained leaf and by input)."""

    def loss(trained, latents, text_embeddings):
        model = bind(config, trained | constants)
        output = model.denoise(latents, inputs[1], text_embeddings)
        return scalar(output, directions), output

    (_, output), gradients = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(trained, inputs[0], inputs[2])
    return output, gradients


@pytest.mark.parametrize("shape", SHAPES)
def test_whole_model_and_every_gradient(seed, shape):
    config, size, length = SHAPES[shape]
    pair, rng = random_pair(config, seed), np.random.default_rng(seed)
    latents = None if size is None else draw(rng, BATCH, *size, config.autoencoder.channels)
    timestep, text = draw_timestep(rng), draw(rng, BATCH, length, config.t5.width)
    along_velocity = None if size is None else draw(rng, *latents.shape)
    along_logits = draw(rng, BATCH, length, config.mmdit.vocab_size)

    constants = {n: w for n, w in pair.weights.items() if n == "mmdit.positions" or n.startswith("t5.")}
    trained = {name: weight for name, weight in pair.weights.items() if name not in constants}
    directions = (along_velocity, along_logits)
    output, (by_leaf, by_latents, by_text) = our_pass(config, trained, constants, (latents, timestep, text), directions)

    torch_latents = None if size is None else channels_first(latents).requires_grad_()
    torch_text = torch.from_numpy(text).requires_grad_()
    velocity, logits = pair.mmdit(torch_latents, torch.from_numpy(timestep), torch_text)
    torch_directions = (None if size is None else channels_first(along_velocity), torch.from_numpy(along_logits))
    scalar((velocity, logits), torch_directions).backward()

    found, expected = {"logits": output.logits}, {"logits": logits.detach().numpy()}
    if size is not None:
        found["velocity"], expected["velocity"] = output.velocity, channels_last(velocity)
    assert_parity(found, expected, OUTPUT_BOUND, seed=seed)

    by_key = to_torch(by_leaf | {"mmdit.positions": constants["mmdit.positions"]}, config, ["mmdit"])
    del by_key["pos_embed.pos_embed"]  # a constant on both sides
    found, expected = {**by_key, "text": by_text}, {**gradients(pair.mmdit), "text": torch_text.grad.numpy()}
    if size is not None:
        found["latents"], expected["latents"] = by_latents, channels_last(torch_latents.grad)
    assert_parity(found, expected, GRADIENT_BOUND, seed=seed)
