"""Each row of docs/coming_from_pytorch.md is tried: its commands parse, its fields take its values, its calls exist."""

import ast
import dataclasses
import functools
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs import dual_diff_pretrain, dual_diff_sft
from convert.__main__ import _parser
from dualdiff_jax import DualDiffusionPipeline
from dualdiff_jax.config import ModelConfig, RunConfig, SourceConfig
from dualdiff_jax.config.fields import field_types, is_section, value_faults
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.pipeline.image_options import ImageOptions
from dualdiff_jax.sampling.text_options import TextOptions

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "coming_from_pytorch.md").read_text(encoding="utf-8")
SECTIONS = {field.name for field in dataclasses.fields(RunConfig)}
PLACEHOLDERS = {"N": 2}

# What the original takes, and a reader would look for.
THEIRS = re.findall(
    r"\S+",
    """
--resume --no_auto_resume --resume_t5 --data_parallel h_sdp h_fsdp sdp fsdp --model_parallel_size --precision fp16 tf32
fp32 bf16 --grad_precision --global_seed --reverse --new_dataset ema_steps ema_rate resume_from_legacy
pretrained_mask_emb train_real_cap_ratio num_workers max_length sampling_eps antithetic_sampling importance_sampling
ignore_padding caption_training_weight lr wd num_warmup_steps grad_clip global_batch_size micro_batch_size max_steps
log_every ckpt_every disable_skip_data project_name run_name noise_scheduler_pretrained sd3_pipeline_load_from
org_caption_key re_caption_key resolution roots json_lst seed prompt negative_prompt num_images_per_prompt generator
latents output_type num_inference_steps guidance_scale sigmas max_sequence_length prompt_embeds negative_prompt_embeds
set_sampling_mode sequence_length
""",
)


def rows() -> Iterator[list[str]]:
    """The cells of every row of every table, without heads."""
    for line in PAGE.splitlines():
        if line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


OURS = [word for row in rows() for cell in row[1:] for word in code(cell)]


@functools.cache
def field(path: str) -> tuple[Any, Any] | None:
    """(type, bounds) of a field of a run's config by its dotted path, or of a source by its name."""
    section: Any = RunConfig
    *parents, name = path.split(".")
    if not parents:
        section = next((cls for cls in (SourceConfig, RunConfig) if name in field_types(cls)), RunConfig)
    for parent in parents:
        section = field_types(section).get(parent)
        if not is_section(section):
            return None
    bounds = {one.name: one.metadata for one in dataclasses.fields(section)}
    return (field_types(section)[name], bounds[name]) if name in bounds else None


def parameters(method: str) -> set[str]:
    """What a method of the pipeline takes, by itself or for the method that it hands its ``**options`` to."""
    own = inspect.signature(getattr(DualDiffusionPipeline, method)).parameters
    is_open = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in own.values())
    inner = {"text_to_image": "generate_images", "image_to_text": "generate_text", "answer": "generate_text"}
    inner |= {"generate_text": "complete_text"}
    if method in inner:
        return set(own) | (parameters(inner[method]) if is_open else set())
    options = {"generate_images": ImageOptions, "complete_text": TextOptions}.get(method)
    return set(own) | ({one.name for one in dataclasses.fields(options)} if options else set())


def literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return PLACEHOLDERS.get(text, text)


def test_everything_that_the_original_takes_has_a_row():
    named = {word for row in rows() for word in re.findall(r"[\w-]+", " ".join(code(row[0])))}
    assert [name for name in THEIRS if name not in named] == []


@pytest.mark.parametrize("word", [word for word in OURS if word.startswith("--config.")])
def test_a_flag_of_the_config_takes_its_value(word):
    path, _, value = word.removeprefix("--config.").partition("=")
    if path == "recipe":
        return resolve(dual_diff_sft.get_config().to_dict() | {"recipe": value})
    found = field(path)
    assert found is not None, path
    assert list(value_faults(path, found[0], literal(value), found[1])) == []


@pytest.mark.parametrize(
    "word", [word for word in OURS if re.fullmatch(r"(?!dualdiff_jax)[a-z]\w*\.[\w.]+(=.+)?", word)]
)
def test_a_field_exists_and_takes_its_value(word):
    path, _, value = word.partition("=")
    if path.split(".")[0] not in SECTIONS:
        pytest.fail(f"{word} is no field; a module is written with its file's name")
    found = field(path)
    assert found is not None, path
    assert not value or list(value_faults(path, found[0], literal(value), found[1])) == []


@pytest.mark.parametrize("word", [word for word in OURS if word.startswith("python -m convert")])
def test_a_command_of_the_converter_parses(word):
    arguments = shlex.split(word)[3:]
    if len(arguments) > 1:
        assert _parser().parse_args([*arguments, *([] if "--output" in word or "inspect" in word else ["--output=x"])])


@pytest.mark.parametrize("word", [word for word in OURS if word.startswith("python main.py")])
def test_a_command_names_a_config_that_is_there(word):
    (file,) = re.findall(r"--config=(\S+)", word)
    assert (ROOT / file).is_file()


@pytest.mark.parametrize("word", [word for word in OURS if re.match(r"pipe\.|DualDiffusionPipeline\.", word)])
def test_a_call_takes_its_arguments(word):
    call = ast.parse(word, mode="eval").body
    assert isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
    assert {keyword.arg for keyword in call.keywords} <= parameters(call.func.attr)


@pytest.mark.parametrize("word", [word for word in OURS if re.fullmatch(r"[a-z_]+=[^=]+", word)])
def test_an_argument_alone_is_one_of_a_call_or_a_field_of_a_source(word):
    name, _, value = word.partition("=")
    if name == "recipe":
        return
    found, taken = field(name), parameters("text_to_image") | parameters("from_pretrained")
    assert found is not None or name in taken
    if found is not None and name not in taken:
        assert list(value_faults(name, found[0], literal(value), found[1])) == []


RECIPE = [row for row in rows() if len(row) == 4 and row[0]]


@pytest.mark.parametrize("row", RECIPE, ids=[row[0] for row in RECIPE])
def test_the_table_of_the_recipe_has_the_values_of_both(row):
    """A row has our value first, then all that the original has, in pretraining and in instruction tuning."""
    path, *values = code(row[3])
    *section, name = path.split(".")
    found: dict[str, set] = {"ours": set(), "original": set()}
    for config in (dual_diff_pretrain.get_config(), dual_diff_sft.get_config()):
        for recipe in found:
            resolved = resolve(config.to_dict() | {"recipe": recipe})
            sections = (
                [getattr(resolved, section[0])] if section else [*filter(_has_choice(name), resolved.read_sources)]
            )
            found[recipe] |= {getattr(one, name) for one in sections}
    assert found["ours"] == {literal(values[0])}
    assert found["original"] <= set(map(literal, values)) <= found["ours"] | found["original"]


def _has_choice(name):
    if name == "caption_weights":
        return lambda source: len(source.caption_keys) == 2
    return lambda source: source.task == "instruction"


def test_sizes_of_a_model_are_fields_too():
    assert field("model.compute_dtype") is not None and "sampling" in field_types(ModelConfig)
    assert field("optimizer.no_such") is None and field("no.such") is None
