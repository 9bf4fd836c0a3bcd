"""Operations are those of the networks; the bound of the roofline is the slowest of three."""

import dataclasses
import importlib

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from configs import dual_diff_pretrain
from dualdiff_jax.config import AutoencoderConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.hardware import CHIPS
from dualdiff_jax.planning.cost import autoencoder_flops, program_flops, roofline
from dualdiff_jax.training.flops import step_flops
from dualdiff_jax.training.trainable import Trainable
from tests import checkpoints

CONFIG = resolve(dual_diff_pretrain.get_config())


@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
def test_the_autoencoder_costs_what_torch_counts(size):
    network, config = checkpoints.autoencoder(), checkpoints.CONFIG.autoencoder
    with FlopCounterMode(display=False) as encoding, torch.no_grad():
        network.encode(torch.zeros(1, 3, *size))
    with FlopCounterMode(display=False) as decoding, torch.no_grad():
        network.decode(torch.zeros(1, config.channels, size[0] // 2, size[1] // 2))
    attention = 4 * config.level_widths[-1] * (size[0] * size[1] // 4) ** 2  # torch does not count it on a CPU
    counted = tuple(counter.get_total_flops() + attention for counter in (encoding, decoding))
    assert autoencoder_flops(config, *size) == counted


def test_the_published_model_at_512_pixels():
    """2.01 TFLOP forward for each half of a pair, three times that in training; T5-XXL 2.40, the encoder 1.12.

    The image half does without the text head, 0.025, and the text half without the image head, 0.0002.
    """
    flops = {part: value / 1e12 for part, value in program_flops(CONFIG, "train", 1).items()}
    assert flops["mmdit forward"] == pytest.approx(2 * 2.011 - 0.025, rel=1e-3)
    assert flops["mmdit forward"] + flops["mmdit backward"] == pytest.approx(11.99, rel=1e-3)
    assert flops["t5"] == pytest.approx(2 * 2.397, rel=1e-3)
    assert flops["autoencoder"] == pytest.approx(2 * 1.118, rel=1e-3)


def test_stored_latents_and_captions_leave_t5_the_masked_texts():
    whole, encoded = (program_flops(CONFIG, name, 2) for name in ("train", "train_encoded"))
    changed = {part: value / whole[part] for part, value in encoded.items() if value != whole[part]}
    assert changed == {"t5": 0.5, "autoencoder": 0.0}


@pytest.mark.parametrize(
    "name, trainable, rank",
    [
        ("dual_diff_pretrain", None, 0),
        ("dual_diff_pretrain", ("mmdit.*", "t5.*"), 0),
        ("align_mask_embedding", None, 0),
        ("finetune_t2i", (), 16),
    ],
)
def test_a_plan_counts_a_backward_pass_for_what_the_run_trains_as_training_does(name, trainable, rank):
    sections = importlib.import_module(f"configs.{name}").get_config()
    sections.lora.rank = rank
    if trainable is not None:
        sections.train.trainable = trainable
    config = resolve(sections)
    trained, size = Trainable(config).specs, config.train.global_batch_size
    for program, is_encoded in (("train", False), ("train_encoded", True)):
        flops = program_flops(config, program, size)
        planned = sum(value for part, value in flops.items() if part not in ("autoencoder", "rematerialisation"))
        assert planned == pytest.approx(step_flops(config, trained, has_text_embeddings=is_encoded), rel=1e-12)


@pytest.mark.parametrize("policy, share", [("none", 0), ("dots", 0), ("full", 1)])
def test_rematerialisation_counts_the_forward_pass_again(policy, share):
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, remat=policy))
    flops = program_flops(config, "train", 3)
    assert flops["rematerialisation"] == share * flops["mmdit forward"]


def test_an_unknown_program_is_refused_with_the_choices():
    with pytest.raises(
        ValueError, match="'text_to_video' is none of train, train_encoded, text_to_image, image_to_text"
    ):
        program_flops(CONFIG, "text_to_video", 1)


def test_a_stream_without_weight_costs_nothing():
    def flops(**weights):
        objective = dataclasses.replace(CONFIG.objective, **weights)
        return program_flops(dataclasses.replace(CONFIG, objective=objective), "train", 4)

    image, text, both = flops(text_weight=0.0), flops(image_weight=0.0), flops()
    assert {part: image[part] + text[part] for part in both} == both
    head = CONFIG.model.mmdit.width * CONFIG.model.mmdit.vocab_size * CONFIG.data.text_length
    assert text["mmdit forward"] - image["mmdit forward"] == pytest.approx(4 * 2 * head, rel=0.02)


def test_guidance_doubles_the_passes():
    guided = program_flops(CONFIG, "text_to_image", 2)
    sampling = dataclasses.replace(CONFIG.model.sampling, guidance_scale=1.0)
    plain = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, sampling=sampling))
    assert guided["mmdit"] == 2 * program_flops(plain, "text_to_image", 2)["mmdit"]
    assert guided["mmdit"] == pytest.approx(2 * 2 * 28 * 2.011e12, rel=1e-3)


def test_the_identity_costs_nothing():
    assert autoencoder_flops(AutoencoderConfig(), 64, 64) == (0.0, 0.0)


def test_the_slowest_of_the_three_is_the_bound():
    chip = CHIPS["h100"]
    assert roofline(chip, 989e12, 0, 0, 0) == {"compute": 1.0, "memory": 0.0, "network": 0.0, "bound": "compute"}
    assert roofline(chip, 0, 3.35e12, 0, 0)["memory"] == 1.0
    inside, across = (roofline(chip, 0, 0, 1e12, across) for across in (0, 1e12))
    assert inside["bound"] == "network" and across["network"] == pytest.approx(9 * inside["network"])
