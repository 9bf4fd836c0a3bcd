"""A section of the config that is wrong cannot be built."""

import dataclasses
import json
import math
import pickle
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from configs import demo
from dualdiff_jax import config as sections
from dualdiff_jax.config import (
    ConfigError,
    MeshConfig,
    OptimizerConfig,
    RootConfig,
    TaskConfig,
    TelemetryConfig,
    TrainConfig,
)
from dualdiff_jax.config.fields import field_types
from dualdiff_jax.config.resolve import resolve, to_dict
from dualdiff_jax.errors import UserError

ROOT = Path(__file__).parents[3]
RUN = resolve(demo.get_config())
SOURCE = RUN.data.sources[0]
SECTIONS = [
    RUN,
    RUN.model,
    RUN.model.mmdit,
    RUN.model.t5,
    RUN.model.autoencoder,
    RUN.model.sampling,
    RUN.data,
    RootConfig(root="data"),
    SOURCE,
    RUN.objective,
    RUN.optimizer,
    RUN.train,
    RUN.lora,
    RUN.telemetry,
    RUN.validation,
    TaskConfig(name="vqav2", root="data"),
    RUN.preview,
    RUN.mesh,
]

# (a section that is right, a change, the whole fault)
TYPES = [
    (RUN, {"seed": 0.0}, "seed: expected int, found 0.0"),
    (RUN, {"profile": [3, 4]}, "profile: expected a tuple, found [3, 4]"),
    (RUN.model, {"compute_dtype": 16}, "compute_dtype: 16 is none of 'float32', 'bfloat16'"),
    (RUN.model.mmdit, {"depth": True}, "depth: expected int, found True"),
    (RUN.model.t5, {"heads": None}, "heads: expected int, found None"),
    (RUN.model.autoencoder, {"level_widths": (128, "256")}, "level_widths[1]: expected int, found '256'"),
    (RUN.model.sampling, {"guidance_scale": 7}, "guidance_scale: expected float, found 7"),
    (RUN.data, {"tokenizer": Path("folder")}, f"tokenizer: expected str, found {Path('folder')!r}"),
    (RUN.data, {"sources": (3,)}, "sources[0]: expected SourceConfig, found 3"),
    (RootConfig(root="data"), {"root": b"data"}, "root: expected str, found b'data'"),
    (SOURCE, {"buckets": ((8, 8), 8)}, "buckets[1]: expected a tuple, found 8"),
    (SOURCE, {"buckets": ((8, 8.0),)}, "buckets[0][1]: expected int, found 8.0"),
    (SOURCE, {"question_suffix": 3}, "question_suffix: expected str, found 3"),
    (RUN.objective, {"single_forward": 1}, "single_forward: expected bool, found 1"),
    (RUN.optimizer, {"learning_rate": "1e-3"}, "learning_rate: expected float, found '1e-3'"),
    (RUN.train, {"trainable": "mmdit.*"}, "trainable: expected a tuple, found 'mmdit.*'"),
    (RUN.lora, {"rank": 4.0}, "rank: expected int, found 4.0"),
    (RUN.telemetry, {"tensorboard": "yes"}, "tensorboard: expected bool, found 'yes'"),
    (RUN.validation, {"every": None}, "every: expected int, found None"),
    (TaskConfig(name="vqav2", root="data"), {"limit": 2.5}, "limit: expected int, found 2.5"),
    (RUN.preview, {"prompts": (None,)}, "prompts[0]: expected str, found None"),
    (RUN.mesh, {"rules": (("vocab",), "mlp")}, "rules[1]: expected a tuple, found 'mlp'"),
]
CHOICES = [
    (RUN, {"init_weights": "best"}, "init_weights: 'best' is none of 'ema', 'raw'"),
    (RUN.model, {"attention": "flash"}, "attention: 'flash' is none of 'auto', 'xla', 'cudnn', 'splash', "),
    (RUN.model.autoencoder, {"kind": "vq"}, "kind: 'vq' is none of 'identity', 'kl'"),
    (RUN.model.sampling, {"text_order": "left"}, "text_order: 'left' is none of 'ancestral', 'confidence'"),
    (SOURCE, {"task": "captions"}, "task: 'captions' is none of 'image_generation', 'captioning', 'instruction'"),
    (SOURCE, {"format": "zip"}, "format: 'zip' is none of 'json', 'tar', 'array_record', 'parquet', 'tfds', 'llava'"),
    (RUN.objective, {"image_weighting": "sigma_sqaured"}, "image_weighting: 'sigma_sqaured' is none of 'uniform', "),
    (RUN.optimizer, {"name": "adam"}, "name: 'adam' is none of 'adamw', 'adafactor', 'lion', 'muon'"),
    (RUN.train, {"remat": "all"}, "remat: 'all' is none of 'none', 'full', 'dots', 'save_attention', 'offload'"),
    (RUN.mesh, {"layout": "fspd"}, "layout: 'fspd' is none of 'replicated', 'fsdp', 'hybrid', 'sizes'"),
]
BOUNDS = [
    (RUN, {"seed": -1}, "seed: -1 is below 0"),
    (RUN, {"profile": (1, 0)}, "profile[1]: 0 is below 1"),
    (RUN.model.mmdit, {"vocab_size": 3}, "vocab_size: 3 is below 4"),
    (RUN.model.t5, {"relative_buckets": 3}, "relative_buckets: 3 is below 4"),
    (RUN.model.autoencoder, {"level_widths": (128, 0)}, "level_widths[1]: 0 is below 1"),
    (RUN.model.sampling, {"guidance_scale": math.nan}, "guidance_scale: is not a number"),
    (RUN.data, {"max_bad_share": 1.5}, "max_bad_share: 1.5 is above 1.0"),
    (SOURCE, {"weight": 0.0}, "weight: 0.0 is below 1e-09"),
    (RUN.objective, {"text_weight": -0.5}, "text_weight: -0.5 is below 0.0"),
    (RUN.optimizer, {"ema_decay": math.nan}, "ema_decay: is not a number"),
    (RUN.train, {"steps": 0}, "steps: 0 is below 1"),
    (RUN.lora, {"rank": -1}, "rank: -1 is below 0"),
    (RUN.validation, {"batches": 0}, "batches: 0 is below 1"),
    (TaskConfig(name="vqav2", root="data"), {"limit": 0}, "limit: 0 is below 1"),
    (RUN.preview, {"every": -1}, "every: -1 is below 0"),
    (RUN.mesh, {"data": -2}, "data: -2 is below -1"),
]
HUGE = 10**400
# Numbers that are not finite or out of all proportion; each is refused before anything is allocated.
PROPORTIONS = [
    (RUN, {"seed": 2**64}, "seed: 18446744073709551616 is above"),
    (RUN.model.mmdit, {"depth": 10**6}, "depth: 1000000 is above 1024"),
    (RUN.model.mmdit, {"heads": HUGE}, "heads: 10000000"),
    (RUN.model.mmdit, {"heads": 10**5000}, "heads: "),
    (RUN.model.mmdit, {"position_grid": 4096}, "position_grid 4096 with width 96: the position table would take 6 GiB"),
    (RUN.model.t5, {"vocab_size": 2**31}, "vocab_size: 2147483648 is above 2097152"),
    (RUN.model.t5, {"relative_max_distance": 2**40}, "relative_max_distance: 1099511627776 is above 2147483647"),
    (RUN.model.autoencoder, {"shift": math.inf}, "shift: inf is above 10000.0"),
    (RUN.model.autoencoder, {"shift": -math.inf}, "shift: -inf is below -10000.0"),
    (RUN.model.autoencoder, {"shift": math.nan}, "shift: is not a number"),
    (RUN.model.autoencoder, {"scale": math.inf}, "scale: inf is above 1000000.0"),
    (
        RUN.model.autoencoder,
        {"level_widths": (32,) * 30},
        "level_widths has 30 levels; an image halves at most 9 times",
    ),
    (RUN.model.sampling, {"sigma_shift": math.inf}, "sigma_shift: inf is above 1000.0"),
    (RUN.model.sampling, {"guidance_scale": math.inf}, "guidance_scale: inf is above 1000.0"),
    (RUN.model.sampling, {"image_steps": 2**31}, "image_steps: 2147483648 is above 10000"),
    (
        RUN.model.sampling,
        {"text_length": 100_000},
        "text_length: 100000 is above 8192; T5-XXL's attention over one text would take 2.33 TiB",
    ),
    (
        RUN.model.sampling,
        {"height": 10**6},
        "height: 1000000 is above 16384; one image of that side in float32 would take 10.9 TiB",
    ),
    (RUN.model.sampling, {"width": HUGE}, "width: 10000000"),
    (RUN.data, {"text_length": 100_000}, "text_length: 100000 is above 8192; T5-XXL's attention over one text would"),
    (RUN.data, {"workers": 10**9}, "workers: 1000000000 is above 1024"),
    (SOURCE, {"height": 10**6}, "height: 1000000 is above 16384; one image of that side in float32 would take"),
    (SOURCE, {"buckets": ((8, 10**6),)}, "buckets has (8, 1000000); give pairs (height, width) in pixels, 1 to 16384"),
    (SOURCE, {"weight": math.inf}, "weight: inf is above 1000000000.0"),
    (SOURCE, {"max_aspect": math.inf}, "max_aspect: inf is above 1000000000.0"),
    (RUN.objective, {"text_weight": math.inf}, "text_weight: inf is above 1000000.0"),
    (RUN.optimizer, {"learning_rate": math.inf}, "learning_rate: inf is above 1000.0"),
    (RUN.optimizer, {"clip_norm": math.inf}, "clip_norm: inf is above 1000000000.0"),
    (RUN.train, {"steps": 2**31}, "steps: 2147483648 is above 2147483647"),
    (RUN.train, {"stall_seconds": math.inf}, "stall_seconds: inf is above 1000000000.0"),
    (RUN.train, {"global_batch_size": 2**21}, "global_batch_size: 2097152 is above 1048576"),
    (RUN.lora, {"alpha": -math.inf}, "alpha: -inf is below 0.0"),
    (RUN.mesh, {"tensor": 2**31}, "tensor: 2147483648 is above 1048576"),
]
CONTRADICTIONS = [
    (
        RUN.optimizer,
        {"ema_decay": 0.99999999},
        "ema_decay is 0.99999999, 1 in float32: the average never moves; give at most 1 - 1e-7",
    ),
    (
        RUN.model,
        {"t5": dataclasses.replace(RUN.model.t5, width=65536, depth=1024, mlp_width=2**20)},
        "the weights would take mmdit 3.81 MiB, t5 768 TiB, autoencoder 0 bytes in float32, and they may take 2 TiB",
    ),
    (
        RUN,
        {
            "model": dataclasses.replace(RUN.model, mmdit=dataclasses.replace(RUN.model.mmdit, position_grid=512)),
            "train": dataclasses.replace(RUN.train, global_batch_size=2**20, microbatches=1),
            "data": dataclasses.replace(
                RUN.data,
                sources=tuple(dataclasses.replace(s, height=1024, width=1024, buckets=()) for s in RUN.data.sources),
            ),
        },
        "train.global_batch_size 1048576: the images of one step would take 24 TiB in float32, and they may take 1 TiB",
    ),
    (RUN, {"profile": (1, 2, 3)}, "profile is (1, 2, 3); give the first step and how many"),
    (
        RUN,
        {"profile": (RUN.train.steps + 1, 5)},
        "profile is (4401, 5), but train.steps is 4400; give a first step of the run",
    ),
    (RUN, {"init_weights": "raw"}, "init_weights is 'raw', but there is no init_from"),
    (RUN.model, {"t5": dataclasses.replace(RUN.model.t5, vocab_size=32)}, "t5.vocab_size 32 is below mmdit.vocab_size"),
    (RUN.model.sampling, {"guidance_interval": (0.5,)}, "guidance_interval is (0.5,); give two numbers"),
    (RUN.model.sampling, {"guidance_interval": (0.8, 0.2)}, "guidance_interval is (0.8, 0.2); give two numbers"),
    (RUN.model.mmdit, {"width": 18}, "width 18 is not a multiple of 4"),
    (RUN.model.autoencoder, {"channels": 2}, "channels is 2, but the identity autoencoder has 1 (grey) or 3 (RGB)"),
    (RUN.model.autoencoder, {"level_widths": ()}, "level_widths is empty"),
    (RUN.model.autoencoder, {"norm_groups": 256}, "level_widths has 128, which is not a multiple of norm_groups 256"),
    (RUN.data, {"sources": (SOURCE, SOURCE)}, "two sources are named 'digits'"),
    (SOURCE, {"caption_weights": (0.0, 0.0)}, "caption_weights are all zero"),
    (SOURCE, {"question": "What?"}, "question is for task instruction, not image_generation"),
    (RUN.objective, {"image_weight": 0.0, "text_weight": 0.0}, "image_weight and text_weight are both 0"),
    (RUN.train, {"microbatches": 5}, "global_batch_size 32 is not a multiple of microbatches 5"),
    (RUN.train, {"keep_every": 3}, "keep_every 3 is not a multiple of save_every 1100"),
    (RUN.lora, {"targets": ("mmdit.*",)}, "targets is ('mmdit.*',), but rank is 0, so there are no factors"),
    (RUN.lora, {"alpha": 8.0}, "alpha is 8.0, but rank is 0, so there are no factors"),
    (RUN.lora, {"merge": False}, "merge is False, but rank is 0, so the run would write nothing"),
    (
        RUN,
        {"lora": dataclasses.replace(RUN.lora, rank=4, merge=False)},
        "lora.merge is False, but train.trainable has 'mmdit.*', which only a whole model can hold",
    ),
    (RUN.validation, {"every": 5}, "every is 5, but there are no sources to validate on"),
    (RUN.validation, {"tasks_every": 5}, "tasks_every is 5, but there are no tasks to evaluate on"),
    (RUN.mesh, {"layout": "sizes", "data": -1}, "data and fsdp cannot both be the rest (-1)"),
    (RUN.mesh, {"layout": "sizes", "data": 0}, "data and fsdp are numbers of devices, or -1 for the rest"),
    (RUN.mesh, {"layout": "hybrid", "fsdp": 2}, "data 1 and fsdp 2 are for layout 'sizes', but layout is 'hybrid'"),
    (RUN.mesh, {"rules": ((),)}, "rules has (); an entry is a logical axis and its mesh axes, such as"),
    (RUN.mesh, {"rules": (("", "fsdp"),)}, "rules has ('', 'fsdp'); an entry is a logical axis and its mesh axes"),
    (
        RUN.mesh,
        {"rules": (("mlp", "tesnor"),)},
        "rules sends 'mlp' to 'tesnor', which is none of the mesh axes data, fsdp, tensor, context",
    ),
    (RUN.mesh, {"rules": (("mlp", "fsdp", "tensor", "fsdp"),)}, "rules sends 'mlp' to 'fsdp' more than once"),
    (RUN.mesh, {"rules": (("mlp",), ("vocab",), ("mlp", "fsdp"))}, "rules has several entries for 'mlp'; give one"),
]


