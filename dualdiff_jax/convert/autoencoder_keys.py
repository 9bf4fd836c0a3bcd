"""SD3's autoencoder: the keys of a diffusers folder (``AutoencoderKL``) and of the original file for each leaf."""

import re
from collections.abc import Callable, Iterator

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.rule import Entry, TensorLayout, convolution, matrix, pointwise, vector
from dualdiff_jax.models.bundle import leaf_specs

SUFFIXES = {"kernel": "weight", "scale": "weight", "bias": "bias"}  # last word of a leaf -> last word of a key

# Pattern of a module path here -> diffusers' name.
DIFFUSERS = (
    (r"encoder\.levels\.(\d+)\.resample", r"encoder.down_blocks.\1.downsamplers.0.conv"),
    (r"decoder\.levels\.(\d+)\.resample", r"decoder.up_blocks.\1.upsamplers.0.conv"),
    (r"encoder\.levels\.(\d+)\.blocks", r"encoder.down_blocks.\1.resnets"),
    (r"decoder\.levels\.(\d+)\.blocks", r"decoder.up_blocks.\1.resnets"),
    (r"middle\.first", "mid_block.resnets.0"),
    (r"middle\.second", "mid_block.resnets.1"),
    (r"middle\.attention", "mid_block.attentions.0"),
    (r"norm_out", "conv_norm_out"),
)
# Pattern of a module path here -> the original file's name. Its decoder counts levels from the image side: {n} is the
# level n counted from the other end.
ORIGINAL = (
    (r"encoder\.levels\.(\d+)\.resample", r"encoder.down.\1.downsample.conv"),
    (r"decoder\.levels\.(\d+)\.resample", r"decoder.up.{\1}.upsample.conv"),
    (r"encoder\.levels\.(\d+)\.blocks", r"encoder.down.\1.block"),
    (r"decoder\.levels\.(\d+)\.blocks", r"decoder.up.{\1}.block"),
    (r"middle\.first", "mid.block_1"),
    (r"middle\.second", "mid.block_2"),
    (r"middle\.attention", "mid.attn_1"),
    (r"group_norm", "norm"),
    (r"conv_shortcut", "nin_shortcut"),
)


def autoencoder_entries(config: ModelConfig) -> Iterator[Entry]:
    """An entry for every leaf of ``autoencoder``, with the keys of a diffusers folder."""
    return _entries(config, lambda path: _rename(path, DIFFUSERS), ("to_q", "to_k", "to_v"), "to_out.0", matrix())


def original_autoencoder_entries(config: ModelConfig) -> Iterator[Entry]:
    """An entry for every leaf, with the keys of the original single file after ``first_stage_model.``."""
    last = len(config.autoencoder.level_widths) - 1

    def rename(path: str) -> str:
        return re.sub(r"\{(\d+)\}", lambda level: str(last - int(level[1])), _rename(path, ORIGINAL))

    return _entries(config, rename, ("q", "k", "v"), "proj_out", pointwise)


def _rename(path: str, names: tuple[tuple[str, str], ...]) -> str:
    for pattern, name in names:
        path = re.sub(pattern, name, path)
    return path


def _entries(
    config: ModelConfig, rename: Callable[[str], str], qkv: tuple[str, ...], out: str, attention: TensorLayout
) -> Iterator[Entry]:
    """The entries, given the format's names of modules and the layout of its attention's kernels."""
    for leaf in leaf_specs(config, ("autoencoder",)):
        module, _, suffix = leaf.removeprefix("autoencoder.").rpartition(".")
        kernel = attention if ".attention." in module else convolution
        layout = vector if suffix in ("scale", "bias") else kernel
        if module.endswith(".qkv"):
            base = rename(module.removesuffix(".qkv"))
            keys = tuple(f"{base}.{name}" for name in qkv)
        elif module.endswith(".attention.out"):
            keys = (f"{rename(module.removesuffix('.out'))}.{out}",)
        else:
            keys = (rename(module),)
        yield Entry(leaf, tuple(f"{key}.{SUFFIXES[suffix]}" for key in keys), layout)
