"""The flags of the command line, and the modes that use each of them; ``dualdiff --help`` lists them.

``python main.py`` in a checkout and ``dualdiff`` after ``pip install`` are the same program.
"""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NoReturn, TypeVar, get_args

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # silences the compiler's chatter; read when jax is imported
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it warns that torch, which is not needed, is missing

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from dualdiff_jax.arrays import SEEDS
from dualdiff_jax.cli import data, plan, sample, train
from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.data import Fit
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.distributed.process_group import distributed_run
from dualdiff_jax.errors import StuckError, UserError
from dualdiff_jax.files import check_local
from dualdiff_jax.planning.programs import PROGRAMS
from dualdiff_jax.progress import bar
from dualdiff_jax.runtime import environment
from dualdiff_jax.sampling.text_samplers import TEXT_SAMPLERS

T = TypeVar("T")

MODES = ("train", "generate", "caption", "answer", "plan", "inspect-data", "encode-data")
DISTRIBUTED = ("train", "encode-data")  # several processes may run these as one
SAMPLING = ("generate", "caption", "answer")
READING = ("caption", "answer")
CONFIGURED = ("train", "plan", "inspect-data", "encode-data")

USED_BY: dict[str, tuple[str, ...]] = {}  # flag -> the modes that use it


def _for(modes: tuple[str, ...], flag: flags.FlagHolder[T]) -> flags.FlagHolder[T]:
    """Records that ``modes`` use ``flag``; its help names them too."""
    USED_BY[flag.name] = modes
    flags.FLAGS[flag.name].help = f"{', '.join(modes)}: {flags.FLAGS[flag.name].help}"
    return flag


MODE = flags.DEFINE_enum("mode", None, MODES, "what to do")
CONFIG = _for(
    CONFIGURED,
    config_flags.DEFINE_config_file(
        "config",
        None,
        "config file; --config.FIELD=VALUE after it changes a field",
        lock_config=False,
        accept_new_attributes=True,
    ),
)
WORKDIR = _for(("train",), flags.DEFINE_string("workdir", None, "folder of the run; the same folder resumes it"))
MODEL = _for(
    (*SAMPLING, "encode-data"), flags.DEFINE_string("model", None, "model folder, or diffusers folder of D-DiT")
)
PROMPT = _for(("generate",), flags.DEFINE_multi_string("prompt", [], "text that an image is made of; may be repeated"))
IMAGE = _for(READING, flags.DEFINE_multi_string("image", [], "image file; may be repeated"))
QUESTION = _for(("answer",), flags.DEFINE_multi_string("question", [], "question about the image; may be repeated"))
OUTPUT = _for((*SAMPLING, "inspect-data", "encode-data"), flags.DEFINE_string("output", None, "folder for the results"))
OVERWRITE = _for(SAMPLING, flags.DEFINE_bool("overwrite", False, "replace results that are in --output already"))
SAMPLES = _for(
    ("inspect-data",), flags.DEFINE_integer("samples", 256, "records of each source to look at", lower_bound=1)
)
FORMAT = _for((*SAMPLING, "plan"), flags.DEFINE_enum("format", "text", ("text", "json"), "format of stdout"))
SEED = _for(SAMPLING, flags.DEFINE_integer("seed", 0, "seed of all random draws", lower_bound=0, upper_bound=SEEDS - 1))
HEIGHT = _for(SAMPLING, flags.DEFINE_integer("height", None, "pixels; default: the model's", lower_bound=1))
WIDTH = _for(SAMPLING, flags.DEFINE_integer("width", None, "pixels; default: the model's", lower_bound=1))
STEPS = _for(SAMPLING, flags.DEFINE_integer("steps", None, "sampling steps; default: the model's", lower_bound=1))
GUIDANCE = _for(
    ("generate",),
    flags.DEFINE_float("guidance_scale", None, "up to 1 is no guidance; default: the model's", lower_bound=0.0),
)
NEGATIVE = _for(("generate",), flags.DEFINE_string("negative_prompt", "", "text that guidance leads away from"))
LENGTH = _for(READING, flags.DEFINE_integer("length", None, "tokens; default: the model's", lower_bound=2))
DTYPE = _for(
    SAMPLING, flags.DEFINE_enum("dtype", None, ("float32", "bfloat16"), "dtype of the model; default: its own")
)
ORDER = _for(
    READING,
    flags.DEFINE_enum("order", None, tuple(TEXT_SAMPLERS), "order in which tokens appear; default: the model's"),
)
FIT = _for(
    READING,
    flags.DEFINE_enum(
        "fit", "crop", get_args(Fit), "crop images of another shape, or letterbox them with grey borders"
    ),
)
TOPOLOGY = _for(
    ("plan",), flags.DEFINE_string("topology", None, "devices, such as v5p:4x4x4, v6e:8x8, h100:8 or h100:4x8")
)
OF = _for(("plan",), flags.DEFINE_enum("of", "train", tuple(PROGRAMS), "program to compile"))
SEARCH = _for(
    ("plan",), flags.DEFINE_bool("search", False, "find the largest training batch that fits, for each remat policy")
)
COORDINATOR = _for(
    DISTRIBUTED,
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if no launcher sets it (docs/clusters.md)"),
)
NUM_PROCESSES = _for(
    DISTRIBUTED,
    flags.DEFINE_integer(
        "num_processes", None, "processes that run as one; 1 runs alone under any launcher", lower_bound=1
    ),
)
PROCESS_ID = _for(
    DISTRIBUTED, flags.DEFINE_integer("process_id", None, "number of this process, from 0", lower_bound=0)
)
INITIALIZATION_TIMEOUT = _for(
    DISTRIBUTED,
    flags.DEFINE_integer("initialization_timeout", 300, "seconds to wait for all processes to start", lower_bound=1),
)
DEBUG = flags.DEFINE_bool("debug", False, "show the traceback of an error")


