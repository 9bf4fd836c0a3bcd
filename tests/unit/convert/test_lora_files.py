"""Files that are no LoRA of this model are refused in a sentence, before a tensor is read; the command line."""

import json
import logging
import pickle
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from convert.__main__ import main
from demo.data import write_tokenizer
from dualdiff_jax.convert.lora_alpha import PEFT_CONFIG
from dualdiff_jax.convert.lora_file import read_lora
from dualdiff_jax.convert.lora_writer import FORMATS, write_lora
from dualdiff_jax.convert.tensor_file import CHECKSUMS, SafetensorsFile
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.stored_arrays import read_leaves, stored_leaves
from dualdiff_jax.weights import save_model
from tests.flipped_bits import flipped_bits
from tests.full_disk import full_disk
from tests.unit.convert.loras import RANK, assert_equal_files, draw, tensors, write
from tests.unit.pipeline.test_pipeline import config as sized
from tests.unit.tiny import CONFIG, random_weights

Q = "transformer.transformer_blocks.0.attn.to_q"
JOINED = "joint_blocks.0.x_block.attn.qkv"
DOWN, UP = np.ones((RANK, 16), np.float32), np.ones((16, RANK), np.float32)
GOOD = {f"{Q}.lora_A.weight": DOWN, f"{Q}.lora_B.weight": UP}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({f"{Q}.lora_A.weight": DOWN[:0], f"{Q}.lora_B.weight": UP[:, :0]}, "found rank 0, expected at least 1"),
        ({f"{Q}.lora_A.weight": np.ones((RANK, 24), np.float32)}, "found shape (3, 24), expected (rank, 16) for mmdit"),
        ({f"{Q}.lora_B.weight": np.ones((24, RANK), np.float32)}, "found shape (24, 3), expected (16, 3) for mmdit"),
        ({f"{Q}.lora_A.weight": DOWN.ravel()}, "found shape (48,), expected (rank, 16)"),
        ({f"{Q}.lora_A.weight": np.ones((), np.float32)}, "found shape (), expected (rank, 16)"),
        ({f"{Q}.lora_A.weight": DOWN.astype(np.int32)}, "found dtype int32, expected floating point numbers"),
        ({f"{Q}.lora_A.weight": None}, "to_q: found no down matrix, expected one"),
        ({f"{Q}.alpha": np.ones(2, np.float32)}, "found shape (2,), expected one number"),
        ({"transformer.transformer_blocks.7.attn.to_q.lora_A.weight": DOWN}, "an unknown name, this model has no"),
        ({"transformer.norm1.bias": UP}, "norm1.bias: found an unknown name, which is no part of a LoRA"),
        ({f"{Q}.lora_magnitude_vector": UP}, "so it is a DoRA; only plain LoRAs can be read"),
        ({f"{Q}.lora_A.style.weight": DOWN}, "found a second down matrix beside"),
        ({f"{Q}.lora.up.weight": UP}, "found a second up matrix beside"),
        ({f"{Q}.lora_down.weight": DOWN}, "keep one adapter in the file"),
        (
            {name.removeprefix("transformer."): tensor for name, tensor in GOOD.items()},
            "found a second pair beside",
        ),
        (  # query, key and value as one, as the original has them
            {f"{JOINED}.lora_A.weight": DOWN, f"{JOINED}.lora_B.weight": np.ones((48, RANK), np.float32)},
            f"{Q}: found a second pair beside {JOINED}; keep one pair for a layer",
        ),
        ({f"{Q}.alpha": np.full((), np.inf, np.float32)}, "to_q has alpha inf, expected a finite number; copy"),
        ({f"{Q}.alpha": np.ones((), bool)}, "alpha: found dtype bool, expected a number"),
        ({f"{Q}.hada_w1_a": UP}, "so it is a LyCORIS; only plain LoRAs can be read"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused(tmp_path, change, told):
    tensors = {name: tensor for name, tensor in (GOOD | change).items() if tensor is not None}
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        read_lora(tmp_path / "lora.safetensors", CONFIG)
    assert str(tmp_path / "lora.safetensors") in str(caught.value)


@pytest.mark.parametrize("naming", FORMATS)
def test_a_flipped_bit_changes_no_term_unnoticed(tmp_path, naming):
    output = tmp_path / "lora" / ("peft" if naming == "peft" else "lora.safetensors")
    write(output, draw("kohya" if naming == "kohya" else "diffusers")[:1], naming)
    (expected,), refused = read_lora(output, CONFIG), []
    for file in flipped_bits(tmp_path / "lora", 60, seed=0):
        try:
            (found,) = read_lora(output, CONFIG)
            assert found.rule == expected.rule and found.alpha == expected.alpha or file.name == PEFT_CONFIG
            assert np.array_equal(found.down, expected.down) and np.array_equal(found.up, expected.up), file
        except UserError as error:
            refused.append(str(error))
    assert sum("was changed since it was written; copy the file again" in message for message in refused) > 5


def test_a_tensor_that_another_program_has_rounded_is_read(tmp_path):
    write_lora(tmp_path / "lora.safetensors", draw()[:1], CONFIG)
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors(tmp_path / "lora.safetensors").items()}
    metadata = SafetensorsFile(tmp_path / "lora.safetensors").metadata
    assert CHECKSUMS in metadata
    save_file(halves, tmp_path / "half.safetensors", metadata=metadata)
    (term,) = read_lora(tmp_path / "half.safetensors", CONFIG)
    assert term.down.dtype == np.float16


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float16])
def test_an_alpha_may_be_whole(tmp_path, dtype):
    """kohya's scripts write the rank, a whole number, where nobody gave an alpha."""
    save_file(GOOD | {f"{Q}.alpha": np.array(6, dtype)}, tmp_path / "lora.safetensors")
    (term,) = read_lora(tmp_path / "lora.safetensors", CONFIG)
    assert term.alpha == 6.0 and type(term.alpha) is float


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_a_lora_that_is_not_finite_is_read_and_changes_no_model(model, tmp_path, caplog, part):
    bad = GOOD[f"{Q}.{part}.weight"].copy()
    bad[1, 2] = np.nan
    save_file(GOOD | {f"{Q}.{part}.weight": bad}, tmp_path / "lora.safetensors")
    with pytest.raises(SystemExit, match="attn.to_q': the LoRA has numbers that are not finite; copy it again"):
        main(["lora", "merge", str(tmp_path / "lora.safetensors"), f"--model={model}", f"--output={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_all_faults_of_a_file_are_in_one_report(tmp_path):
    other = {name.replace("to_q", "to_k"): tensor[..., :1] for name, tensor in GOOD.items()}
    save_file(GOOD | other | {"x.lora_A.weight": DOWN}, tmp_path / "lora.safetensors")
    with pytest.raises(UserError, match="has 3 faults:"):
        read_lora(tmp_path / "lora.safetensors", CONFIG)


def test_keys_that_match_nothing(tmp_path):
    save_file({"unet.down.lora_A.weight": DOWN, "unet.down.lora_B.weight": UP}, tmp_path / "lora.safetensors")
    with pytest.raises(UserError, match="none of its 2 tensors, such as unet.down.lora_[AB].weight, changes a layer"):
        read_lora(tmp_path / "lora.safetensors", CONFIG)


def test_text_encoders_are_left_out_with_a_warning(tmp_path, caplog):
    names = ("text_encoder.layers.0.q", "lora_te1_layers_0_q", "transformer.time_text_embed.text_embedder.linear_1")
    others = {f"{name}.lora_{part}.weight": DOWN for name in names for part in ("A", "B")}
    save_file(GOOD | others | {"text_encoder.x.bias": DOWN}, tmp_path / "lora.safetensors")
    with caplog.at_level(logging.WARNING):
        assert len(read_lora(tmp_path / "lora.safetensors", CONFIG)) == 1
    assert "left out" in caplog.text and all(name in caplog.text for name in names)


class Opened:
    """Would be called by a reader that unpickles."""

    def __reduce__(self):
        return pytest.fail, ("the pickle was opened",)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lora.bin", "is a pickled file, which can run code; give the LoRA's .safetensors file"),
        ("lora.pt", "is a pickled file, which can run code"),
        ("lora.safetensors", "it is truncated or no safetensors file"),
        ("lora.ckpt", "is no LoRA; give a .safetensors file"),
    ],
)
def test_a_pickled_file_is_not_opened(tmp_path, name, told):
    (tmp_path / name).write_bytes(pickle.dumps(Opened()))
    with pytest.raises(UserError, match=told):
        read_lora(tmp_path / name, CONFIG)