def test_the_tables_cover_every_section():
    declared = {section for section in vars(sections).values() if dataclasses.is_dataclass(section)}
    assert {type(section) for section in SECTIONS} == declared
    assert {type(section) for section, _, _ in TYPES} == declared
    for kind, table in ((typing.Literal, CHOICES), ("low", BOUNDS)):
        having = {
            section
            for section in declared - {RootConfig, TelemetryConfig}
            for field in dataclasses.fields(section)
            if typing.get_origin(field_types(section)[field.name]) is kind or kind in field.metadata
        }
        assert {type(section) for section, _, _ in table} == having
    assert {type(section) for section, _, _ in CONTRADICTIONS} == {s for s in declared if hasattr(s, "contradictions")}


@pytest.mark.parametrize(("section", "changes", "fault"), [*TYPES, *CHOICES, *BOUNDS, *PROPORTIONS, *CONTRADICTIONS])
def test_a_section_with_a_wrong_value_cannot_be_built(section, changes, fault):
    """By its constructor or by ``dataclasses.replace``: the section's name and the one fault."""
    values = {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}
    for build in (lambda: type(section)(**values | changes), lambda: dataclasses.replace(section, **changes)):
        with pytest.raises(ConfigError) as error:
            build()
        assert str(error.value).startswith(f"{type(section).__name__} has a fault:\n  {fault}")
        (only,) = error.value.faults
        assert only.startswith(fault)
    assert type(section)(**values) == section


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: type(section).__name__)
def test_every_field_refuses_a_value_of_another_type(section):
    class Stranger:
        pass

    for field in dataclasses.fields(section):
        with pytest.raises(ConfigError, match=f"has a fault:\n  {field.name}: "):
            dataclasses.replace(section, **{field.name: Stranger()})


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: type(section).__name__)
def test_every_number_has_both_bounds(section):
    for field in dataclasses.fields(section):
        hint = field_types(type(section))[field.name]
        is_tuple = typing.get_origin(hint) is tuple
        kind = typing.get_args(hint)[0] if is_tuple else hint
        wrong = {float: (math.inf, -math.inf, math.nan), int: (HUGE, -HUGE)}.get(kind, ())
        for value in wrong:
            with pytest.raises(ConfigError, match=f"has a fault:\n  {field.name}") as error:
                dataclasses.replace(section, **{field.name: (value,) if is_tuple else value})
            assert len(str(error.value)) < 400


