"""The training step of a narrow and shallow 2B model, compiled for TPUs and GPUs, and a reader of the compiled text.

Sequences (1024 image and 256 text tokens), head dim, vocabulary and the loop over blocks are the real ones.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from configs import dual_diff_pretrain
from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.planning import report
from dualdiff_jax.planning.programs import CompiledProgram, compile_program

DEPTH, WIDTH, HEADS, VOCABULARY = 5, 512, 8, 32100
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([a-z][a-z\-]*)\(")
_FUSED = re.compile(r" fusion\(.*calls=%?([\w.\-]+)")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")


class Result(NamedTuple):
    """One array among the results of an instruction."""

    operation: str
    dtype: str
    shape: tuple[int, ...]
    layout: str
    computation: str
    is_fused: bool  # inside a fusion, so it is never in memory
    line: str


def small_config(*, batch: int, depth: int = DEPTH, width: int = WIDTH, **sections: dict) -> RunConfig:
    config = dual_diff_pretrain.get_config()
    config.model.mmdit.update(depth=depth, width=width, heads=width // 64)
    config.model.t5.update(depth=5, width=256, heads=4, head_dim=64, mlp_width=512)
    config.model.autoencoder = dict(kind="identity", channels=3)
    config.model.sampling.update(height=64, width=64, batch_size=batch)
    config.data.sources = [{**source, "height": 64, "width": 64} for source in config.to_dict()["data"]["sources"]]
    config.train.update(global_batch_size=batch, remat="dots")
    for name, fields in sections.items():
        config[name].update(fields)
    return resolve(config)


@functools.cache
def step_on(topology: str, batch: int, remat: str = "dots", width: int = WIDTH) -> CompiledProgram:
    target = report._open(topology)
    config = small_config(batch=batch, width=width, train={"remat": remat})
    return compile_program(config, "train", target.devices, target.chip.platform)


@functools.cache
def results(topology: str, batch: int, **changes) -> list[Result]:
    """Every array in the step's text. The arguments are those of ``step_on``."""
    return list(read(step_on(topology, batch, **changes).executable.as_text()))


def read(text: str) -> Iterator[Result]:
    fused, computation = set(_FUSED.findall(text)), ""
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            computation = header[1]
        match = _INSTRUCTION.match(line)
        if match:
            for dtype, dims, layout in _ARRAY.findall(match[1]):
                shape = tuple(int(dim) for dim in dims.split(",") if dim)
                yield Result(match[2], dtype, shape, layout, computation, computation in fused, line)


def kernels() -> dict[str, int]:
    """Name of each trained matrix -> its number of elements, in one block."""
    specs = leaf_specs(small_config(batch=1).model)
    found = {}
    for name, spec in specs.items():
        if name.startswith("mmdit.") and name.endswith("kernel"):
            found[name] = math.prod(spec.shape[1:] if "layers" in spec.axes else spec.shape)
    return found
