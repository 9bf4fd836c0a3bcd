"""An import of every checkpoint format computes the same as the torch network in the checkpoint."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_vae_checkpoint,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from safetensors.numpy import load_file, save_file

from dualdiff_jax import DualDiffusionPipeline
from dualdiff_jax.config import MeshConfig
from dualdiff_jax.convert.exporter import export_model
from dualdiff_jax.convert.importer import Import
from dualdiff_jax.models.bundle import bind, leaf_specs
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.weights import load_model
from tests import checkpoints
from tests.checkpoints import CONFIG
from tests.parity.comparison import OUTPUT_BOUND, assert_parity
from tests.parity.reference import ReferenceMMDiT, arrays

pytestmark = pytest.mark.parity

SIZE = 6, 8  # of the latents


def slow(value: str):
    """A parameter whose test is slow."""
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture
def mesh():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def inputs(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents, timesteps, text embeddings."""
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((2, *SIZE, CONFIG.autoencoder.channels), np.float32)
    text = rng.standard_normal((2, 5, CONFIG.t5.width), np.float32)
    return latents, rng.uniform(0, 1000, 2).astype(np.float32), text


def ours(weights, config, seed: int) -> dict[str, np.ndarray]:
    """Outputs of the networks in ``weights``, computed in fp32."""
    latents, timestep, text = inputs(seed)
    model = bind(dataclasses.replace(config, compute_dtype="float32"), weights)
    found = {}
    present = {leaf.split(".")[0] for leaf in weights}
    if "mmdit" in present:
        output = model.denoise(jnp.asarray(latents), jnp.asarray(timestep), jnp.asarray(text))
        found |= {"velocity": output.velocity, "logits": output.logits}
    if "t5" in present:
        found["text"] = model.encode_text(jnp.arange(12).reshape(2, 6))
    if "autoencoder" in present:
        found["image"] = model.autoencoder.decode(jnp.asarray(latents))
    return {name: np.asarray(value) for name, value in found.items()}


@torch.no_grad()
def theirs(mmdit=None, t5=None, autoencoder=None, *, seed: int) -> dict[str, np.ndarray]:
    """The outputs of torch networks; an SD3 transformer has no logits, and its pooled text vector is zeroed."""
    latents, timestep, text = inputs(seed)
    x, time, embeddings = torch.tensor(latents).permute(0, 3, 1, 2), torch.tensor(timestep), torch.tensor(text)
    found = {}
    if isinstance(mmdit, ReferenceMMDiT):
        velocity, logits = mmdit(x, time, embeddings)
        found |= {"velocity": velocity.permute(0, 2, 3, 1).numpy(), "logits": logits.numpy()}
    elif mmdit is not None:
        for parameter in mmdit.time_text_embed.text_embedder.parameters():
            parameter.zero_()
        pooled = torch.zeros(2, checkpoints.POOLED)
        velocity = mmdit(
            hidden_states=x, encoder_hidden_states=embeddings, pooled_projections=pooled, timestep=time
        ).sample
        found["velocity"] = velocity.permute(0, 2, 3, 1).numpy()
    if t5 is not None:
        found["text"] = t5(torch.arange(12).reshape(2, 6)).last_hidden_state.numpy()
    if autoencoder is not None:
        z = x / autoencoder.config.scaling_factor + autoencoder.config.shift_factor
        found["image"] = autoencoder.decode(z).sample.permute(0, 2, 3, 1).numpy()
    return found


def assert_same(weights, config, networks: dict[str, torch.nn.Module], seed: int) -> None:
    expected = theirs(**networks, seed=seed)
    found = ours(weights, config, seed)
    assert_parity({name: found[name] for name in expected}, expected, OUTPUT_BOUND, seed=seed)


def imported(source, mesh, tmp_path, **options):
    output = Import(source, **options).write(tmp_path / "model")
    config, weights, _ = load_model(output, mesh)
    return config, weights


def test_a_d_dit_folder(tmp_path, mesh, seed):
    tensors = checkpoints.write_d_dit(tmp_path / "d_dit", seed)
    networks = checkpoints.random_networks(seed)
    config, weights = imported(tmp_path / "d_dit", mesh, tmp_path)
    for section in ("mmdit", "t5", "autoencoder"):
        assert getattr(config, section) == getattr(CONFIG, section)
    assert_same(weights, config, networks, seed)
    assert all(np.array_equal(arrays(networks["mmdit"])[key], tensors["mmdit"][key]) for key in tensors["mmdit"])