def test_a_mesh_whose_layout_is_misspelt_is_refused():
    with pytest.raises(UserError, match="MeshConfig has a fault:\n  layout: 'fspd' is none of 'replicated', 'fsdp', "):
        MeshConfig(layout="fspd")


def test_one_error_lists_all_faults_of_a_section():
    with pytest.raises(ConfigError) as error:
        TrainConfig(steps=0, microbatches=0.5, remat="some", trainable=("mmdit.*", 3))
    assert error.value.faults == (
        "steps: 0 is below 1",
        "microbatches: expected int, found 0.5",
        "remat: 'some' is none of 'none', 'full', 'dots', 'save_attention', 'offload'",
        "trainable[1]: expected str, found 3",
    )
    assert str(error.value).startswith("TrainConfig has 4 faults:\n  steps: 0 is below 1\n  microbatches: ")


def test_the_error_crosses_a_process_boundary():
    with pytest.raises(ConfigError) as error:
        MeshConfig(tensor=0)
    copy = pickle.loads(pickle.dumps(error.value))
    assert type(copy) is ConfigError and str(copy) == str(error.value) and copy.faults == error.value.faults


def test_a_field_that_may_be_none_takes_none_and_its_type():
    for suffix in (None, "", " Answer."):
        assert dataclasses.replace(SOURCE, question_suffix=suffix).question_suffix == suffix


