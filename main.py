"""Entry point of dualdiff_jax: parses the flags and hands over. ``python main.py --help`` lists them."""

import logging
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # the compiler's own chatter
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that it finds no torch, which is not needed

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from dualdiff_jax import commands, data_commands
from dualdiff_jax.runtime import environment
from dualdiff_jax.config import RunConfig
from dualdiff_jax.distributed.process_group import together
from dualdiff_jax.errors import StuckError, UserError
from dualdiff_jax.planning.report import OF as OF_PROGRAMS
from dualdiff_jax.progress import bar
from dualdiff_jax.config.resolve import resolve

TOGETHER = ("train", "encode-data")  # what several processes do as one
MODES = ("train", "generate", "caption", "answer", "plan", "inspect-data", "encode-data")

MODE = flags.DEFINE_enum("mode", None, MODES, "what to do")
CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "train, inspect-data, encode-data: config file; --config.FIELD=VALUE changes a field",
    lock_config=False,
    accept_new_attributes=True,
)
WORKDIR = flags.DEFINE_string("workdir", None, "train: folder of the run; starting again with the same one resumes it")
MODEL = flags.DEFINE_string(
    "model", None, "generate, caption, answer, encode-data: model folder, or diffusers folder of D-DiT"
)
PROMPT = flags.DEFINE_multi_string("prompt", [], "generate: what to draw; may be repeated")
IMAGE = flags.DEFINE_multi_string("image", [], "caption, answer: image file; may be repeated")
QUESTION = flags.DEFINE_multi_string("question", [], "answer: what to ask; may be repeated")
OUTPUT = flags.DEFINE_string("output", None, "generate, caption, answer, inspect-data, encode-data: folder for results")
SAMPLES = flags.DEFINE_integer("samples", 256, "inspect-data: records of a source to look at", lower_bound=1)
FORMAT = flags.DEFINE_enum("format", "text", ("text", "json"), "generate, caption, answer: what goes to stdout")
SEED = flags.DEFINE_integer("seed", 0, "generate, caption, answer: seed", lower_bound=0)
HEIGHT = flags.DEFINE_integer("height", None, "pixels; default: the model's", lower_bound=1)
WIDTH = flags.DEFINE_integer("width", None, "pixels; default: the model's", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", None, "sampling steps; default: the model's", lower_bound=1)
GUIDANCE = flags.DEFINE_float("guidance_scale", None, "generate: default: the model's; 1 is none", lower_bound=1.0)
NEGATIVE = flags.DEFINE_string("negative_prompt", "", "generate: what guidance leads away from")
LENGTH = flags.DEFINE_integer("length", None, "caption, answer: tokens; default: the model's", lower_bound=2)
DTYPE = flags.DEFINE_enum("dtype", None, ("float32", "bfloat16"), "what the model computes in; default: its own")
ORDER = flags.DEFINE_enum("order", None, ("ancestral", "confidence"), "caption, answer: order in which tokens appear")
TOPOLOGY = flags.DEFINE_string("topology", None, "plan: devices, such as v5p:4x4x4, v6e:8x8, h100:8 or h100:4x8")
OF = flags.DEFINE_enum("of", "train", OF_PROGRAMS, "plan: which program")
SEARCH = flags.DEFINE_bool("search", False, "plan: find the largest batch that fits, for each remat policy")
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "train, encode-data: HOST:PORT of process 0, where no launcher says it (docs/clusters.md)"
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "train, encode-data: how many work together; 1 is alone, whatever started it", lower_bound=1
)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "train, encode-data: which of them this is", lower_bound=0)
INITIALIZATION_TIMEOUT = flags.DEFINE_integer(
    "initialization_timeout", 300, "train, encode-data: seconds until all have to be there", lower_bound=1
)
DEBUG = flags.DEFINE_bool("debug", False, "show the traceback of an error")


def _need(flag: flags.FlagHolder) -> str:
    if not flag.value:
        raise UserError(f"--mode={MODE.value} needs --{flag.name}=...")
    return flag.value


def _config() -> RunConfig:
    if CONFIG.value is None:
        raise UserError(f"--mode={MODE.value} needs --config=FILE")
    if not isinstance(CONFIG.value, ml_collections.ConfigDict):
        raise UserError(
            f"{flags.FLAGS['config'].config_filename}: cannot be loaded; name a config file such as configs/demo.py"
        )
    return resolve(CONFIG.value)


def _run() -> None:
    options = {"seed": SEED.value, "as_json": FORMAT.value == "json", "steps": STEPS.value}
    options |= {"height": HEIGHT.value, "width": WIDTH.value, "dtype": DTYPE.value}
    reading = {"order": ORDER.value, "length": LENGTH.value}
    drawing = {"guidance_scale": GUIDANCE.value, "negative_prompt": NEGATIVE.value}
    environment.prepare()
    if MODE.value in TOGETHER:
        _run_together(_config())
    elif COORDINATOR.value or NUM_PROCESSES.value or PROCESS_ID.value is not None:
        raise UserError(
            f"--coordinator, --num_processes and --process_id are for --mode={'|'.join(TOGETHER)}, not {MODE.value}"
        )
    elif MODE.value == "plan":
        as_json = FORMAT.value == "json"
        commands.plan(_config(), _need(TOPOLOGY), OF.value, is_search=SEARCH.value, as_json=as_json)
    elif MODE.value == "inspect-data":
        data_commands.inspect_data(_config(), OUTPUT.value or "runs/inspect-data", SAMPLES.value)
    elif MODE.value == "generate":
        commands.generate(_need(MODEL), PROMPT.value, _need(OUTPUT), **drawing, **options)
    elif MODE.value == "caption":
        commands.caption(_need(MODEL), IMAGE.value, OUTPUT.value, **reading, **options)
    else:
        commands.answer(_need(MODEL), IMAGE.value, QUESTION.value, OUTPUT.value, **reading, **options)


def _run_together(config: RunConfig) -> None:
    folder = _need(WORKDIR if MODE.value == "train" else OUTPUT)
    if "://" in folder:
        raise UserError(f"{folder}: is no folder; mount the bucket, and name the folder where it is mounted")
    with together(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, INITIALIZATION_TIMEOUT.value):
        if MODE.value == "train":
            commands.run_training(config, folder)
        else:
            data_commands.encode_data(config, folder, MODEL.value, bar("encoding"))


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"{argv[1]!r} is no flag; flags look like --name=value")
    level = logging.DEBUG if DEBUG.value else logging.WARNING
    logging.basicConfig(format="%(levelname)s: %(message)s", level=level, stream=sys.stderr, force=True)
    try:
        if MODE.value is None:
            raise UserError(f"say what to do with --mode={'|'.join(MODES)}")
        _run()
    except UserError as error:
        if DEBUG.value:
            raise
        if isinstance(error, StuckError):
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        sys.exit(f"error: {error}")


def _parse(argv: list[str]) -> list[str]:
    """absl's parser, with a config file that cannot be loaded told in a sentence."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, KeyError, OSError, SyntaxError, ValueError, AttributeError) as error:
        sys.exit(
            f"error: {str(error.args[0] if error.args else error).strip()}\n(python main.py --help lists the flags)"
        )


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
