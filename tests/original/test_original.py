"""The original's pipeline, run as it is on folders that we export, draws the images that ours draws.

Run by ``make check-original ORIGINAL=DIR``, which prints the largest difference of each model.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from demo.data import write_tokenizer
from dualdiff_jax import DualDiffusionPipeline
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.convert.exporter import export_model
from dualdiff_jax.data.tokenizer import T5_TOKENIZER, Tokenizer
from dualdiff_jax.weights import save_model
from tests import checkpoints
from tests.original.pipeline import original_class
from tests.parity.comparison import OUTPUT_BOUND, relative_error
from tests.parity.reference import ReferenceMMDiT, arrays, channels_first, channels_last, randomise, reference_t5
from tests.torch_weights import from_torch

pytestmark = pytest.mark.original

LONG = "a photograph of " + "a very large and colourful " * 20 + "parrot"


class Case(NamedTuple):
    """One call; ``size`` is (height, width) in latents."""

    prompts: list[str]
    negative: str = ""
    size: tuple[int, int] = (8, 8)
    steps: int = 4
    guidance: float = 7.0
    repeats: int = 1


CASES = {
    "one word": Case(["a three"]),
    "empty prompt": Case([""]),
    "negative prompt": Case(["a handwritten three"], "a blurred digit"),
    "weak guidance": Case(["a handwritten three"], guidance=1.5),
    "strong guidance": Case(["a handwritten three"], guidance=12.0),
    "no guidance": Case(["a handwritten three"], guidance=1.0),
    "no guidance, empty": Case([""], guidance=1.0),
    "cut prompt": Case([LONG]),
    "cut negative prompt": Case(["a three"], LONG),
    "punctuation": Case(["don't stop: it's 100% \"quoted\" (really)!?"]),
    "other scripts": Case(["Café Müller, 東京 の 夜景 🌃 ½"]),
    "spaces": Case(["  two  spaces   and a\ttab\nnew line "]),
    "control tokens": Case(["a </s> three <pad> or <extra_id_0> seven"], "<pad></s>"),
    "wide": Case(["a three left of a seven"], size=(4, 12)),
    "many steps": Case(["a handwritten three"], steps=28),
    "a batch": Case(["a three", "a photo of the digit seven"], "nothing", repeats=2),
}
MODELS: dict[str, dict[str, Any]] = {
    "end": {
        "tokenizer": T5_TOKENIZER,
        "pad_token": "</s>",
        "mmdit": {"depth": 3, "width": 128, "heads": 2, "position_grid": 12, "position_base": 4},
        "t5": {"width": 20, "depth": 2, "heads": 3, "head_dim": 8, "mlp_width": 28},
        "autoencoder": {"channels": 4, "level_widths": (32, 64), "level_depth": 1},
        "sampling": {"text_length": 24, "sigma_shift": 3.0},
    },
    "pad": {
        "tokenizer": T5_TOKENIZER,
        "pad_token": "<pad>",
        "mmdit": {"depth": 2, "width": 64, "heads": 1, "position_grid": 16, "position_base": 8},
        "t5": {"width": 32, "depth": 3, "heads": 2, "head_dim": 16, "mlp_width": 48},
        "autoencoder": {"channels": 16, "level_widths": (32, 32, 64), "level_depth": 2},
        "sampling": {"text_length": 40, "sigma_shift": 1.0},
    },
    "demo": {
        "tokenizer": None,
        "pad_token": "</s>",
        "mmdit": {"depth": 4, "width": 96, "heads": 3, "position_grid": 14, "position_base": 7},
        "t5": {"width": 24, "depth": 1, "heads": 4, "head_dim": 8, "mlp_width": 20},
        "autoencoder": {"channels": 8, "level_widths": (64,), "level_depth": 1, "shift": 0.2, "scale": 0.7},
        "sampling": {"text_length": 12, "sigma_shift": 5.5},
    },
}


def write_model(folder: Path, model: dict[str, Any], seed: int) -> ModelConfig:
    """A model folder of the sizes ``model`` with random weights."""
    source = Path(model["tokenizer"] or folder / "words")
    if model["tokenizer"] is None:
        write_tokenizer(source)
    tokenizer = Tokenizer(source, model["pad_token"])
    autoencoder = {"kind": "kl"} | model["autoencoder"]
    side = 8 * 2 ** (len(autoencoder["level_widths"]) - 1)
    config = resolve(
        {
            "mmdit": model["mmdit"] | {"vocab_size": tokenizer.vocab_size},
            "t5": model["t5"] | {"vocab_size": tokenizer.vocab_size + 28},
            "autoencoder": autoencoder,
            "sampling": model["sampling"] | {"height": side, "width": side},
            "compute_dtype": "float32",
        },
        ModelConfig,
    )
    state: dict[str, np.ndarray] = {}
    networks = (ReferenceMMDiT(config), reference_t5(config), checkpoints.autoencoder(config))
    for number, network in enumerate(networks):
        with torch.no_grad():
            randomise(network, 3 * seed + number)
        state |= {key: array for key, array in arrays(network).items() if key != checkpoints.TIED}
    save_model(folder / "model", config, from_torch(state, config), tokenizer)
    return config


@torch.no_grad()
def theirs(pipeline: Any, case: Case, config: ModelConfig, noise: np.ndarray) -> dict[str, np.ndarray]:
    """The original's latents and image, channels last."""
    downscale = config.autoencoder.downscale
    options = dict(
        prompt=case.prompts,
        negative_prompt=[case.negative] * len(case.prompts),
        height=case.size[0] * downscale,
        width=case.size[1] * downscale,
        num_inference_steps=case.steps,
        guidance_scale=case.guidance,
        num_images_per_prompt=case.repeats,
        max_sequence_length=config.sampling.text_length,
    )
    found = {}
    for name, output in (("latents", "latent"), ("image", "image")):
        found[name] = channels_last(pipeline(latents=channels_first(noise), output_type=output, **options))
    return found