def test_an_sd3_folder_gives_the_velocity_of_sd3(tmp_path, mesh, seed):
    networks = checkpoints.write_sd3(tmp_path / "sd3", seed)
    config, weights = imported(tmp_path / "sd3", mesh, tmp_path)
    assert_same(weights, config, networks, seed)
    gates = np.asarray(weights["mmdit.blocks.text.modulation.kernel"])[-1, :, 2:]
    assert not gates.any() and not np.asarray(weights["mmdit.blocks.text.modulation.bias"])[-1, 2:].any()
    for leaf in ("mmdit.blocks.text.attention_out.kernel", "mmdit.blocks.text.mlp_out.kernel", "mmdit.null_image"):
        last, spec = np.asarray(weights[leaf])[-1], leaf_specs(config)[leaf]
        fan_in = np.prod(spec.shape[1:-1]) if "kernel" in leaf else spec.shape[-1]
        assert last.std() == pytest.approx(fan_in**-0.5, rel=0.2), leaf
    assert not np.asarray(weights["mmdit.text_out.kernel"]).any()


def test_the_original_single_file(tmp_path, mesh, seed):
    """With T5 from a separate file; the reference loads the tensors through diffusers' converter."""
    tensors = checkpoints.original_file(seed)
    save_file(tensors, tmp_path / "sd3.safetensors")
    t5 = checkpoints.random_networks(seed)["t5"]
    save_file(checkpoints.t5_tensors(t5), tmp_path / "t5xxl.safetensors")
    checkpoints.tokenizer(tmp_path / "tokenizer")
    config, weights = imported(
        tmp_path / "sd3.safetensors",
        mesh,
        tmp_path,
        t5=tmp_path / "t5xxl.safetensors",
        tokenizer=tmp_path / "tokenizer",
    )
    mmdit, autoencoder = checkpoints.sd3_transformer(), checkpoints.autoencoder()
    torch_tensors = {key: torch.tensor(value) for key, value in tensors.items()}
    own = {k: v for k, v in torch_tensors.items() if k.startswith("model.diffusion_model.")}
    mmdit.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(own), strict=True)
    vae = {k: v for k, v in torch_tensors.items() if k.startswith("first_stage_model.")}
    autoencoder.load_state_dict(convert_ldm_vae_checkpoint(vae, dict(autoencoder.config)), strict=True)
    assert_same(weights, config, {"mmdit": mmdit, "t5": t5, "autoencoder": autoencoder}, seed)


@pytest.mark.parametrize("name", ["consolidated.00-of-01.pth", slow("consolidated_ema.00-of-01.pth")])
def test_the_original_training_files(tmp_path, mesh, seed, name):
    checkpoints.write_d_dit(tmp_path / "d_dit", seed + 1)
    networks = checkpoints.random_networks(seed)
    torch.save(networks["mmdit"].state_dict(), tmp_path / name)
    config, weights = imported(
        tmp_path / name,
        mesh,
        tmp_path,
        t5=tmp_path / "d_dit",
        autoencoder=tmp_path / "d_dit",
    )
    others = checkpoints.random_networks(seed + 1)
    assert_same(weights, config, others | {"mmdit": networks["mmdit"]}, seed)


def test_t5_alone_and_its_mask_embedding(tmp_path, mesh, seed):
    t5 = checkpoints.random_networks(seed)["t5"]
    folder = tmp_path / "t5"
    checkpoints.tokenizer(folder)
    checkpoints.write_shards(folder, "model", checkpoints.t5_tensors(t5))
    row = np.random.default_rng(seed).standard_normal(CONFIG.t5.width).astype(np.float32)
    torch.save(torch.tensor(row), tmp_path / "mask_token_emb.00-of-01.pth")
    planned = Import(folder, mask_embedding=tmp_path / "mask_token_emb.00-of-01.pth")
    weights = planned.load(mesh)
    embedding = t5.shared.weight.data
    mask = planned.tokenizer.mask_token_id
    assert not np.array_equal(np.asarray(weights["t5.embedding"])[mask], embedding[mask].numpy())
    embedding[mask] = torch.tensor(row)
    np.testing.assert_array_equal(weights["t5.embedding"], embedding.numpy())
    assert_same(weights, planned.config, {"t5": t5}, seed)


