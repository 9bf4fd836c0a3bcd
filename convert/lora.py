"""python -m convert lora inspect|export|merge: LoRAs of other programs, and those that training writes."""

import argparse
import collections
import math
from typing import Any

from dualdiff_jax.convert.lora_file import read_lora
from dualdiff_jax.convert.lora_merge import merge_lora
from dualdiff_jax.convert.lora_writer import FORMATS, write_lora
from dualdiff_jax.files import as_path
from dualdiff_jax.progress import bar
from dualdiff_jax.weights import load_config

MEGABYTE = 10**6


def add_modes(parser: argparse.ArgumentParser) -> None:
    """The modes of ``python -m convert lora``."""
    modes = parser.add_subparsers(required=True, metavar="inspect|export|merge")
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("lora", help=".safetensors file, or folder of PEFT or of a run (WORKDIR/lora)")
    source.add_argument("--model", required=True, help="model folder that the LoRA changes")
    written = argparse.ArgumentParser(add_help=False)
    written.add_argument("--overwrite", action="store_true", help="replace what is there")

    mode = modes.add_parser("inspect", parents=[source], help="print which layers a LoRA changes, and by which ranks")
    mode.set_defaults(run=_inspect)

    mode = modes.add_parser("export", parents=[source, written], help="a LoRA of any format -> one of these formats")
    mode.add_argument("--output", required=True, help=".safetensors file to write; for peft a folder")
    mode.add_argument("--format", choices=tuple(FORMATS), default="diffusers", help="default: %(default)s")
    mode.add_argument("--sd3", action="store_true", help="leave out what SD3 lacks")
    mode.set_defaults(run=_export)

    mode = modes.add_parser("merge", parents=[source, written], help="model folder and LoRA -> model folder")
    mode.add_argument("--output", required=True, help="model folder to write")
    mode.add_argument("--scale", type=_finite, default=1.0, help="factor on the LoRA; default: %(default)s")
    mode.set_defaults(run=_merge)


def _finite(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return number


def _read(arguments: argparse.Namespace) -> tuple[list[Any], Any]:
    config = load_config(arguments.model)
    return read_lora(as_path(arguments.lora), config), config


def _inspect(arguments: argparse.Namespace) -> None:
    terms, _ = _read(arguments)
    kinds = collections.Counter((term.rule.leaf, term.rank, term.alpha, str(term.down.dtype)) for term in terms)
    for (leaf, rank, alpha, dtype), count in kinds.items():
        print(f"{leaf}: {count} x rank {rank}, alpha {alpha:g}, {dtype}")


def _export(arguments: argparse.Namespace) -> None:
    terms, config = _read(arguments)
    chosen = dict(only_sd3=arguments.sd3, overwrite=arguments.overwrite)
    left_out = write_lora(arguments.output, terms, config, arguments.format, **chosen)
    if left_out:
        print(f"left out, SD3 has no such layers or only a part of them: {', '.join(left_out)}")
    print(arguments.output)


def _merge(arguments: argparse.Namespace) -> None:
    terms, _ = _read(arguments)
    loras = [(terms, arguments.scale)]
    progress = bar("merging", "MB", MEGABYTE)
    print(merge_lora(arguments.model, loras, arguments.output, overwrite=arguments.overwrite, progress=progress))
