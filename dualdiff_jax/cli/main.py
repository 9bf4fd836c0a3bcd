"""The flags of the command line, and which mode uses which. ``dualdiff --help`` lists them.

``python main.py`` in a checkout and ``dualdiff`` after ``pip install`` are the same program.
"""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # the compiler's own chatter; before jax is imported
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that it finds no torch, which is not needed

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from dualdiff_jax.cli import data, plan, sample, train
from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.distributed.process_group import distributed_run
from dualdiff_jax.errors import StuckError, UserError
from dualdiff_jax.files import check_local
from dualdiff_jax.planning.report import OF as OF_PROGRAMS
from dualdiff_jax.progress import bar
from dualdiff_jax.runtime import environment

MODES = ("train", "generate", "caption", "answer", "plan", "inspect-data", "encode-data")
DISTRIBUTED = ("train", "encode-data")  # what several processes do as one
SAMPLING = ("generate", "caption", "answer")
READING = ("caption", "answer")

USED_BY: dict[str, tuple[str, ...]] = {}  # flag -> the modes that use it


def _flag(
    define: Callable[..., Any], name: str, modes: tuple[str, ...], default: Any, *args: Any, **kwargs: Any
) -> Any:
    """A flag that belongs to ``modes``; its help says so."""
    USED_BY[name] = modes
    *args, text = args
    return define(name, default, *args, f"{', '.join(modes)}: {text}", **kwargs)


MODE = flags.DEFINE_enum("mode", None, MODES, "what to do")
CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "train, plan, inspect-data, encode-data: config file; --config.FIELD=VALUE changes a field",
    lock_config=False,
    accept_new_attributes=True,
)
USED_BY["config"] = ("train", "plan", "inspect-data", "encode-data")
WORKDIR = _flag(
    flags.DEFINE_string, "workdir", ("train",), None, "folder of the run; starting again with the same one resumes it"
)
MODEL = _flag(
    flags.DEFINE_string, "model", (*SAMPLING, "encode-data"), None, "model folder, or diffusers folder of D-DiT"
)
PROMPT = _flag(flags.DEFINE_multi_string, "prompt", ("generate",), [], "what to draw; may be repeated")
IMAGE = _flag(flags.DEFINE_multi_string, "image", READING, [], "image file; may be repeated")
QUESTION = _flag(flags.DEFINE_multi_string, "question", ("answer",), [], "what to ask; may be repeated")
OUTPUT = _flag(flags.DEFINE_string, "output", (*SAMPLING, "inspect-data", "encode-data"), None, "folder for results")
SAMPLES = _flag(
    flags.DEFINE_integer, "samples", ("inspect-data",), 256, "records of a source to look at", lower_bound=1
)
FORMAT = _flag(flags.DEFINE_enum, "format", (*SAMPLING, "plan"), "text", ("text", "json"), "what goes to stdout")
SEED = _flag(flags.DEFINE_integer, "seed", SAMPLING, 0, "seed", lower_bound=0)
HEIGHT = _flag(flags.DEFINE_integer, "height", SAMPLING, None, "pixels; default: the model's", lower_bound=1)
WIDTH = _flag(flags.DEFINE_integer, "width", SAMPLING, None, "pixels; default: the model's", lower_bound=1)
STEPS = _flag(flags.DEFINE_integer, "steps", SAMPLING, None, "sampling steps; default: the model's", lower_bound=1)
GUIDANCE = _flag(
    flags.DEFINE_float, "guidance_scale", ("generate",), None, "1 is none; default: the model's", lower_bound=1.0
)
NEGATIVE = _flag(flags.DEFINE_string, "negative_prompt", ("generate",), "", "what guidance leads away from")
LENGTH = _flag(flags.DEFINE_integer, "length", READING, None, "tokens; default: the model's", lower_bound=2)
DTYPE = _flag(
    flags.DEFINE_enum, "dtype", SAMPLING, None, ("float32", "bfloat16"), "what the model computes in; default: its own"
)
ORDER = _flag(
    flags.DEFINE_enum, "order", READING, None, ("ancestral", "confidence"), "the order in which tokens appear"
)
TOPOLOGY = _flag(
    flags.DEFINE_string, "topology", ("plan",), None, "devices, such as v5p:4x4x4, v6e:8x8, h100:8 or h100:4x8"
)
OF = _flag(flags.DEFINE_enum, "of", ("plan",), "train", OF_PROGRAMS, "which program")
SEARCH = _flag(flags.DEFINE_bool, "search", ("plan",), False, "find the largest batch that fits, for each remat policy")
COORDINATOR = _flag(
    flags.DEFINE_string,
    "coordinator",
    DISTRIBUTED,
    None,
    "HOST:PORT of process 0, where no launcher says it (docs/clusters.md)",
)
NUM_PROCESSES = _flag(
    flags.DEFINE_integer,
    "num_processes",
    DISTRIBUTED,
    None,
    "how many work together; 1 is alone, whatever started it",
    lower_bound=1,
)
PROCESS_ID = _flag(flags.DEFINE_integer, "process_id", DISTRIBUTED, None, "which of them this is", lower_bound=0)
INITIALIZATION_TIMEOUT = _flag(
    flags.DEFINE_integer,
    "initialization_timeout",
    DISTRIBUTED,
    300,
    "seconds until all processes have to be there",
    lower_bound=1,
)
DEBUG = flags.DEFINE_bool("debug", False, "show the traceback of an error")


