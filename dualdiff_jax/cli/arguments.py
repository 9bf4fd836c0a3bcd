"""The flags of the command line, and the modes that use each of them; ``dualdiff --help`` lists them."""

from collections.abc import Mapping
from typing import TypeVar, get_args

from absl import flags
from ml_collections import config_flags

from dualdiff_jax.arrays import SEEDS
from dualdiff_jax.cli.modes import MODES, SHELLS
from dualdiff_jax.cli.values import Number, Numbers, Shift, define_number
from dualdiff_jax.config.data import Fit
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.fid.resizes import RESIZES
from dualdiff_jax.evaluation.generation.registry import IMAGE_SCORES, IMAGE_TASKS
from dualdiff_jax.evaluation.tasks.registry import TASKS
from dualdiff_jax.evaluation.tasks.task import ChooseBy, Words
from dualdiff_jax.planning.programs import PROGRAMS
from dualdiff_jax.sampling.flow_sampler import IMAGE_SAMPLERS
from dualdiff_jax.sampling.guidance import GUIDANCE_RULES
from dualdiff_jax.sampling.text_samplers import TEXT_SAMPLERS

T = TypeVar("T")

TEXTS = ("caption", "answer", "infill")  # about images that the caller names
WRITING = (*TEXTS, "evaluate")  # texts
READING = (*WRITING, "score")  # images
PROMPTED = ("generate", "edit", "inpaint")  # images
EDITING = ("edit", "inpaint", "variations")
DRAWING = (*PROMPTED, "variations")
DRAWN = (*DRAWING, "evaluate")  # images, also those of a benchmark
FROM_PROMPTS = (*PROMPTED, "evaluate")
SAMPLING = (*DRAWING, "joint", *WRITING)
LOADING = (*DRAWING, "joint", *READING)  # a model
LOADED = (*LOADING, "app")  # the same, and the page, whose visitors choose the rest
DISTRIBUTED = ("train", *LOADING, "encode-data", "check")  # several processes may run these as one
CONFIGURED = ("train", "plan", "inspect-data", "encode-data", "check")

PATHS = ("workdir", "model", "image", "data", "images", "weights", "mask", "output")  # flags

USED_BY: dict[str, tuple[str, ...]] = {}  # flag -> the modes that use it
MEANINGS: dict[str, Mapping[str, str]] = {}  # flag -> mode -> its help, where it means something else in each


def used_by(
    modes: tuple[str, ...], flag: flags.FlagHolder[T], meanings: Mapping[str, str] | None = None
) -> flags.FlagHolder[T]:
    """Records that ``modes`` use ``flag``; its help names them too, in the order of ``MODES``.

    Args:
        modes: in any order.
        flag: the flag.
        meanings: mode -> what the flag means in it; None where that is the same in all.

    Returns:
        ``flag``.
    """
    modes = tuple(mode for mode in MODES if mode in modes)
    USED_BY[flag.name] = modes
    if meanings:
        MEANINGS[flag.name] = meanings
        flags.FLAGS[flag.name].help = "; or ".join(dict.fromkeys(meanings[mode] for mode in modes))
    flags.FLAGS[flag.name].help = f"{', '.join(modes)}: {flags.FLAGS[flag.name].help}"
    return flag


