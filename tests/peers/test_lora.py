"""LoRAs travel: diffusers' SD3 and PEFT compute with our files what we compute, and we with theirs.

One random SD3 base, fp32. What a pair adds is a third as large as the kernel it is added to, more than training does.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.convert.importer import Import
from dualdiff_jax.convert.lora_file import read_lora
from dualdiff_jax.convert.lora_keys import lora_rules
from dualdiff_jax.convert.lora_terms import Term
from dualdiff_jax.convert.lora_writer import write_lora
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.pipeline.lora_calls import LoraCalls
from dualdiff_jax.sharding import make_mesh
from tests import checkpoints
from tests.checkpoints import CONFIG
from tests.parity.comparison import OUTPUT_BOUND, assert_parity, relative_error
from tests.parity.conftest import plain_arithmetic, seed  # noqa: F401 (fixtures)
from tests.parity.reference import ReferenceMMDiT, arrays, randomise
from tests.parity.test_import import inputs, theirs
from tests.torch_weights import from_torch

pytestmark = pytest.mark.peers
RANK = 3
ORIGINAL = "model.diffusion_model."
TARGETS = ["to_q", "to_k", "add_v_proj", "to_out.0", "ff.net.2", "norm1.linear", "proj_out", "pos_embed.proj"]


@pytest.fixture
def base(tmp_path, seed) -> tuple[LoraCalls, SD3Transformer2DModel]:  # noqa: F811
    """Our model and diffusers' with the same weights."""
    transformer = checkpoints.write_sd3(tmp_path / "sd3", seed)["mmdit"]
    planned = Import(tmp_path / "sd3")
    weights = planned.load(make_mesh(MeshConfig(), jax.devices()[:1]))
    assert isinstance(transformer, SD3Transformer2DModel)
    return LoraCalls(planned.config, weights, planned.tokenizer), transformer


def draw(naming: str, seed: int, alpha: float = 1.0, only_sd3: bool = True) -> list[Term]:  # noqa: F811
    """A pair for each layer of a naming."""
    rng = np.random.default_rng(seed)
    terms = []
    for rule in (rule for group in lora_rules(CONFIG, naming, only_sd3).values() for rule in group):
        outputs, *others = rule.shape
        down = rng.standard_normal((RANK, *others), np.float32) * np.float32(np.prod(others) ** -0.5)
        up = rng.standard_normal((outputs, RANK, *[1] * (len(others) - 1)), np.float32) * np.float32(RANK**-0.5)
        terms.append(Term(rule, down, up, alpha))
    return terms


def velocity(pipe: LoraCalls, seed: int) -> np.ndarray:  # noqa: F811
    latents, timestep, text = inputs(seed)
    return np.asarray(bind(pipe.config, pipe.weights).denoise(latents, timestep, text).velocity)


def assert_same(pipe: LoraCalls, transformer: torch.nn.Module, seed: int, plain: np.ndarray) -> None:  # noqa: F811
    """Both have the LoRA, whose effect is no small one."""
    found, expected = velocity(pipe, seed), theirs(transformer, seed=seed)["velocity"]
    assert relative_error(plain, expected) > 0.1
    assert_parity({"velocity": found}, {"velocity": expected}, OUTPUT_BOUND, seed=seed)


def write(tmp_path: Path, terms: Sequence[Term], naming: str = "diffusers", only_sd3: bool = True) -> Path:
    file = tmp_path / ("lora" if naming == "peft" else f"{naming}.safetensors")
    write_lora(file, terms, CONFIG, naming, only_sd3=only_sd3)
    return file


@pytest.mark.parametrize("naming", ["diffusers", "kohya"])
def test_diffusers_transformer_loads_our_file(base, tmp_path, seed, naming):  # noqa: F811
    """Also one that began with kohya's joint queries, keys and values; it was read by us in kohya's format."""
    pipe, transformer = base
    plain = velocity(pipe, seed)
    pipe.load_lora(write(tmp_path, draw(naming, seed), "kohya"))
    again = read_lora(tmp_path / "kohya.safetensors", CONFIG)
    transformer.load_lora_adapter(str(write(tmp_path, again).parent), weight_name="diffusers.safetensors")
    assert_same(pipe, transformer, seed, plain)


