"""The flags of the command line, and the modes that use each of them; ``dualdiff --help`` lists them."""

from typing import TypeVar, get_args

from absl import flags
from ml_collections import config_flags

from dualdiff_jax.arrays import SEEDS
from dualdiff_jax.config.data import Fit
from dualdiff_jax.errors import UserError
from dualdiff_jax.planning.programs import PROGRAMS
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
ANCHOR_END = _for(
    READING,
    flags.DEFINE_bool(
        "anchor_end", None, "give the last token as the end of the text; default: the model's for captions, else no"
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


def check_flags(mode: str) -> None:
    """Raises ``UserError`` that names every flag on the command line which ``mode`` does not use."""
    unused = [name for name, modes in USED_BY.items() if flags.FLAGS[name].present and mode not in modes]
    if unused:
        names = ", ".join(f"--{name} (for --mode={'|'.join(USED_BY[name])})" for name in unused)
        raise UserError(f"--mode={mode} does not use {names}; leave {'it' if len(unused) == 1 else 'them'} out")
