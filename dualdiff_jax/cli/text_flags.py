"""The flags that say how a text is sampled: the fields of ``TextOptions`` but ``order`` and ``steps``."""

from typing import Any, get_args

from absl import flags

from dualdiff_jax.cli.arguments import GUIDANCE, WRITING, used_by
from dualdiff_jax.cli.values import define_number
from dualdiff_jax.sampling.text_options import Certainty, GuidanceNull, TextOptions

CERTAINTY = used_by(
    WRITING,
    flags.DEFINE_enum(
        "certainty", None, get_args(Certainty), "what ranks positions, for --order=confidence and entropy_bound"
    ),
)
THRESHOLD = used_by(
    WRITING,
    define_number(
        "threshold", "probability above which --order=threshold reveals; default: the model's", section=TextOptions
    ),
)
ENTROPY_BOUND = used_by(
    WRITING,
    define_number("entropy_bound", "nats, for --order=entropy_bound; default: the model's", section=TextOptions),
)
BLOCK_LENGTH = used_by(
    WRITING,
    define_number("block_length", "tokens of a block; blocks are completed from the left", section=TextOptions),
)
REMASK = used_by(
    WRITING,
    define_number("remask", "largest probability of masking a token again, for --order=ancestral", section=TextOptions),
)
TEMPERATURE = used_by(
    ("joint", *WRITING),
    define_number(
        "temperature", "of the draws; 0 takes the likeliest token; default: the order's own", section=TextOptions
    ),
)
TOP_P = used_by(
    WRITING,
    define_number("top_p", "probability of the tokens that are drawn from", section=TextOptions),
)
REPETITION_PENALTY = used_by(
    WRITING,
    define_number("repetition_penalty", "of tokens that are written already; 1 is none", section=TextOptions),
)
GUIDANCE_NULL = used_by(
    WRITING,
    flags.DEFINE_enum(
        "guidance_null", None, get_args(GuidanceNull), "what is left out where guidance leads away from; default: image"
    ),
)
EXIT_MARGIN = used_by(
    WRITING,
    define_number("exit_margin", "mean log-ratio of the two likeliest tokens that ends sampling", section=TextOptions),
)
EARLY_STOP = used_by(
    ("caption", "answer"),
    flags.DEFINE_bool("early_stop", None, "end once all that is printed is there; default: where that is exact"),
)


def text_choices() -> dict[str, Any]:
    """The choices of every mode that writes texts; None where a flag is not given."""
    return {
        "certainty": CERTAINTY.value,
        "threshold": THRESHOLD.value,
        "entropy_bound": ENTROPY_BOUND.value,
        "block_length": BLOCK_LENGTH.value,
        "remask": REMASK.value,
        "temperature": TEMPERATURE.value,
        "top_p": TOP_P.value,
        "repetition_penalty": REPETITION_PENALTY.value,
        "guidance_scale": GUIDANCE.value,
        "guidance_null": GUIDANCE_NULL.value,
        "exit_margin": EXIT_MARGIN.value,
    }