def test_a_value_on_its_bound_is_right():
    assert dataclasses.replace(RUN.data, max_bad_share=1.0).max_bad_share == 1.0
    assert dataclasses.replace(RUN.lora, rank=0).rank == 0


def test_rules_resolve_from_lists_and_from_the_command_line(tmp_path):
    rules = (("mlp", "tensor", "fsdp"), ("vocab",))
    assert MeshConfig(rules=rules).rules == rules
    assert resolve(json.loads(json.dumps(to_dict(MeshConfig(rules=rules)))), MeshConfig).rules == rules
    command = [sys.executable, "-c", FLAGS, f"--config={ROOT / 'configs/demo.py'}", f"--config.mesh.rules={rules}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr(rules)


# What main.py does with --config, without jax.
FLAGS = """
import sys
from absl import flags
from ml_collections import config_flags
from dualdiff_jax.config.resolve import resolve
config = config_flags.DEFINE_config_file("config", None, "", lock_config=False, accept_new_attributes=True)
flags.FLAGS(sys.argv)
print(resolve(config.value).mesh.rules)
"""


@pytest.mark.parametrize("name", ["beta1", "beta2"])
def test_a_rate_that_is_1_in_float32_is_refused(name):
    for value in (0.0, 0.9, 0.9999):
        OptimizerConfig(**{name: value})
    with pytest.raises(ConfigError, match=name):
        OptimizerConfig(**{name: 0.99999999})
