"""A config without a network takes what it leaves out from the model that it starts from."""

import pytest

from configs import photos
from dualdiff_jax.cli.run_config import with_base
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.errors import UserError
from dualdiff_jax.weights import save_model
from tests.small_run import small_run
from tests.unit.tiny import random_weights


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model folder and its config."""
    root = tmp_path_factory.mktemp("base")
    config, tokenizer = small_run(root / "run")
    save_model(root / "model", config.model, random_weights(config.model), tokenizer)
    return root / "model", config.model


def test_the_model_its_tokenizer_and_its_image_size_are_those_of_the_base(base):
    folder, model = base
    given = photos.get_config().to_dict() | {"init_from": str(folder)}
    given["model"]["attention"] = "xla"
    config = resolve(with_base(given))
    assert (config.model.mmdit, config.model.t5, config.model.autoencoder) == (model.mmdit, model.t5, model.autoencoder)
    assert config.model.attention == "xla"
    assert config.data.tokenizer == str(folder / "tokenizer")
    assert [(source.height, source.width) for source in config.data.sources] == [
        (model.sampling.height, model.sampling.width)
    ]


def test_what_the_config_says_stays(base):
    folder, _ = base
    given = photos.get_config().to_dict() | {"init_from": str(folder)}
    given["data"]["sources"] = [{**given["data"]["sources"][0], "height": 16}]
    given["data"]["tokenizer"] = "words"
    found = with_base(given)["data"]
    assert (found["sources"][0]["height"], found["tokenizer"]) == (16, "words")
    whole = {**given, "model": {"mmdit": {"depth": 1}}}
    assert with_base(whole) is whole


def test_without_a_model_to_start_from_the_config_is_refused(tmp_path):
    given = photos.get_config().to_dict()
    with pytest.raises(UserError, match="has no model; give --config.init_from=MODEL_DIR"):
        with_base(given)
    with pytest.raises(UserError, match="nothing"):
        with_base(given | {"init_from": str(tmp_path / "nothing")})