def ours(pipeline: DualDiffusionPipeline, case: Case, config: ModelConfig, noise: np.ndarray) -> dict[str, np.ndarray]:
    downscale = config.autoencoder.downscale
    (sample,) = pipeline.generate_images(
        [prompt for prompt in case.prompts for _ in range(case.repeats)],
        case.negative,
        height=case.size[0] * downscale,
        width=case.size[1] * downscale,
        steps=case.steps,
        guidance_scale=case.guidance,
        latents=noise,
    )
    return {"latents": np.asarray(sample.latents), "image": np.asarray(pipeline.decode_latents(sample.latents))}


@pytest.mark.parametrize("name", MODELS)
def test_the_original_draws_what_ours_draws(name, tmp_path, capsys):
    seed = list(MODELS).index(name)
    config = write_model(tmp_path, MODELS[name], seed)
    exported = export_model(tmp_path / "model", tmp_path / "exported", shard_bytes=200_000)
    their_pipeline = original_class().from_pretrained(exported)
    their_pipeline.set_progress_bar_config(disable=True)
    our_pipeline = DualDiffusionPipeline.from_pretrained(tmp_path / "model")
    rng, errors = np.random.default_rng(seed), {}
    for number, case in enumerate(CASES.values()):
        shape = (len(case.prompts) * case.repeats, *case.size, config.autoencoder.channels)
        noise = rng.standard_normal(shape, np.float32)
        expected, found = theirs(their_pipeline, case, config, noise), ours(our_pipeline, case, config, noise)
        for array in expected:
            errors[list(CASES)[number], array] = relative_error(found[array], expected[array])
    worst = max(errors, key=errors.__getitem__)
    with capsys.disabled():
        print(f"\nmodel {name!r}: largest relative difference {errors[worst]:.1e} ({', '.join(worst)})")
    far = {where: error for where, error in errors.items() if not error <= OUTPUT_BOUND}
    assert not far, "\n".join(f"{', '.join(where)}: {error:.3e}" for where, error in far.items())
