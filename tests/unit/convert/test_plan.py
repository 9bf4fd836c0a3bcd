"""The plan of an import: each number has one tensor, missing leaves are initialised, the report lists every fault."""

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.checkpoint_formats import FORMATS, MMDIT, T5, CheckpointFormat
from dualdiff_jax.convert.plan import Plan, format_rules, refuse_faults
from dualdiff_jax.convert.rule import Entry
from dualdiff_jax.convert.tensors import SHOWN
from dualdiff_jax.convert.torch_checkpoint import Component
from dualdiff_jax.errors import QUOTED, UserError, quoted
from tests.torch_weights import ArrayTensors
from tests.unit.tiny import CONFIG

SD3 = {one.name: one for one in FORMATS if one.network == "mmdit" and one is not MMDIT}
DIFFUSERS, ORIGINAL = "SD3 transformer", "SD3 transformer of the original file"
SIZES = CONFIG.mmdit
WIDTH, LAST = SIZES.width, SIZES.depth - 1
FLOAT32 = np.dtype(np.float32)


def with_entries(entries: list[Entry]) -> CheckpointFormat:
    def given_entries(config: ModelConfig) -> Iterator[Entry]:
        return iter(entries)

    return dataclasses.replace(MMDIT, entries=given_entries)


def random_tensors(checkpoint_format: CheckpointFormat, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    rules = [rule for group in format_rules(checkpoint_format, CONFIG).values() for rule in group]
    return {rule.key: rng.standard_normal(rule.shape, np.float32) for rule in rules}


def plan(checkpoint_format: CheckpointFormat, tensors: dict[str, np.ndarray], prefix: str = "") -> Plan:
    named = {prefix + key: tensor for key, tensor in tensors.items()}
    return Plan(CONFIG, [Component(checkpoint_format, ArrayTensors(named, list(named)), prefix, {})])


def test_a_format_that_fills_a_number_twice_or_not_at_all_is_an_assertion_error():
    entries = list(MMDIT.entries(CONFIG))
    assert sum(map(len, format_rules(with_entries(entries), CONFIG).values())) == len(random_tensors(MMDIT))
    for wrong in (entries[:-1], [*entries, entries[-1]]):
        with pytest.raises(AssertionError, match=f"{entries[-1].leaf}, layer None: .* of .* numbers have a key"):
            format_rules(with_entries(wrong), CONFIG)


@pytest.mark.parametrize("name", [DIFFUSERS, ORIGINAL])
def test_a_leaf_that_sd3_lacks_is_drawn_by_its_name_and_layer_or_zero(name):
    found = plan(SD3[name], random_tensors(SD3[name]))

    def assert_drawn(leaf: str, layer: int, fan_in: int) -> None:
        array = found.read(leaf, layer or None, FLOAT32)
        rng = np.random.default_rng([0, *leaf.encode(), layer])
        expected = rng.standard_normal(array.shape, np.float32) * np.float32(fan_in**-0.5)
        np.testing.assert_array_equal(array, expected, err_msg=leaf)

    assert_drawn("mmdit.null_image", 0, WIDTH)
    assert_drawn("mmdit.blocks.text.attention_out.kernel", LAST, WIDTH)
    assert_drawn("mmdit.blocks.text.mlp_in.kernel", LAST, WIDTH)
    assert_drawn("mmdit.blocks.text.mlp_out.kernel", LAST, SIZES.mlp_ratio * WIDTH)
    for leaf in ("mmdit.text_out.kernel", "mmdit.text_out.bias"):
        assert not found.read(leaf, None, FLOAT32).any()
    for leaf in ("attention_out", "mlp_in", "mlp_out"):
        assert not found.read(f"mmdit.blocks.text.{leaf}.bias", LAST, FLOAT32).any()


@pytest.mark.parametrize(
    ("name", "key", "order"),
    [
        (DIFFUSERS, f"transformer_blocks.{LAST}.norm1_context.linear", (1, 0)),
        (ORIGINAL, f"joint_blocks.{LAST}.context_block.adaLN_modulation.1", (0, 1)),
    ],
)
def test_the_last_text_block_has_scale_and_shift_in_the_order_of_its_file_and_closed_gates(name, key, order):
    tensors = random_tensors(SD3[name])
    found = plan(SD3[name], tensors)
    kernel = found.read("mmdit.blocks.text.modulation.kernel", LAST, FLOAT32)
    bias = found.read("mmdit.blocks.text.modulation.bias", LAST, FLOAT32)
    for half, vector in enumerate(order):
        rows = slice(half * WIDTH, (half + 1) * WIDTH)
        np.testing.assert_array_equal(kernel[:, vector], tensors[f"{key}.weight"][rows].T)
        np.testing.assert_array_equal(bias[vector], tensors[f"{key}.bias"][rows])
    assert not kernel[:, 2:].any() and not bias[2:].any()


def test_the_head_of_the_original_file_has_shift_before_scale():
    tensors = random_tensors(SD3[ORIGINAL])
    kernel = plan(SD3[ORIGINAL], tensors).read("mmdit.image_modulation.kernel", None, FLOAT32)
    both = tensors["final_layer.adaLN_modulation.1.weight"].reshape(2, WIDTH, WIDTH)
    np.testing.assert_array_equal(kernel, both[::-1].transpose(2, 0, 1))


def test_a_prefix_is_not_part_of_a_name():
    tensors = random_tensors(MMDIT)
    found = plan(MMDIT, tensors, "model.")
    np.testing.assert_array_equal(found.read("mmdit.text_out.bias", None, FLOAT32), tensors["text_proj_out.bias"])
    with pytest.raises(UserError, match=r"have a fault:\n.*model\.text_proj_out\.bias: found nothing, expected shape"):
        plan(MMDIT, {key: value for key, value in tensors.items() if key != "text_proj_out.bias"}, "model.")


def test_faults_are_counted_and_a_near_name_is_offered():
    tensors = random_tensors(MMDIT)
    tensors["text_proj_out.bais"] = tensors.pop("text_proj_out.bias")
    tensors["something.else"] = np.zeros(3, np.float32)
    with pytest.raises(UserError) as error:
        plan(MMDIT, tensors)
    message = str(error.value)
    assert "have 3 faults" in message
    assert "text_proj_out.bais: found an unknown name; expected text_proj_out.bias?" in message
    assert "something.else: found an unknown name, which is expected nowhere" in message


@pytest.mark.parametrize("key", ["x" * QUOTED, "x" * (QUOTED + 1), "two\nlines"])
def test_an_unknown_name_is_shown_as_it_is_unless_it_is_long_or_has_several_lines(key):
    shown = key if key == "x" * QUOTED else quoted(key)
    with pytest.raises(UserError) as error:
        plan(MMDIT, random_tensors(MMDIT) | {key: np.zeros(3, np.float32)})
    assert f": {shown}: found an unknown name, which is expected nowhere" in str(error.value)


def test_each_key_with_non_finite_numbers_is_logged(caplog):
    tensors = random_tensors(MMDIT)
    tensors["text_proj_out.bias"][3] = np.inf
    found = plan(MMDIT, tensors)
    found.read("mmdit.text_out.kernel", None, FLOAT32)
    assert caplog.records == []
    found.read("mmdit.text_out.bias", None, FLOAT32)
    (record,) = caplog.records
    assert "text_proj_out.bias" in record.getMessage() and record.levelname == "WARNING"


@pytest.mark.parametrize(
    ("stored", "value", "asked", "advice"),
    [
        (np.float64, 1e39, FLOAT32, "copy the file again"),
        (np.float64, -1e300, FLOAT32, "copy the file again"),
        (np.float32, 3.4e38, jnp.dtype(jnp.bfloat16), "give --dtype=float32"),
    ],
)
def test_a_number_too_large_for_the_dtype_is_refused(stored, value, asked, advice):
    bias = np.zeros(SIZES.vocab_size, stored)
    bias[:3] = [np.inf, np.nan, 3.3e38]
    found = plan(MMDIT, random_tensors(MMDIT) | {"text_proj_out.bias": bias})
    read = found.read("mmdit.text_out.bias", None, asked)
    assert np.isinf(read).sum() == 1 and np.isnan(read).sum() == 1
    bias[4] = value
    message = f"text_proj_out.bias holds numbers too large for {asked}; {advice}"
    with pytest.raises(UserError, match=message):
        found.read("mmdit.text_out.bias", None, asked)


def test_a_tied_tensor_that_is_not_finite_is_the_same_under_both_names(caplog):
    table = np.random.default_rng(0).standard_normal((CONFIG.t5.vocab_size, CONFIG.t5.width), np.float32)
    table[3, 2] = np.nan
    tensors = random_tensors(T5) | {"shared.weight": table, "encoder.embed_tokens.weight": table.copy()}
    found = plan(T5, tensors).read("t5.embedding", None, FLOAT32)
    np.testing.assert_array_equal(found, table)
    assert "shared.weight holds numbers that are not finite" in caplog.text
    tensors["encoder.embed_tokens.weight"][5, 1] += 1
    with pytest.raises(UserError, match="found other values than in"):
        plan(T5, tensors).read("t5.embedding", None, FLOAT32)


def test_leaves_are_bfloat16_where_all_tensors_are_or_as_requested():
    half = {key: value.astype(jnp.bfloat16) for key, value in random_tensors(MMDIT).items()}
    mixed = half | {"text_proj_out.bias": half["text_proj_out.bias"].astype(np.float32)}
    assert plan(MMDIT, half).dtype("mmdit", None) == jnp.bfloat16
    assert plan(MMDIT, mixed).dtype("mmdit", None) == FLOAT32
    assert plan(MMDIT, half).dtype("mmdit", "float32") == FLOAT32
    read = plan(MMDIT, half).read("mmdit.text_out.bias", None, jnp.dtype(jnp.bfloat16))
    np.testing.assert_array_equal(read, half["text_proj_out.bias"])


@pytest.mark.parametrize(
    "count, rest", [(1, None), (SHOWN, None), (SHOWN + 1, "  and 1 more"), (SHOWN + 7, "  and 7 more")]
)
def test_faults_beyond_those_that_are_shown_are_counted(count, rest):
    with pytest.raises(UserError) as raised:
        refuse_faults("the weights have", [f"fault {number}" for number in range(count)])
    first, *lines = str(raised.value).splitlines()
    assert first == f"the weights have {'a fault' if count == 1 else f'{count} faults'}:"
    assert lines == [f"  fault {number}" for number in range(min(count, SHOWN))] + ([rest] if rest else [])