def run() -> None:
    """Parses the command line and runs its mode; the process exits with 1 after an error."""
    for name in ("mode", "debug", *USED_BY):  # --help lists the flags of the program that was started
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    app.run(main, flags_parser=_parse)


def main(argv: list[str]) -> None:
    """Runs what the parsed flags ask for. A ``UserError`` becomes one line on stderr and exit status 1."""
    if len(argv) > 1:
        raise app.UsageError(f"{argv[1]!r} is no flag; flags look like --name=value")
    level = logging.DEBUG if DEBUG.value else logging.WARNING
    logging.basicConfig(format="%(levelname)s: %(message)s", level=level, stream=sys.stderr, force=True)
    try:
        if MODE.value is None:
            raise UserError(f"say what to do with --mode={'|'.join(MODES)}")
        _check_flags(MODE.value)
        environment.prepare()
        COMMANDS[MODE.value]()
    except UserError as error:
        if DEBUG.value:
            raise
        if isinstance(error, StuckError):
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        sys.exit(f"error: {error}")


def _check_flags(mode: str) -> None:
    """Raises ``UserError`` with every flag that was given and that ``mode`` does not use."""
    strangers = [name for name, modes in USED_BY.items() if flags.FLAGS[name].present and mode not in modes]
    if strangers:
        raise UserError(
            f"--mode={mode} does not use "
            + "; it does not use ".join(
                f"--{name}, which is for --mode={'|'.join(USED_BY[name])}" for name in strangers
            )
            + ("; leave it out" if len(strangers) == 1 else "; leave them out")
        )


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


def _sampling() -> dict[str, Any]:
    return {
        "seed": SEED.value,
        "as_json": FORMAT.value == "json",
        "steps": STEPS.value,
        "height": HEIGHT.value,
        "width": WIDTH.value,
        "dtype": DTYPE.value,
    }


def _reading() -> dict[str, Any]:
    return {"order": ORDER.value, "length": LENGTH.value, **_sampling()}


def _generate() -> None:
    guidance = {"guidance_scale": GUIDANCE.value, "negative_prompt": NEGATIVE.value}
    sample.generate(_need(MODEL), PROMPT.value, _need(OUTPUT), **guidance, **_sampling())


def _caption() -> None:
    sample.caption(_need(MODEL), IMAGE.value, OUTPUT.value, **_reading())


def _answer() -> None:
    sample.answer(_need(MODEL), IMAGE.value, QUESTION.value, OUTPUT.value, **_reading())


def _plan() -> None:
    is_json = FORMAT.value == "json"
    plan.plan(_config(), _need(TOPOLOGY), OF.value, is_search=SEARCH.value, as_json=is_json)


def _inspect_data() -> None:
    data.inspect_data(_config(), OUTPUT.value or "runs/inspect-data", SAMPLES.value)


def _train() -> None:
    config, folder = _config(), _need_folder(WORKDIR)
    with _processes():
        train.run_training(config, folder)


def _encode_data() -> None:
    config, folder = _config(), _need_folder(OUTPUT)
    with _processes():
        data.encode_data(config, folder, MODEL.value, bar("encoding"))


def _need_folder(flag: flags.FlagHolder) -> str:
    check_local(folder := _need(flag))
    return folder


def _processes() -> Any:
    return distributed_run(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, INITIALIZATION_TIMEOUT.value)


COMMANDS: dict[str, Callable[[], None]] = {
    "train": _train,
    "generate": _generate,
    "caption": _caption,
    "answer": _answer,
    "plan": _plan,
    "inspect-data": _inspect_data,
    "encode-data": _encode_data,
}


def _parse(argv: list[str]) -> list[str]:
    """absl's parser; a config file that cannot be loaded is one sentence too."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, KeyError, OSError, SyntaxError, ValueError, AttributeError) as error:
        reason = str(error.args[0] if error.args else error).strip()
        program = "dualdiff" if os.path.basename(argv[0]).startswith("dualdiff") else "python main.py"
        sys.exit(f"error: {reason}\n({program} --help lists the flags)")