@pytest.mark.parametrize("dtype", ["bfloat16", slow("float32"), slow("float16")])
def test_there_and_back_is_bit_for_bit(tmp_path, mesh, dtype):
    """export(import(folder)) keeps every tensor, and import(export(model)) keeps every leaf and setting."""
    tensors = checkpoints.write_d_dit(tmp_path / "d_dit", 5, dtype)
    first = Import(tmp_path / "d_dit").write(tmp_path / "first")
    export_model(first, tmp_path / "back", dtype=dtype, shard_bytes=100_000)
    found = {
        network: {
            key: value
            for file in (tmp_path / "back" / name).glob("*.safetensors")
            for key, value in load_file(file).items()
        }
        for network, name in (("mmdit", "transformer"), ("t5", "text_encoder"), ("autoencoder", "vae"))
    }
    for network, expected in tensors.items():
        assert found[network].keys() == expected.keys()
        for key, tensor in expected.items():
            assert found[network][key].dtype == tensor.dtype, key
            assert found[network][key].tobytes() == tensor.tobytes(), key
    export_model(first, tmp_path / "again")
    second = Import(tmp_path / "again").write(tmp_path / "second")
    (config, weights, tokenizer), (config2, weights2, tokenizer2) = load_model(first, mesh), load_model(second, mesh)
    assert config == config2 and tokenizer.vocab_size == tokenizer2.vocab_size
    assert weights.keys() == weights2.keys()
    for leaf, value in weights.items():
        assert np.asarray(value).tobytes() == np.asarray(weights2[leaf]).tobytes(), leaf
    mask = torch.load(tmp_path / "back" / "mask_token_emb.00-of-01.pth", weights_only=True)
    assert str(mask.dtype) == f"torch.{dtype}" and tuple(mask.shape) == (config.t5.width,)
    row = tensors["t5"]["shared.weight"][tokenizer.mask_token_id]
    assert mask.view(torch.uint8).numpy().tobytes() == row.tobytes()


def test_the_mask_embedding_of_a_folder_is_found(tmp_path, mesh):
    """An import finds the file in a pipeline's folder, also where it takes only T5 from that folder."""
    checkpoints.write_d_dit(tmp_path / "d_dit", 7)
    row = np.random.default_rng(7).standard_normal(CONFIG.t5.width).astype(np.float32)
    torch.save(torch.tensor(row), tmp_path / "d_dit" / "mask_token_emb.00-of-01.pth")
    torch.save(checkpoints.random_networks(8)["mmdit"].state_dict(), tmp_path / "consolidated.00-of-01.pth")
    for planned in (
        Import(tmp_path / "d_dit"),
        Import(tmp_path / "consolidated.00-of-01.pth", t5=tmp_path / "d_dit"),
        Import(tmp_path / "d_dit", components=["t5"]),
    ):
        embedding = planned.load(mesh)["t5.embedding"]
        np.testing.assert_array_equal(embedding[planned.tokenizer.mask_token_id], row)
    assert Import(tmp_path / "d_dit", components=["mmdit"]).mask_embedding is None


def test_the_exported_folder_loads_in_torch(tmp_path):
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
    from transformers import T5EncoderModel, T5TokenizerFast

    tensors = checkpoints.write_d_dit(tmp_path / "d_dit", 6)
    Import(tmp_path / "d_dit").write(tmp_path / "model")
    folder = export_model(tmp_path / "model", tmp_path / "back", shard_bytes=50_000)
    t5, loading = T5EncoderModel.from_pretrained(folder / "text_encoder", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    for network, module in (("t5", t5), ("autoencoder", vae)):
        for key, tensor in tensors[network].items():
            np.testing.assert_array_equal(module.state_dict()[key], tensor)
    assert FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler").config.shift == 3.0
    tokenizer = T5TokenizerFast.from_pretrained(folder / "tokenizer")
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == len(tokenizer) - 1


def test_a_diffusers_folder_opens_as_a_pipeline(tmp_path, seed):
    checkpoints.write_d_dit(tmp_path / "d_dit", seed)
    direct = DualDiffusionPipeline.from_pretrained(tmp_path / "d_dit", dtype="float32")
    assert not (tmp_path / "d_dit.dualdiff_jax").exists()
    assert direct.config.compute_dtype == "float32"
    cached = DualDiffusionPipeline.from_pretrained(tmp_path / "d_dit", dtype="float32", cache=True)
    again = DualDiffusionPipeline.from_pretrained(tmp_path / "d_dit.dualdiff_jax", dtype="float32")
    for pipeline in (cached, again):
        assert pipeline.config == direct.config
        for leaf, value in direct.weights.items():
            np.testing.assert_array_equal(value, pipeline.weights[leaf])
    assert_same(direct.weights, direct.config, checkpoints.random_networks(seed), seed)
