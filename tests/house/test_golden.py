"""A golden file holds the resolved form of each config, so that a changed default shows in review.

    python -m tests.house.test_golden
writes all golden files anew.
"""

import importlib.util
import json
from pathlib import Path

import pytest

from dualdiff_jax.config import RunConfig, published
from dualdiff_jax.config.resolve import differences, resolve, to_dict

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
CONFIGS = sorted(file for file in (ROOT / "configs").rglob("*.py") if "def get_config" in file.read_text("utf-8"))


def resolved(file: Path) -> RunConfig:
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    if not config.model.get("mmdit"):  # it takes the model of init_from; here, the published one
        config.model.update(published.D_DIT_2B)
        config.data.tokenizer = "MODEL_DIR/tokenizer"
        config.data.sources = [published.SAMPLING | source for source in config.data.sources]
    return resolve(config)


def golden_file(config: Path) -> Path:
    return GOLDEN / config.relative_to(ROOT / "configs").with_suffix(".json")


def as_json(config: RunConfig) -> str:
    return json.dumps(to_dict(config), indent=2, ensure_ascii=False) + "\n"


def mismatch(config: RunConfig, golden: Path) -> str:
    """The differences and what to do about them; "" if there are none."""
    advice = "if you mean it, run python -m tests.house.test_golden and commit what it writes"
    if not golden.exists():
        return f"{golden.name} is missing; {advice}"
    text = golden.read_text(encoding="utf-8")
    if text == as_json(config):
        return ""
    old = json.loads(text)
    try:
        lines = list(differences(resolve(old), config))
    except ValueError as error:  # a field is gone, or has other bounds
        lines = [str(error)]
    return "\n  ".join([f"{golden.name} differs; {advice}", *lines])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_resolved_config_is_the_golden_one(config):
    found = mismatch(resolved(config), golden_file(config))
    assert not found, found


def test_every_golden_file_has_its_config():
    assert CONFIGS
    assert set(GOLDEN.rglob("*.json")) == {golden_file(config) for config in CONFIGS}


def test_a_changed_value_a_lost_field_and_a_missing_file_are_reported(tmp_path):
    config = resolved(CONFIGS[0])
    golden = tmp_path / "some.json"
    assert "some.json is missing" in mismatch(config, golden)
    golden.write_text(as_json(config), encoding="utf-8")
    assert mismatch(config, golden) == ""
    for section, name, value, message in (
        ("optimizer", "beta2", 0.5, "optimizer.beta2: 0.5 -> 0.999"),
        ("train", "epochs", 3, "train.epochs: no such field"),
    ):
        old = to_dict(config)
        old[section][name] = value
        golden.write_text(json.dumps(old, indent=2) + "\n", encoding="utf-8")
        assert message in mismatch(config, golden) and "python -m tests.house.test_golden" in mismatch(config, golden)
    old = to_dict(config)
    del old["optimizer"]["beta2"]
    golden.write_text(json.dumps(old, indent=2) + "\n", encoding="utf-8")
    assert "some.json differs" in mismatch(config, golden)


def write() -> None:
    for file in GOLDEN.rglob("*.json"):
        file.unlink()
    for config in CONFIGS:
        golden_file(config).parent.mkdir(parents=True, exist_ok=True)
        golden_file(config).write_text(as_json(resolved(config)), encoding="utf-8")


if __name__ == "__main__":
    write()