def test_kohyas_names_are_those_of_the_original_file(tmp_path, seed):  # noqa: F811
    """Each pair is added to the tensor that its name means, as ComfyUI does; diffusers converts and runs the file."""
    tensors = checkpoints.original_file(seed)
    save_file({name: torch.tensor(tensor) for name, tensor in tensors.items()}, tmp_path / "sd3.safetensors")
    checkpoints.tokenizer(tmp_path / "words")
    planned = Import(tmp_path / "sd3.safetensors", tokenizer=tmp_path / "words", dtype="float32")
    weights = planned.load(make_mesh(MeshConfig(), jax.devices()[:1]))
    pipe = LoraCalls(planned.config, weights, planned.tokenizer)
    plain = velocity(pipe, seed)
    file = write(tmp_path, draw("kohya", seed), "kohya")
    pipe.load_lora(file)
    pairs = load_file(file)
    named = {f"lora_unet_{name.removesuffix('.weight')}".replace(".", "_"): name for name in own_names(tensors)}
    for name in {key.split(".")[0] for key in pairs}:
        down, up = pairs[f"{name}.lora_down.weight"], pairs[f"{name}.lora_up.weight"]
        weight = tensors[f"{ORIGINAL}{named[name]}"]
        change = float(pairs[f"{name}.alpha"]) / len(down) * up.flatten(1) @ down.flatten(1)
        weight += change.numpy().reshape(weight.shape)
    transformer = checkpoints.sd3_transformer()
    own = {f"{ORIGINAL}{name}": torch.tensor(tensors[f"{ORIGINAL}{name}"]) for name in own_names(tensors)}
    transformer.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(own), strict=True)
    assert_same(pipe, transformer, seed, plain)


def own_names(tensors: dict[str, np.ndarray]) -> list[str]:
    """The names of the transformer's tensors in the original file, without their prefix."""
    return [name.removeprefix(ORIGINAL) for name in tensors if name.startswith(ORIGINAL)]


def test_diffusers_pipeline_loads_what_sd3_has_of_a_whole_file(base, tmp_path, seed):  # noqa: F811
    """A file that training writes has layers that SD3 lacks; diffusers leaves them out. Two at once, with scales."""
    pipe, transformer = base
    plain = velocity(pipe, seed)
    theirs_of = StableDiffusion3Pipeline(transformer, FlowMatchEulerDiscreteScheduler(), *[None] * 7)
    for number, scale in enumerate((0.7, -0.4)):
        terms = draw("diffusers", seed + number, only_sd3=False)
        terms = [
            term
            for term in terms
            if term.rule.key != f"transformer_blocks.{CONFIG.mmdit.depth - 1}.norm1_context.linear"
        ]
        file = write(tmp_path, terms, only_sd3=False)
        pipe.load_lora(write(tmp_path / str(number), terms), scale, name=str(number))
        theirs_of.load_lora_weights(str(tmp_path), weight_name=file.name, adapter_name=f"lora{number}")
        file.unlink()
    theirs_of.set_adapters(["lora0", "lora1"], [0.7, -0.4])
    assert_same(pipe, transformer, seed, plain)
    pipe.unload_lora()
    theirs_of.unload_lora_weights()
    np.testing.assert_array_equal(velocity(pipe, seed), plain)
    assert_parity({"v": plain}, {"v": theirs(transformer, seed=seed)["velocity"]}, OUTPUT_BOUND, seed=seed)


def test_peft_loads_our_folder(base, tmp_path, seed):  # noqa: F811
    """With an alpha that is not the rank, and ranks and alphas that differ from layer to layer."""
    pipe, transformer = base
    plain = velocity(pipe, seed)
    terms = draw("diffusers", seed)
    rng = np.random.default_rng(seed)
    for index in range(0, len(terms), 3):
        rank = int(rng.integers(1, RANK))
        old = terms[index]
        terms[index] = Term(old.rule, old.down[:rank].copy(), old.up[:, :rank].copy(), float(rng.uniform(0.1, 1.0)))
    folder = write(tmp_path, terms, "peft")
    pipe.load_lora(folder)
    model = PeftModel.from_pretrained(transformer, str(folder))
    assert_same(pipe, model.base_model.model, seed, plain)