MODE = flags.DEFINE_enum("mode", None, tuple(MODES), "what to do")
CONFIG = used_by(
    CONFIGURED,
    config_flags.DEFINE_config_file(
        "config",
        None,
        "config file; --config.FIELD=VALUE after it changes a field",
        lock_config=False,
        accept_new_attributes=True,
    ),
)
WORKDIR = used_by(
    ("train", "check"), flags.DEFINE_string("workdir", None, "folder of the run; the same folder resumes it")
)
MODEL = used_by(
    (*LOADED, "encode-data"), flags.DEFINE_string("model", None, "model folder, or diffusers folder of D-DiT")
)
PROMPT = used_by(
    (*PROMPTED, "joint"), flags.DEFINE_multi_string("prompt", [], "text that an image is made of; may be repeated")
)
IMAGE = used_by((*EDITING, *TEXTS, "score"), flags.DEFINE_multi_string("image", [], "image file; may be repeated"))
QUESTION = used_by(
    ("answer", "evaluate", "score"),
    flags.DEFINE_multi_string("question", [], "question about the image, which an answer follows; may be repeated"),
)
TASK = used_by(
    ("evaluate",),
    flags.DEFINE_multi_enum(
        "task",
        [],
        (*TASKS, *IMAGE_TASKS, *IMAGE_SCORES),
        "benchmark, or score of images; may be repeated",
    ),
)
DATA = used_by(
    ("evaluate",),
    flags.DEFINE_string("data", None, "folder of the publishers' files (docs/evaluation.md); DIR/TASK goes before DIR"),
)
SPLIT = used_by(("evaluate",), flags.DEFINE_string("split", None, "of the benchmark; default: the task's"))
LIMIT = used_by(
    ("evaluate",),
    flags.DEFINE_integer("limit", None, "about how many questions, prompts or images of each task", lower_bound=1),
)
SUFFIX = used_by(("evaluate",), flags.DEFINE_string("suffix", None, "follows every question; default: the task's"))
CHOOSE_BY = used_by(
    ("evaluate",),
    flags.DEFINE_enum("choose_by", None, get_args(ChooseBy), "how an option is chosen; default: generation"),
)
WORDS = used_by(
    ("evaluate",),
    flags.DEFINE_enum("words", None, get_args(Words), "of captions; plain needs no Java, and compares with no paper"),
)
SAMPLING_BATCH = used_by(
    ("evaluate",),
    flags.DEFINE_integer(
        "sampling_batch", None, "questions or prompts taken together; default: the model's", lower_bound=1
    ),
)
IMAGES = used_by(
    ("evaluate", "list-images"),
    flags.DEFINE_string("images", None, "folder of pictures; or fid's .npz"),
)
WEIGHTS = used_by(
    ("evaluate",), flags.DEFINE_string("weights", None, "of the scorer: Inception's file for fid, CLIP's folder")
)
RESIZE = used_by(("evaluate",), flags.DEFINE_enum("resize", "torch-fidelity", tuple(RESIZES), "whose resize fid uses"))
TEXT = used_by(
    ("infill", "score", "list-images"),
    flags.DEFINE_multi_string("text", [], ""),
    {
        "infill": "text with _ for each blank; may be repeated",
        "score": "text to be scored; may be repeated",
        "list-images": "caption of pictures without one",
    },
)
TOKENS_PER_BLANK = used_by(
    ("infill",),
    flags.DEFINE_multi_integer(
        "tokens_per_blank", [1], "of all blanks; repeated, of each blank of a text", lower_bound=1
    ),
)
PER_TOKEN = used_by(
    ("score",), flags.DEFINE_bool("per_token", False, "divide each score by its text's number of tokens")
)
OUTPUT = used_by(
    (*LOADING, "inspect-data", "encode-data"), flags.DEFINE_string("output", None, "folder for the results")
)
OVERWRITE = used_by(
    (*LOADING, "inspect-data", "list-images"),
    flags.DEFINE_bool("overwrite", False, "replace results that are in --output already"),
)
SAMPLES = used_by(
    ("score", "inspect-data"),
    flags.DEFINE_integer("samples", None, "", lower_bound=1),
    {"score": "evaluations for each score", "inspect-data": "records of each source to look at"},
)
FORMAT = used_by(
    (*LOADING, *CONFIGURED, "list-images", "compare"),
    flags.DEFINE_enum("format", "text", ("text", "json"), "format of stdout"),
)
SEED = used_by(
    LOADING,
    flags.DEFINE(
        Numbers(int, 0, SEEDS - 1), "seed", "0", "seed of all random draws; or one for each prompt or image, as 1,2,3"
    ),
)
SIZE = "pixels; default: the model's, or an edited image's own"
HEIGHT = used_by(LOADING, define_number("height", SIZE))
WIDTH = used_by(LOADING, define_number("width", SIZE))
STEPS = used_by(SAMPLING, define_number("steps", "sampling steps; default: the model's", field="image_steps"))
SAMPLER = used_by(
    DRAWN, flags.DEFINE_enum("sampler", None, tuple(IMAGE_SAMPLERS), "sampler of images; default: the model's")
)
SIGMAS = used_by(
    DRAWN,
    flags.DEFINE(Numbers(float, 0.0, 1.0), "sigmas", None, "noise levels that fall, as 1,0.7,0.3; in place of --steps"),
)
SIGMA_SHIFT = used_by(
    (*DRAWING, "joint", "evaluate"),
    flags.DEFINE(Shift(), "sigma_shift", None, "shift of the noise levels: a number, or resolution"),
)
GUIDANCE = used_by(
    (*PROMPTED, "joint", *WRITING),
    define_number("guidance_scale", "up to 1 is no guidance; default: the model's"),
)
GUIDANCE_RULE = used_by(
    FROM_PROMPTS, flags.DEFINE_enum("guidance_rule", None, tuple(GUIDANCE_RULES), "default: the model's")
)
GUIDANCE_INTERVAL = used_by(
    FROM_PROMPTS,
    flags.DEFINE(Numbers(float, 0.0, 1.0), "guidance_interval", None, "noise levels LOW,HIGH of the guided steps"),
)
ZERO_INIT_STEPS = used_by(
    FROM_PROMPTS,
    define_number("zero_init_steps", "first steps that cfg_zero_star leaves out"),
)
NEGATIVE = used_by(FROM_PROMPTS, flags.DEFINE_string("negative_prompt", "", "text that guidance leads away from"))
IMAGES_PER_PROMPT = used_by(
    FROM_PROMPTS, flags.DEFINE_integer("images_per_prompt", None, "images of each prompt; default: 1", lower_bound=1)
)
STRENGTH = used_by(
    EDITING, flags.DEFINE(Number(float, 0.0, 1.0), "strength", None, "how much of an image changes, up to 1")
)
MASK = used_by(
    ("inpaint",),
    flags.DEFINE_multi_string("mask", [], "image file, white where an image is repainted; one, or one for each image"),
)
COUNT = used_by(
    ("variations", "joint"),
    flags.DEFINE_integer("count", None, "", lower_bound=1),
    {"variations": "images for each image; default: 4", "joint": "pairs of image and text; default: 1"},
)
LENGTH = used_by(("joint", *READING), define_number("length", "tokens; default: the model's", field="caption_length"))
DTYPE = used_by(
    LOADED, flags.DEFINE_enum("dtype", None, ("float32", "bfloat16"), "dtype of the model; default: its own")
)
T5_BITS = used_by(
    LOADED, flags.DEFINE_enum("t5_bits", None, ("8",), "8 keeps T5's weights in 8 bits: less memory, approximate")
)
ORDER = used_by(
    WRITING,
    flags.DEFINE_enum("order", None, tuple(TEXT_SAMPLERS), "order in which tokens appear; default: the model's"),
)
FIT = used_by(
    (*EDITING, *READING),
    flags.DEFINE_enum(
        "fit", "crop", get_args(Fit), "crop images of another shape, or letterbox them with grey borders"
    ),
)
ANCHOR_END = used_by(
    ("caption", "answer", "score"),
    flags.DEFINE_bool(
        "anchor_end", None, "give the last token as the end of the text; default: the model's, and no for an answer"
    ),
)
TOPOLOGY = used_by(
    ("plan",), flags.DEFINE_string("topology", None, "devices, such as v5p:4x4x4, v6e:8x8, h100:8 or h100:4x8")
)
OF = used_by(("plan",), flags.DEFINE_enum("of", "train", tuple(PROGRAMS), "program to compile"))
SEARCH = used_by(
    ("plan",), flags.DEFINE_bool("search", False, "find the largest training batch that fits, for each remat policy")
)
COORDINATOR = used_by(
    DISTRIBUTED,
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if no launcher sets it (docs/clusters.md)"),
)
NUM_PROCESSES = used_by(
    DISTRIBUTED,
    flags.DEFINE_integer(
        "num_processes", None, "processes that run as one; 1 runs alone under any launcher", lower_bound=1
    ),
)
PROCESS_ID = used_by(
    DISTRIBUTED, flags.DEFINE_integer("process_id", None, "number of this process, from 0", lower_bound=0)
)
INITIALIZATION_TIMEOUT = used_by(
    DISTRIBUTED,
    flags.DEFINE_integer("initialization_timeout", 300, "seconds to wait for all processes to start", lower_bound=1),
)
HOST = used_by(
    ("app",), flags.DEFINE_string("host", "127.0.0.1", "address that the page is served at; 0.0.0.0 lets everyone in")
)
PORT = used_by(
    ("app",), flags.DEFINE_integer("port", 7860, "of the page; 0 takes a free one", lower_bound=0, upper_bound=65535)
)
DEBUG = flags.DEFINE_bool("debug", False, "show the traceback of an error")
flags.DEFINE_bool("version", False, "print versions and devices")
flags.DEFINE_enum("completion", None, SHELLS, "print what this shell evaluates to complete modes and flags")
QUIET = flags.DEFINE_bool("quiet", False, "show no progress and no warnings, but results and errors")


def check_flags(mode: str) -> None:
    """Raises ``UserError`` for flags on the command line that ``mode`` does not use, and for paths without a text."""
    unused = [name for name, modes in USED_BY.items() if flags.FLAGS[name].present and mode not in modes]
    if unused:
        names = ", ".join(f"--{name} (for --mode={'|'.join(USED_BY[name])})" for name in unused)
        raise UserError(f"--mode={mode} does not use {names}; leave {'it' if len(unused) == 1 else 'them'} out")
    for name in PATHS:  # an empty path would be the current folder
        value = flags.FLAGS[name].value
        if flags.FLAGS[name].present and "" in (value if isinstance(value, list) else [value]):
            raise UserError(f"--{name} is empty; give a path, or leave it out")
