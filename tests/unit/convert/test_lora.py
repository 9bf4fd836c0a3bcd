"""LoRAs keep their bits from format to format, and add what their formula says."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from dualdiff_jax.convert.lora_file import read_lora
from dualdiff_jax.convert.lora_keys import lora_rules
from dualdiff_jax.convert.lora_terms import Term, by_layer, change, cut, scaled_factors
from dualdiff_jax.convert.lora_writer import write_lora
from dualdiff_jax.convert.state_dict import to_torch
from dualdiff_jax.convert.tensor_file import SafetensorsFile
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.models.leaves import layers_of
from tests.torch_weights import from_torch
from tests.unit.convert.loras import RANK, assert_equal_files, draw, tensors, write
from tests.unit.tiny import CONFIG, random_weights

SPECS = leaf_specs(CONFIG, ("mmdit",))
QKV = [f"transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "to_v")]
LAST = CONFIG.mmdit.depth - 1


def pair(rows: int, columns: int, seed: int = 0, rank: int = RANK) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rank, columns), np.float32), rng.standard_normal((rows, rank), np.float32)


def changes(terms: list[Term]) -> dict[str, np.ndarray]:
    """What a LoRA adds to each leaf."""
    found = {}
    for leaf, factors in scaled_factors([(terms, 1.0)], SPECS).items():
        found[leaf] = np.zeros(SPECS[leaf].shape, np.float32)
        for layer, factor in zip(layers_of(SPECS[leaf]), factors, strict=True):
            if factor is not None:
                found[leaf][... if layer is None else layer] = change(factor, SPECS[leaf])
    return found


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("drawn", ["diffusers", "kohya"])
@pytest.mark.parametrize("first", ["diffusers", "peft", "kohya"])
@pytest.mark.parametrize("second", ["diffusers", "peft", "kohya"])
def test_there_and_back_is_bit_for_bit(tmp_path, drawn, first, second, dtype):
    """Queries, keys and values with matrices of their own become one pair in kohya's format, and come back apart."""
    alpha = RANK if "diffusers" in (first, second) else 2.0  # its file has none: alpha / rank is multiplied in
    terms = draw(drawn, alpha=alpha)
    terms = [Term(term.rule, term.down.astype(dtype), term.up.astype(dtype), term.alpha) for term in terms]
    names = {"diffusers": "{}.safetensors", "peft": "{}", "kohya": "{}.safetensors"}
    start = write(tmp_path / names[first].format("start"), terms, first)
    middle = write(tmp_path / names[second].format("middle"), read_lora(start, CONFIG), second)
    end = write(tmp_path / names[first].format("end"), read_lora(middle, CONFIG), first)
    assert_equal_files(end, start)
    if first == "peft":
        settings = [json.loads((folder / "adapter_config.json").read_text()) for folder in (start, end)]
        assert settings[0] == settings[1]


def test_factors_are_cut_into_the_term_that_they_came_from():
    """Every layer is tried, that of the patches among them, which is a convolution to others."""
    terms = draw("diffusers", alpha=2.0)
    assert any(term.down.ndim == 4 for term in terms)
    for layer, group in by_layer(terms).items():
        for term in group:
            (found,) = cut([term.rule], term.factors(SPECS[layer[0]]), term.alpha, SPECS[layer[0]])
            np.testing.assert_array_equal(found.down, term.down)
            np.testing.assert_array_equal(found.up, term.up)
            assert (found.rule, found.alpha) == (term.rule, term.alpha)