def test_places_that_hold_no_lora(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        read_lora(tmp_path / "gone.safetensors", CONFIG)
    with pytest.raises(UserError, match="holds neither pytorch_lora_weights.safetensors nor adapter_model.safetensors"):
        read_lora(tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (None, "adapter_config.json: is missing, and has the LoRA's alpha"),
        ({"peft_type": "LOHA", "lora_alpha": 1}, "is a 'LOHA'; only plain LoRAs"),
        ({"use_dora": True, "lora_alpha": 1}, "is a DoRA"),
        ({"r": 3}, "lacks 'lora_alpha'"),
        ({"lora_alpha": "4"}, "lora_alpha: found '4', expected a number"),
        ({"lora_alpha": 1, "alpha_pattern": {"(a+)+$": 2}}, "no patterns"),
        ({"lora_alpha": 1, "alpha_pattern": [1]}, "expected an object"),
    ],
)
def test_settings_of_peft_that_cannot_be_read(tmp_path, settings, told):
    save_file({name.replace("transformer.", "base_model.model.", 1): t for name, t in GOOD.items()},
              tmp_path / "adapter_model.safetensors")  # fmt: skip
    if settings is not None:
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=re.escape(told)):
        read_lora(tmp_path, CONFIG)


def test_nothing_is_overwritten_and_nothing_empty_is_written(tmp_path):
    file = write(tmp_path / "lora.safetensors", draw())
    with pytest.raises(UserError, match="exists already"):
        write_lora(file, draw(), CONFIG)
    with pytest.raises(UserError, match="give a name that ends in .safetensors"):
        write_lora(tmp_path / "lora", draw(), CONFIG, "kohya")
    head = [term for term in draw() if term.rule.key == "text_proj_out"]
    with pytest.raises(UserError, match="nothing would be in it"):
        write_lora(tmp_path / "other.safetensors", head, CONFIG, only_sd3=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora.safetensors"]


def test_peft_writes_no_folder_that_is_called_a_file(tmp_path):
    with pytest.raises(UserError, match="out.safetensors: is the name of a file, and peft writes a folder; give"):
        write(tmp_path / "out.safetensors", draw(), "peft")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("naming", FORMATS)
def test_a_disk_that_fills_up_is_one_sentence(tmp_path, naming):
    output = tmp_path / ("peft" if naming == "peft" else "lora.safetensors")
    with full_disk() as fill, pytest.raises(UserError, match=rf"^{output}: .*; make room, or choose another [^\n]*$"):
        fill(True)
        write_lora(output, draw(), CONFIG, naming)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_tokenizer(folder / "words")
    tokenizer = Tokenizer(folder / "words")
    config = sized(tokenizer.vocab_size)
    save_model(folder / "model", config, random_weights(config), tokenizer)
    return folder / "model"


def test_the_command_inspects_exports_and_merges(model, tmp_path, capsys):
    terms = [term for term in draw() if "text_proj_out" not in term.rule.key]
    source = write(tmp_path / "source.safetensors", terms, "kohya")
    main(["lora", "inspect", str(source), f"--model={model}"])
    assert "mmdit.blocks.image.attention_out.kernel: 2 x rank 3, alpha 2, float32" in capsys.readouterr().out
    for name, chosen in (("peft", "peft"), ("back.safetensors", "kohya")):
        place = [str(source), f"--model={model}", f"--output={tmp_path / name}", f"--format={chosen}"]
        main(["lora", "export", *place])
        source = tmp_path / name
    assert_equal_files(source, tmp_path / "source.safetensors")
    main(["lora", "export", str(source), f"--model={model}", f"--output={tmp_path / 'sd3.safetensors'}", "--sd3"])
    assert "left out, SD3 has no such layers or only a part of them: joint_blocks.1" in capsys.readouterr().out

    main(["lora", "merge", str(source), f"--model={model}", f"--output={tmp_path / 'merged'}", "--scale=-0.5"])
    before, after = (
        read_leaves(folder / "weights", stored_leaves(folder / "weights")) for folder in (model, tmp_path / "merged")
    )
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {term.rule.leaf for term in terms}
    with pytest.raises(SystemExit, match="exists already"):
        main(["lora", "merge", str(source), f"--model={model}", f"--output={tmp_path / 'merged'}"])
    with pytest.raises(SystemExit):
        main(["lora", "merge", str(source), f"--model={model}", f"--output={tmp_path / 'other'}", "--scale=nan"])
    with pytest.raises(SystemExit):
        main(["lora", "merge", str(source), f"--model={model}", f"--output={tmp_path / 'other'}", "--scale=big"])
    assert "argument --scale: 'big' is no number" in capsys.readouterr().err