def test_peft_loads_a_whole_file_onto_d_dit(tmp_path, seed):  # noqa: F811
    """The text stream of the last block and the logits too; D-DiT's heads have names of their own in torch."""
    reference = ReferenceMMDiT(CONFIG)
    randomise(reference, seed)
    tokenizer = checkpoints.tokenizer(tmp_path / "tokenizer")
    weights = {
        name: jax.numpy.asarray(value) for name, value in from_torch(arrays(reference), CONFIG, ["mmdit"]).items()
    }
    pipe = LoraCalls(CONFIG, weights, tokenizer)
    plain = velocity(pipe, seed)
    terms = [t for t in draw("diffusers", seed, only_sd3=False) if t.rule.key not in ("proj_out", "norm_out.linear")]
    folder = write(tmp_path, terms, "peft", only_sd3=False)
    pipe.load_lora(folder)
    model = PeftModel.from_pretrained(reference, str(folder)).base_model.model
    latents, timestep, text = inputs(seed)
    found = bind(pipe.config, pipe.weights).denoise(latents, timestep, text)
    with torch.no_grad():
        expected, logits = model(*map(torch.tensor, (latents.transpose(0, 3, 1, 2), timestep, text)))
    expected = {"velocity": expected.permute(0, 2, 3, 1).numpy(), "logits": logits.numpy()}
    assert relative_error(plain, expected["velocity"]) > 0.1
    assert_parity({name: getattr(found, name) for name in expected}, expected, OUTPUT_BOUND, seed=seed)


@pytest.mark.parametrize("rslora", [False, True])
def test_we_load_what_peft_saves(base, tmp_path, seed, rslora):  # noqa: F811
    pipe, transformer = base
    plain = velocity(pipe, seed)
    settings = LoraConfig(
        r=4, lora_alpha=6, target_modules=TARGETS, init_lora_weights=False, use_rslora=rslora,
        rank_pattern={"to_q": 2}, alpha_pattern={"to_q": 3.0, "transformer_blocks.1.attn.to_k": 1.0},
    )  # fmt: skip
    torch.manual_seed(seed)
    model = get_peft_model(transformer, settings)
    model.save_pretrained(tmp_path / "peft")
    pipe.load_lora(tmp_path / "peft")
    assert_same(pipe, model.base_model.model, seed, plain)


def test_we_load_what_diffusers_saves(base, tmp_path, seed):  # noqa: F811
    """Its newer files have alpha in their metadata."""
    pipe, transformer = base
    plain = velocity(pipe, seed)
    torch.manual_seed(seed)
    assert isinstance(transformer, PeftAdapterMixin)
    transformer.add_adapter(LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, init_lora_weights=False), "mine")
    transformer.save_lora_adapter(tmp_path / "adapter", adapter_name="mine")
    layers = get_peft_model_state_dict(transformer, adapter_name="mine")
    StableDiffusion3Pipeline.save_lora_weights(
        tmp_path / "pipeline",
        layers,
        transformer_lora_adapter_metadata={"r": 4, "lora_alpha": 6, "alpha_pattern": {}},
    )
    pipe.load_lora(tmp_path / "pipeline", name="pipeline")
    assert_same(pipe, transformer, seed, plain)
    for name, tensor in layers.items():  # a file without metadata: alpha is the rank
        if "lora_B" in name:
            tensor.mul_(6 / 4)
    save_file(
        {f"transformer.{name}": tensor.contiguous() for name, tensor in layers.items()}, tmp_path / "x.safetensors"
    )
    for name in layers:
        if "lora_B" in name:
            layers[name].div_(6 / 4)
    pipe.unload_lora()
    pipe.load_lora(tmp_path / "x.safetensors")
    assert_same(pipe, transformer, seed, plain)