@pytest.mark.parametrize("naming", ["diffusers", "peft", "kohya"])
def test_a_file_adds_what_its_formula_says_in_torch(tmp_path, naming):
    """Each layer of the torch network: weight + alpha / rank * up down, in the state dict of a released D-DiT."""
    terms = draw(alpha=2.0)
    path = write(tmp_path / "lora.safetensors" if naming != "peft" else tmp_path / "lora", terms, naming)
    weights = {name: np.asarray(value) for name, value in random_weights().items() if name.startswith("mmdit.")}
    state = to_torch(weights, CONFIG, ["mmdit"])
    for term in terms:
        name = term.rule.key.replace("norm_out", "image_norm_out").replace("proj_out", "image_proj_out")
        name = name.replace("text_image_", "text_")
        down, up = term.down.reshape(RANK, -1), term.up.reshape(-1, RANK)
        state[f"{name}.weight"] = state[f"{name}.weight"] + (2 / RANK * up @ down).reshape(term.rule.shape)
    expected = from_torch(state, CONFIG, ["mmdit"])
    added = changes(read_lora(path, CONFIG))
    assert added.keys() == {name for name in SPECS if name.endswith(".kernel")}
    for name, value in weights.items():
        np.testing.assert_allclose(value + added.get(name, 0), expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_queries_keys_and_values_with_one_down_matrix_stay_one_pair(tmp_path):
    down, _ = pair(16, 16)
    by_key = {term.rule.key: term for term in draw()}
    terms = [Term(by_key[name].rule, down, by_key[name].up, 2.0) for name in QKV]
    found = tensors(write(tmp_path / "k.safetensors", terms, "kohya"))
    name = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    np.testing.assert_array_equal(found[f"{name}.lora_down.weight"], down)
    np.testing.assert_array_equal(found[f"{name}.lora_up.weight"], np.concatenate([term.up for term in terms]))
    assert found[f"{name}.alpha"] == 2.0


def test_a_dim_of_the_rank_that_one_part_does_not_use_is_kept(tmp_path):
    by_key = {term.rule.key: term for term in draw(alpha=RANK)}
    down, unused = pair(16, 16)[0], by_key[QKV[0]].up.copy()
    unused[:, -1] = 0
    terms = [Term(by_key[name].rule, down, by_key[name].up, RANK) for name in QKV[1:]]
    terms.append(Term(by_key[QKV[0]].rule, down, unused, RANK))
    start = write(tmp_path / "start.safetensors", terms)
    joined = write(tmp_path / "k.safetensors", read_lora(start, CONFIG), "kohya")
    assert_equal_files(write(tmp_path / "end.safetensors", read_lora(joined, CONFIG)), start)


@pytest.mark.parametrize("naming", ["diffusers", "kohya"])
def test_a_naming_has_one_name_for_each_part_of_every_kernel(naming):
    rules = [rule for group in lora_rules(CONFIG, naming).values() for rule in group]
    assert len({rule.key for rule in rules}) == len(rules)
    numbers = sum(int(np.prod(spec.shape)) for name, spec in SPECS.items() if name.endswith(".kernel"))
    assert sum(rule.size for rule in rules) == numbers


def test_parts_with_other_ranks_and_alphas_are_joined_and_one_may_be_absent(tmp_path):
    by_key = {term.rule.key: term for term in draw()}
    small = by_key[QKV[0]]
    terms = [Term(small.rule, small.down[:1].copy(), small.up[:, :1].copy(), 5.0), by_key[QKV[2]]]
    joined = read_lora(write(tmp_path / "k.safetensors", terms, "kohya"), CONFIG)
    assert [term.rank for term in joined] == [RANK + 1]
    leaf = "mmdit.blocks.image.qkv.kernel"
    np.testing.assert_allclose(changes(joined)[leaf], changes(terms)[leaf], rtol=1e-6, atol=1e-6)
    apart = read_lora(write(tmp_path / "d.safetensors", joined), CONFIG)
    assert {term.rule.key: term.rank for term in apart} == {QKV[0]: 1, QKV[2]: RANK}
    np.testing.assert_allclose(changes(apart)[leaf], changes(terms)[leaf], rtol=1e-6, atol=1e-6)


def test_sd3_gets_what_it_has_and_the_rest_is_named(tmp_path):
    """SD3 has two of the six modulation vectors of the last block's text stream: first the scale, then the shift."""
    terms = draw(alpha=RANK)
    left_out = write_lora(tmp_path / "s.safetensors", terms, CONFIG, only_sd3=True)
    block = f"transformer_blocks.{LAST}"
    modulation = f"{block}.norm1_context.linear"
    lacking = {"attn.to_add_out", "ff_context.net.0.proj", "ff_context.net.2", "norm1_context.linear"}
    assert set(left_out) == {f"{block}.{name}" for name in lacking} | {"text_proj_out"}
    found = tensors(tmp_path / "s.safetensors")
    whole = next(term for term in terms if term.rule.key == modulation).up.reshape(6, 16, RANK)
    np.testing.assert_array_equal(found[f"transformer.{modulation}.lora_B.weight"].reshape(2, 16, RANK), whole[[1, 0]])
    assert not any("text_proj_out" in name or "ff_context" in name and block in name for name in found)
    again = write(tmp_path / "again.safetensors", read_lora(tmp_path / "s.safetensors", CONFIG), only_sd3=True)
    assert_equal_files(again, tmp_path / "s.safetensors")


def alphas(path) -> dict[str, float]:
    return {term.rule.key: term.alpha for term in read_lora(path, CONFIG)}


def test_alpha_is_where_each_program_writes_it(tmp_path):
    down, up = pair(16, 16)
    layers = {f"{name}.lora_{part}.weight": tensor for name in QKV for part, tensor in (("A", down), ("B", up))}
    plain = {f"transformer.{name}": tensor for name, tensor in layers.items()}
    save_file(plain, tmp_path / "plain.safetensors")
    assert set(alphas(tmp_path / "plain.safetensors").values()) == {RANK}

    settings = {"transformer.lora_alpha": 8, "transformer.alpha_pattern": {QKV[1]: 4}, "text_encoder.lora_alpha": 1}
    save_file(plain, tmp_path / "new.safetensors", metadata={"lora_adapter_metadata": json.dumps(settings)})
    assert alphas(tmp_path / "new.safetensors") == {QKV[0]: 8, QKV[1]: 4, QKV[2]: 8}

    (tmp_path / "peft").mkdir()
    save_file(
        {f"base_model.model.{name}": t for name, t in layers.items()}, tmp_path / "peft/adapter_model.safetensors"
    )
    settings = {"peft_type": "LORA", "lora_alpha": 8, "alpha_pattern": {"^to_v": 6, "attn.to_v": 4, "o_q": 1}}
    (tmp_path / "peft/adapter_config.json").write_text(json.dumps(settings))
    assert alphas(tmp_path / "peft") == {QKV[0]: 8, QKV[1]: 8, QKV[2]: 6}
    (tmp_path / "peft/adapter_config.json").write_text(json.dumps(settings | {"use_rslora": True}))
    assert alphas(tmp_path / "peft")[QKV[0]] == pytest.approx(8 * RANK**0.5)


@pytest.mark.parametrize(
    ("down", "up", "alpha"),
    [
        ("transformer.{}.lora_A.weight", "transformer.{}.lora_B.weight", None),
        ("base_model.model.{}.lora_A.default.weight", "base_model.model.{}.lora_B.default.weight", None),
        ("transformer.{}.lora.down.weight", "transformer.{}.lora.up.weight", None),
        ("lora_transformer_{}.lora_down.weight", "lora_transformer_{}.lora_up.weight", "lora_transformer_{}.alpha"),
        ("diffusion_model.{}.lora_down.weight", "diffusion_model.{}.lora_up.weight", "diffusion_model.{}.alpha"),
        ("{}.lora_A.weight", "{}.lora_B.weight", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["transformer_blocks.0.attn.to_out.0", "joint_blocks.0.x_block.attn.proj"])
def test_names_of_many_programs_are_known(tmp_path, key, down, up, alpha):
    a, b = pair(16, 16)
    name = key.replace(".", "_") if down.startswith("lora_") else key
    found = {down.format(name): a, up.format(name): b}
    if alpha:
        found[alpha.format(name)] = np.array([1.5], np.float32)
    save_file(found, tmp_path / "lora.safetensors")
    (term,) = read_lora(tmp_path / "lora.safetensors", CONFIG)
    assert (term.rule.leaf, term.rule.layer) == ("mmdit.blocks.image.attention_out.kernel", 0)
    assert term.alpha == (1.5 if alpha else RANK)
    np.testing.assert_array_equal(term.down, a)


def test_a_factor_out_of_all_proportion_is_refused():
    """With it the kernels' own numbers are lost, or become infinite."""
    terms = draw("diffusers", alpha=1.0)
    scaled_factors([(terms, 1000.0)], SPECS)
    for scale, alpha in ((1e7 * RANK, 1.0), (-1e7 * RANK, 1.0), (1.0, 1e300), (1e300, 1e300)):
        with pytest.raises(UserError, match=r"proj': scale .* x alpha .* / rank 3 is more than 1e\+06"):
            scaled_factors([([dataclasses.replace(term, alpha=alpha) for term in terms], scale)], SPECS)


def test_an_alpha_that_is_no_number_is_refused():
    terms = [dataclasses.replace(term, alpha=float("nan")) for term in draw()]
    with pytest.raises(UserError, match="scale 1 x alpha nan / rank 3 is no number; .* check the file's alpha"):
        scaled_factors([(terms, 1.0)], SPECS)


@pytest.mark.parametrize(
    ("dtype", "alpha", "expected"),
    [
        (ml_dtypes.bfloat16, 2.0, ml_dtypes.bfloat16),
        (ml_dtypes.bfloat16, 257.0, np.float32),
        (ml_dtypes.float8_e4m3fn, 500.0, np.float32),
        (np.float16, 70000.0, np.float32),
    ],
)
def test_alpha_keeps_its_value_in_a_file_of_narrow_numbers(tmp_path, dtype, alpha, expected):
    term = next(term for term in draw("kohya", alpha=alpha) if term.down.ndim == 2)
    term = dataclasses.replace(term, down=term.down.astype(dtype), up=term.up.astype(dtype))
    file = write(tmp_path / "k.safetensors", [term], "kohya")
    (found,) = read_lora(file, CONFIG)
    assert (found.alpha, found.down.dtype) == (alpha, dtype)
    (name,) = (name for name in SafetensorsFile(file) if name.endswith(".alpha"))
    assert SafetensorsFile(file)[name].dtype == expected


@pytest.mark.parametrize("shared", [False, True])
def test_parts_in_different_dtypes_are_joined_in_fp32(tmp_path, shared):
    by_key, dtypes = {term.rule.key: term for term in draw()}, (ml_dtypes.bfloat16, np.float16, ml_dtypes.float8_e4m3fn)
    down = np.ones((RANK, 16), np.float32)
    terms = [
        Term(by_key[key].rule, (down if shared else by_key[key].down).astype(dtype), by_key[key].up.astype(dtype), 2.0)
        for key, dtype in zip(QKV, dtypes, strict=True)
    ]
    (joined,) = read_lora(write(tmp_path / "k.safetensors", terms, "kohya"), CONFIG)
    assert joined.down.dtype == joined.up.dtype == np.float32
    assert joined.rank == (RANK if shared else 3 * RANK)
    leaf = "mmdit.blocks.image.qkv.kernel"
    np.testing.assert_allclose(changes([joined])[leaf], changes(terms)[leaf], rtol=1e-5, atol=1e-6)
