"""python -m convert import|export|inspect|lora: torch checkpoints to model folders and back; LoRAs."""

import argparse
import logging
import sys

from convert import lora
from dualdiff_jax.convert.exporter import export_model
from dualdiff_jax.convert.importer import Import, summary
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import bucket_fault, is_bucket
from dualdiff_jax.models.leaves import NETWORKS
from dualdiff_jax.progress import bar
from dualdiff_jax.runtime import environment

GIGABYTE = 10**9


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, stream=sys.stderr, force=True)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax logs its normal operation as warnings
    environment.prepare()
    try:
        for name, value in vars(arguments).items():
            if value == "":  # an empty path would be the current folder
                raise UserError(f"{name} is empty; give a path, or leave it out")
        arguments.run(arguments)
    except UserError as error:
        if arguments.debug:
            raise
        sys.exit(f"error: {error}")
    except OSError as error:  # an unreadable file, or a failing disk
        if arguments.debug or error.filename is None:
            raise
        fault = bucket_fault(error) if is_bucket(str(error.filename)) else f"{error.filename}: {error.strerror}"
        sys.exit(f"error: {fault}")
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was written")


def _import(arguments: argparse.Namespace) -> None:
    planned = _open(arguments)
    _describe(planned)
    planned.write(arguments.output, overwrite=arguments.overwrite, progress=bar("importing", "MB", lora.MEGABYTE))
    print(arguments.output)


def _inspect(arguments: argparse.Namespace) -> None:
    _describe(_open(arguments))


def _open(arguments: argparse.Namespace) -> Import:
    return Import(
        arguments.source,
        t5=arguments.t5,
        autoencoder=arguments.autoencoder,
        tokenizer=arguments.tokenizer,
        mask_embedding=arguments.mask_embedding,
        dtype=arguments.dtype,
        components=arguments.components.split(",") if arguments.components is not None else None,
    )


def _describe(planned: Import) -> None:
    """Prints what an import would do."""
    config = planned.config
    for network, (first, *others) in summary(planned).items():
        print(f"{network}: {first}")
        for field, value in vars(getattr(config, network)).items():
            print(f"  {field} = {value}")
        for line in others:
            print(f"  {line}")
    tokenizer = planned.tokenizer
    print(f"tokenizer: {tokenizer.vocab_size} tokens, from {tokenizer.folder}; {tokenizer.pad_token} pads prompts")
    if planned.mask_embedding:
        print(f"mask embedding: {planned.mask_embedding}")
    print(f"model folder: {planned.bytes / GIGABYTE:.2f} GB, {config.compute_dtype} computation")
    missing = [name for name in NETWORKS if name not in planned.networks]
    if missing:
        print(f"not imported: {', '.join(missing)} (sampling needs all three)")


def _export(arguments: argparse.Namespace) -> None:
    export_model(
        arguments.model,
        arguments.output,
        dtype=arguments.dtype,
        overwrite=arguments.overwrite,
        progress=bar("exporting", "MB", lora.MEGABYTE),
    )
    print(arguments.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m convert", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    modes = parser.add_subparsers(required=True, metavar="import|export|inspect|lora")

    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("source", help="diffusers folder, .safetensors or .pth file, or T5 folder")
    source.add_argument("--t5", help="file or folder to take the T5 encoder from, in place of SOURCE's")
    source.add_argument("--autoencoder", help="file or folder to take SD3's autoencoder from, in place of SOURCE's")
    source.add_argument("--tokenizer", help="folder of the T5 tokenizer; default: SOURCE's, else T5's own")
    source.add_argument("--mask-embedding", help=".pth or .safetensors file with the mask token's embedding")
    source.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        help="of the weights and the computation; default: bfloat16 where all files have it, else float32",
    )
    source.add_argument("--components", help="networks to import, some of mmdit,t5,autoencoder; default: all in SOURCE")

    mode = modes.add_parser("import", parents=[source], help="torch checkpoint -> model folder")
    mode.add_argument("--output", required=True, help="model folder to write")
    mode.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    mode.set_defaults(run=_import)

    mode = modes.add_parser("inspect", parents=[source], help="print what SOURCE holds and what an import would do")
    mode.set_defaults(run=_inspect)

    mode = modes.add_parser("export", help="model folder -> diffusers folder")
    mode.add_argument("model", help="model folder")
    mode.add_argument("--output", required=True, help="folder to write")
    mode.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), help="of the tensors; default: as stored")
    mode.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    mode.set_defaults(run=_export)

    lora.add_modes(modes.add_parser("lora", help="LoRAs of diffusers, PEFT, kohya and ComfyUI"))
    return parser


if __name__ == "__main__":
    main()
