"""What encode-data does not accept, and that it changes nothing then: other models, other files, damaged folders."""

import dataclasses
from pathlib import Path

import jax
import pytest

from dualdiff_jax.cli import data as cli_data
from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.encoding.frozen_encoder import FrozenEncoder
from dualdiff_jax.encoding.writer import encode_sources
from dualdiff_jax.errors import UserError
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.weights import new_model_folder
from tests.small_run import RECORDS, small_config, small_run, write_data
from tests.unit.tiny import random_weights


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> tuple[RunConfig, Tokenizer]:
    return small_run(tmp_path_factory.mktemp("encode"))


@pytest.fixture(scope="module")
def encoder(setting) -> FrozenEncoder:
    return encoder_of(setting[0], seed=0)


def encoder_of(config: RunConfig, seed: int) -> FrozenEncoder:
    return FrozenEncoder(config.model, random_weights(config.model, seed), make_mesh(config.mesh, jax.devices()[:1]))


def encode(setting, encoder, output: Path, model: str = "test", **options) -> dict[str, Path]:
    config, tokenizer = setting
    return encode_sources(config.data, encoder, tokenizer, output, made_by={"model": model}, **options)


def test_the_same_model_at_another_path_goes_on_and_other_weights_are_refused(setting, encoder, tmp_path):
    encode(setting, encoder, tmp_path, "runs/model")
    encode(setting, encoder, tmp_path, "copied/model/", progress=lambda *_: pytest.fail("all is encoded"))
    with pytest.raises(UserError, match=r"another config or model \(other weights of t5\); choose another --output"):
        encode(setting, encoder_of(setting[0], seed=1), tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"source": 3}'])
def test_a_damaged_manifest_is_refused_with_what_to_do(setting, encoder, tmp_path, text):
    folder = encode(setting, encoder, tmp_path)["images"]
    (folder / "encoded.json").write_text(text)
    with pytest.raises(UserError, match=f"encoded.json: is damaged; remove {folder} and encode the data anew"):
        encode(setting, encoder, tmp_path)


def test_a_folder_with_other_files_is_refused_and_stays_as_it_is(setting, encoder, tmp_path):
    write_data(tmp_path / "data")  # the source ``images`` is named like the folder of the pictures
    config = resolve(small_config(tmp_path / "data"))
    with pytest.raises(UserError, match="data/images: holds 0.png, which is not encode-data's; choose another"):
        encode((config, setting[1]), encoder, tmp_path / "data")
    assert len(list((tmp_path / "data" / "images").iterdir())) == RECORDS


def test_a_source_is_not_encoded_into_the_folder_that_it_is_read_from(setting, encoder, tmp_path):
    first, *others = setting[0].data.sources
    source = dataclasses.replace(first, root=str(tmp_path / "out" / "images"))
    data = dataclasses.replace(setting[0].data, sources=(source, *others))
    with pytest.raises(UserError, match="images: holds data that the config reads; choose another --output"):
        encode((dataclasses.replace(setting[0], data=data), setting[1]), encoder, tmp_path / "x" / ".." / "out")


@pytest.fixture
def model(setting, tmp_path) -> str:
    """A model folder without weights."""
    with new_model_folder(tmp_path / "model", setting[0].model, setting[1]):
        return str(tmp_path / "model")


def test_a_model_that_is_not_the_configs_is_refused_before_its_weights_are_read(setting, model, tmp_path, monkeypatch):
    config, _ = setting
    cli_data.check_model(config, f"{model}/")
    monkeypatch.setattr(cli_data, "load_model", lambda *_: pytest.fail("weights are read before the refusal"))
    t5 = dataclasses.replace(config.model.t5, depth=4)
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, t5=t5))
    with pytest.raises(UserError, match=r"model: holds other networks .* \(it -> config\):\n  model.t5.depth: 1 -> 4"):
        cli_data.encode_data(other, str(tmp_path / "out"), model, None)


def test_an_attention_that_does_not_run_here_is_refused_before_weights_are_read(setting, tmp_path, monkeypatch):
    monkeypatch.setattr(cli_data, "load_model", lambda *_: pytest.fail("weights are read before the refusal"))
    monkeypatch.setattr(cli_data, "init_weights", lambda *_: pytest.fail("weights are drawn before the refusal"))
    config, tokenizer = setting
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, attention="cudnn"))
    with new_model_folder(tmp_path / "model", other.model, tokenizer):
        pass
    for given, model in ((other, None), (config, str(tmp_path / "model"))):
        with pytest.raises(UserError, match="model.attention 'cudnn' needs an NVIDIA GPU"):
            cli_data.encode_data(given, str(tmp_path / "out"), model, None)


def test_a_network_that_no_run_reads_may_be_another(setting, model):
    """T5 where no caption is embedded, and the MMDiT always."""
    config, _ = setting
    t5, mmdit = dataclasses.replace(config.model.t5, depth=4), dataclasses.replace(config.model.mmdit, depth=7)
    sources = tuple(source for source in config.data.sources if source.task != "image_generation")
    cli_data.check_model(
        dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, t5=t5, mmdit=mmdit),
            data=dataclasses.replace(config.data, sources=sources),
            objective=dataclasses.replace(config.objective, image_weight=0.0),
        ),
        model,
    )


def test_other_tokens_than_the_models_are_refused(setting, model, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for file in Path(model, "tokenizer").iterdir():
        (other / file.name).write_text(file.read_text().replace("digit", "dozen"))
    data = dataclasses.replace(setting[0].data, tokenizer=str(other))
    with pytest.raises(UserError, match=f"model: has other tokens .*; give --config.data.tokenizer={model}/tokenizer"):
        cli_data.check_model(dataclasses.replace(setting[0], data=data), model)


def test_random_weights_are_warned_of(setting, tmp_path, caplog):
    cli_data.encode_data(setting[0], str(tmp_path / "out"), None, None)
    assert "t5: random weights encode the data; give --model=MODEL_DIR or --config.init_from=MODEL_DIR" in caplog.text