def run() -> None:
    """Parses the command line and runs its mode; after an error the process exits with 1."""
    for name in ("mode", "debug", *USED_BY):  # --help lists the flags of the script in argv[0]
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    app.run(main, flags_parser=_parse)


def main(argv: list[str]) -> None:
    """Runs the mode of the parsed flags. A ``UserError`` is printed on stderr, and the process exits with 1.

    Args:
        argv: the program's name and the arguments that are not flags; each of these is an error.
    """
    level = logging.DEBUG if DEBUG.value else logging.WARNING
    logging.basicConfig(format="%(levelname)s: %(message)s", level=level, stream=sys.stderr, force=True)
    try:
        if len(argv) > 1:
            raise UserError(f"{argv[1]!r} is not a flag; flags look like --name=value")
        if MODE.value is None:
            raise UserError(f"there is no --mode; give --mode={'|'.join(MODES)}")
        check_flags(MODE.value)
        environment.prepare()
        COMMANDS[MODE.value]()
    except UserError as error:
        if DEBUG.value:
            raise
        if isinstance(error, StuckError):
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        sys.exit(f"error: {error}")


def check_flags(mode: str) -> None:
    """Raises ``UserError`` that names every flag on the command line which ``mode`` does not use."""
    unused = [name for name, modes in USED_BY.items() if flags.FLAGS[name].present and mode not in modes]
    if unused:
        names = ", ".join(f"--{name} (for --mode={'|'.join(USED_BY[name])})" for name in unused)
        raise UserError(f"--mode={mode} does not use {names}; leave {'it' if len(unused) == 1 else 'them'} out")


def _parse(argv: list[str]) -> list[str]:
    """absl's parser; a fault of a flag or of the config file is one line on stderr, and the process exits with 1.

    Returns:
        The program's name and the arguments that are not flags.
    """
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        if not error.flagname.startswith("config."):
            _exit(argv, str(error))
        _exit(argv, f"--{error.flagname} changes a field of a config file; give --config=FILE too")
    except (flags.Error, AttributeError, KeyError, ValueError) as error:  # the last three: no such field, or wrong type
        _exit(argv, str(error.args[0] if error.args else error))
    except Exception as error:  # a config file is code, which may raise anything
        if "--debug" in argv:
            raise
        _exit(argv, f"the config file cannot be loaded ({type(error).__name__}: {error}); --debug shows where")


def _exit(argv: list[str], fault: str) -> NoReturn:
    program = "dualdiff" if os.path.basename(argv[0]).startswith("dualdiff") else "python main.py"
    sys.exit(f"error: {' '.join(fault.split())} ({program} --help lists the flags)")


def _required(flag: flags.FlagHolder[str | None]) -> str:
    if not flag.value:
        raise UserError(f"--mode={MODE.value} needs --{flag.name}=...")
    return flag.value


def _folder(flag: flags.FlagHolder[str | None]) -> str:
    """The local folder that a required flag names."""
    folder = _required(flag)
    check_local(folder)
    return folder


def _config() -> RunConfig:
    if CONFIG.value is None:
        raise UserError(f"--mode={MODE.value} needs --config=FILE")
    if not isinstance(CONFIG.value, ml_collections.ConfigDict):
        file = flags.FLAGS["config"].config_filename  # pyright: ignore[reportAttributeAccessIssue]
        raise UserError(f"{file}: cannot be loaded; name a config file such as configs/demo.py")
    return resolve(CONFIG.value)


def _sampling() -> dict[str, Any]:
    return {
        "seed": SEED.value,
        "as_json": FORMAT.value == "json",
        "overwrite": OVERWRITE.value,
        "steps": STEPS.value,
        "height": HEIGHT.value,
        "width": WIDTH.value,
        "dtype": DTYPE.value,
    }


def _reading() -> dict[str, Any]:
    return {"order": ORDER.value, "fit": FIT.value, "length": LENGTH.value, **_sampling()}


def _generate() -> None:
    guidance = {"guidance_scale": GUIDANCE.value, "negative_prompt": NEGATIVE.value}
    sample.generate(_required(MODEL), PROMPT.value, _required(OUTPUT), **guidance, **_sampling())


def _caption() -> None:
    sample.caption(_required(MODEL), IMAGE.value, OUTPUT.value, **_reading())


def _answer() -> None:
    sample.answer(_required(MODEL), IMAGE.value, QUESTION.value, OUTPUT.value, **_reading())


def _plan() -> None:
    if SEARCH.value and OF.value != "train":
        raise UserError(f"--search finds batches for training, not for --of={OF.value}; leave one of the two out")
    plan.plan(_config(), _required(TOPOLOGY), OF.value, is_search=SEARCH.value, as_json=FORMAT.value == "json")


def _inspect_data() -> None:
    output = OUTPUT.value or "runs/inspect-data"
    check_local(output)
    data.inspect_data(_config(), output, SAMPLES.value)


def _train() -> None:
    config, folder = _config(), _folder(WORKDIR)
    with _distributed():
        train.run_training(config, folder)


def _encode_data() -> None:
    config, folder = _config(), _folder(OUTPUT)
    with _distributed():
        data.encode_data(config, folder, MODEL.value, bar("encoding"))


def _distributed() -> AbstractContextManager[None]:
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
