"""Every argument of the pipeline's public methods x values that it cannot be: one sentence that names it, at once."""

import itertools
import resource
from pathlib import Path

import numpy as np
import pytest

from demo.data import write_tokenizer
from dualdiff_jax import DualDiffusionPipeline, UserError
from dualdiff_jax.data.tokenizer import Tokenizer
from tests.unit.pipeline.test_pipeline import SIDE, config
from tests.unit.tiny import random_weights

NAN, INF = float("nan"), float("inf")
STRANGE = (b"three", object(), {"a": 1}, {1, 2}, (x for x in "ab"), 3 + 4j)
NO_NUMBERS = (*STRANGE, "7", "", [7], np.zeros(2), True)
WHOLE = (*NO_NUMBERS, 0, -1, 2.5, NAN, INF, 2**31, 2**64, 10**400)
LONG = 10**7  # tokens: a table of their distances alone would take 728 TiB
REAL = (*NO_NUMBERS, -1.0, NAN, INF, -INF, 2.0**64, 10**400)
TEXTS = (*STRANGE, 7, None, [], [7], ["a", None], [["a"]], np.zeros(2))
PICTURE = np.zeros((SIDE, SIDE, 3), np.uint8)
IMAGES = (
    *(value for value in STRANGE if value != b"three"),
    *(7, None, "", [], [None], [7], [[PICTURE]], "no/such/file.png", b"no picture", ["no/such/file.png"]),
    *(PICTURE.astype(np.float32), PICTURE.astype(np.int64), PICTURE > 0, PICTURE.transpose(2, 0, 1)),
    *(np.zeros((SIDE, SIDE, 4), np.uint8), np.zeros((2, 2, SIDE, SIDE, 3), np.uint8), np.zeros((0, 4, 3), np.uint8)),
    *(np.zeros(5, np.uint8), np.zeros((SIDE, SIDE, 2), np.uint8), np.array(["a"]), np.array([object()])),
)
SEEDS = (*(value for value in NO_NUMBERS if not isinstance(value, list)), 0.5, -1, 2**64, NAN, None, [], [-1], [1, 2])
CHOICES = (*STRANGE, 7, "", "left", [], ["pil"])
IDS = (
    *STRANGE,
    None,
    7,
    "ab",
    [],
    [[0.5]],
    [[-1]],
    [[10**6]],
    np.zeros((2, 2, 2), int),
    [[1], [1, 2]],
    np.ones((1, LONG), np.int8),
)
FLOATS = (*STRANGE, 7, "ab", [], np.zeros(3), np.zeros((1, SIDE, SIDE, 7)), np.full((1, SIDE, SIDE, 1), NAN))
PATHS = (*STRANGE, None, 7, "", "a\0b", "no/such/folder", "x" * 256, "x/" * 3000, "\ud83d", [])
NAMES = (*STRANGE, 7, "", [])
CALLBACKS = (7, "print", b"", {})

LATENTS = np.zeros((1, SIDE, SIDE, 1), np.float32)
EMBEDDINGS = np.zeros((1, 6, 8), np.float32)
MANY = np.broadcast_to(np.float16(0.0), (1, 10**5, 8))
SWITCHES = (*STRANGE, 0, 1, "yes", "", [True], np.bool_(True))
READING = {
    **{"height": WHOLE, "width": WHOLE, "order": CHOICES, "fit": CHOICES, "progress": CALLBACKS, "seed": SEEDS},
    **{"certainty": (*CHOICES, "margin"), "threshold": (*REAL, 1.1, 0.5), "entropy_bound": (*REAL, 0.5)},
    **{"block_length": WHOLE, "remask": (*REAL, 1.1), "temperature": (*REAL, 101.0), "top_p": (*REAL, 0.0, 1.1)},
    **{"repetition_penalty": (*REAL, 0.5), "guidance_scale": REAL, "guidance_null": (*CHOICES, "image", "text")},
    **{"exit_margin": REAL, "early_stop": SWITCHES, "rules": (5, "rules", [])},
}  # of the order ancestral: threshold, entropy_bound and certainty are for others
SIGMAS = (
    *STRANGE,
    7,
    "ab",
    [],
    [NAN],
    [2.0, 1.0],
    [0.5, 0.7],
    [0.5, 0.5],
    [[0.5]],
    [-0.5],
    ["a"],
    ["1"],
    [0.5, 0.0, 0.0],
    "10",
    [10**400],
)
STRENGTHS = (*REAL, 0, 0.0, 1.1)
INTERVALS = (
    *STRANGE,
    7,
    "ab",
    [],
    [0.5],
    [0.5, 0.2],
    [-0.1, 0.5],
    [0.5, 1.1],
    [NAN, 1.0],
    ["a", "b"],
    ["0.1", "0.2"],
    [[0.1, 0.2]],
)
MASKS = (
    *(value for value in STRANGE if value != b"three"),
    *(7, None, "", [], [None], [7], "no/such/file.png", b"no picture", [PICTURE[..., 0]] * 2, PICTURE),
    *(PICTURE[..., 0].astype(np.int64), np.full((SIDE, SIDE), 2.0), np.full((SIDE, SIDE), NAN), PICTURE[:1, :, 0]),
)
EDITING = {"height": WHOLE, "width": WHOLE, "fit": CHOICES, "output": CHOICES, "sampler": CHOICES, "seed": SEEDS}

# method -> (arguments that are right, argument -> values that are wrong)
CALLS = {
    "text_to_image": (
        {"prompts": "a three"},
        {
            **{"prompts": TEXTS, "negative_prompt": (*TEXTS, ["a", "b"]), "images_per_prompt": WHOLE, "seed": SEEDS},
            **{"height": WHOLE, "width": WHOLE, "steps": WHOLE, "guidance_scale": REAL, "sigma_shift": REAL},
            **{"sigmas": SIGMAS, "max_sequence_length": (*WHOLE, 1, 100_000), "prompt_embeddings": (*FLOATS, MANY)},
            **{"negative_prompt_embeddings": FLOATS, "latents": FLOATS, "output": CHOICES, "progress": CALLBACKS},
            **{"sampler": (*CHOICES, "ddim"), "guidance_rule": (*CHOICES, "apg"), "guidance_interval": INTERVALS},
            **{"zero_init_steps": (*WHOLE, 1)},
        },
    ),
    "stream_images": (
        {"prompts": "a three"},
        {"prompts": TEXTS, "every": WHOLE, "output": CHOICES, "steps": WHOLE, "sampler": CHOICES, "sigmas": SIGMAS},
    ),
    "image_to_image": (
        {"images": PICTURE, "prompts": "a three"},
        {"images": IMAGES, "prompts": TEXTS, "strength": STRENGTHS, **EDITING},
    ),
    "inpaint": (
        {"images": PICTURE, "masks": PICTURE[..., 0], "prompts": "a three"},
        {"images": IMAGES, "masks": MASKS, "prompts": TEXTS, "strength": STRENGTHS, **EDITING},
    ),
    "variations": (
        {"images": PICTURE},
        {"images": IMAGES, "count": WHOLE, "strength": STRENGTHS, "prompts": ("a",), "guidance_scale": (2.0,)},
    ),
    "image_to_text": (
        {"images": PICTURE},
        {
            **{"images": IMAGES, "prompt": (*STRANGE, 7, ["a"]), "length": (*WHOLE, 1, 100_000), "steps": WHOLE},
            **{"anchor_end": SWITCHES, "like_original": SWITCHES, **READING},
            **{"prompts": (["a"],), "every": (2,), "token_ids": ([[1]],)},
        },
    ),
    "stream_text": (
        {"images": PICTURE},
        {
            **{"images": IMAGES, "prompts": (*STRANGE, 7, [], [[0.5]]), "every": WHOLE, "length": (*WHOLE, 1)},
            **{"token_ids": ([[1]],), **READING},
        },
    ),
    "joint": (
        {},
        {
            **{"count": WHOLE, "prompt": (*STRANGE, 7, ["a"], "three " * 9), "length": (*WHOLE, 1), "seed": SEEDS},
            **{"height": WHOLE, "width": WHOLE, "steps": WHOLE, "guidance_scale": REAL, "sigma_shift": REAL},
            **{"temperature": (*REAL, 101.0), "progress": CALLBACKS},
        },
    ),
    "load_lora": (
        {"path": "no/such/lora"},
        {"path": PATHS, "scale": (*NO_NUMBERS, None, NAN, INF, -INF, 10**400), "name": NAMES},
    ),
    "unload_lora": ({}, {"name": (*NAMES, "never loaded")}),
    "answer": (
        {"images": PICTURE, "questions": "which?"},
        {
            **{"images": IMAGES, "questions": (*TEXTS, ["a", "b"]), "length": (*WHOLE, 1), "steps": WHOLE},
            **{"anchor_end": SWITCHES, "prompts": (["a"],), "every": (2,), "token_ids": ([[1]],), **READING},
        },
    ),
    "generate_text": (
        {"images": PICTURE, "prompts": [[1]], "length": 6, "steps": 2},
        {
            **{"images": IMAGES, "prompts": (*STRANGE, None, 7, [], [[0.5]], [[-1]], [[10**6]], [[1] * 6], [[1], [1]])},
            **{"length": (*WHOLE, None, 1), "steps": (*WHOLE, None), "anchor_end": SWITCHES, **READING},
            **{"token_ids": ([[1]],), "every": (2,)},
        },
    ),
    "complete_text": (
        {"images": PICTURE, "token_ids": [[1, 2]], "steps": 2},
        {
            **{"images": IMAGES, "token_ids": (*IDS, [[1], [1]]), "steps": (*WHOLE, None), **READING},
            **{"every": (2,), "prompts": (["a"],)},
        },
    ),
    "infill": (
        {"texts": "a _", "images": PICTURE},
        {
            **{"texts": (*TEXTS, "a", "_ " * 7), "images": IMAGES, "length": (*WHOLE, 1, 100_000), "steps": WHOLE},
            **{"tokens_per_blank": (*WHOLE, [], [0], ["a"], [1, 1]), "with_fills": SWITCHES},
            **{"every": (2,), "token_ids": ([[1]],), "prompts": (["a"],), **READING},
        },
    ),
    "score": (
        {"images": PICTURE, "texts": "a three"},
        {
            **{
                "images": IMAGES,
                "texts": (*(t for t in TEXTS if not isinstance(t, list) or t != [["a"]]), [[]], [["a"], ["b"]], [[7]]),
                "questions": (*(t for t in TEXTS if t is not None), ["a", "b"]),
            },
            **{
                "samples": (*WHOLE, 1, 2, 5, 2**30),
                "seed": (*SEEDS[:-1], [1]),
                "per_token": SWITCHES,
                "anchor_end": SWITCHES,
            },
            **{"length": (*WHOLE, 1), "height": WHOLE, "width": WHOLE, "fit": CHOICES, "progress": CALLBACKS},
        },
    ),
    "encode_text": ({}, {"token_ids": IDS}),
    "encode_image": (
        {"images": np.zeros((1, SIDE, SIDE, 3), np.float32)},
        {"images": (*FLOATS, None, np.zeros((1, 3, SIDE, 3))), "rng": (*STRANGE, 0, np.zeros(2, np.uint32))},
    ),
    "decode_latents": ({}, {"latents": (*FLOATS, None, np.zeros((1, 99, SIDE, 1)))}),
    "denoise": (
        {"latents": LATENTS, "timestep": np.zeros(1, np.float32), "text_embeddings": EMBEDDINGS},
        {
            "latents": (*FLOATS, np.zeros((1, 3, SIDE, 1))),
            "timestep": (
                *STRANGE,
                None,
                7,
                "a",
                np.zeros((1, 1)),
                np.full(1, NAN),
                np.full(1, 1001.0),
                np.full(1, -1.0),
            ),
            "text_embeddings": (
                MANY,
                *FLOATS,
                None,
                np.zeros((1, 6, 9)),
                np.zeros((3, 6, 8)) + np.arange(3)[:, None, None] * NAN,
            ),
        },
    ),
    "subs_log_probs": (
        {"latents": LATENTS, "token_ids": [[1, 2]]},
        {"latents": FLOATS, "token_ids": IDS},
    ),
    "from_pretrained": (
        {"path": "no/such/folder"},
        {
            **{
                "path": PATHS,
                "mesh": (*STRANGE, 7, "cpu"),
                "dtype": (*STRANGE, 7, "x", "float16", []),
                "cache": SWITCHES,
            },
            **{
                "t5_bits": (*STRANGE, 4, "8", [], np.array([8, 8])),
                "revision": (*STRANGE, 7, []),
                "token": (*STRANGE, 7, []),
            },
        },
    ),
}
CASES = [
    (method, name, number, value)
    for method, (_, wrong) in CALLS.items()
    for name, values in wrong.items()
    for number, value in enumerate(values)
]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> DualDiffusionPipeline:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    tokenizer = Tokenizer(folder)
    sizes = config(tokenizer.vocab_size)
    return DualDiffusionPipeline(sizes, random_weights(sizes), tokenizer)


def test_there_are_hundreds_of_cases():
    assert len(CASES) >= 300


@pytest.mark.parametrize("method", CALLS)
def test_a_wrong_argument_is_a_sentence_that_names_it(pipe, method):
    right, _ = CALLS[method]
    missed = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _, name, number, value in (case for case in CASES if case[0] == method):
        given = right | {name: value}
        if name == "prompt_embeddings":
            given.pop("prompts")
        try:
            getattr(pipe, method)(**given)
            missed.append(f"{name}[{number}] = {value!r:.60}: is taken")
        except UserError as error:
            words = [name, *{"images": ["image"], "path": ["folder"]}.get(name, [])]
            if isinstance(value, list) and value:  # a file's own name stands for the argument
                words.append(str(value[0]))
            if not any(word in str(error) for word in [*words, str(value)]):
                missed.append(f"{name}[{number}] = {value!r:.60}: {error}")
        except Exception as error:
            missed.append(f"{name}[{number}] = {value!r:.60}: {error!r:.200}")
    assert missed == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


@pytest.mark.parametrize("method", [*CALLS, "compile", "null_text_embeddings", "save_pretrained", "push_to_hub"])
def test_an_argument_that_a_call_does_not_have_is_a_sentence(pipe, method):
    right, _ = CALLS.get(method, ({}, {}))
    with pytest.raises(UserError, match="there is no argument 'zzz'; there are .*"):
        getattr(pipe, method)(**right, zzz=1)


def test_what_is_right_is_taken(pipe):
    """The table's other arguments are not what is refused."""
    for method in ("encode_image", "denoise", "subs_log_probs"):
        getattr(pipe, method)(**CALLS[method][0])
    assert pipe.encode_text([[1, 2]]).shape == (1, 2, 8)
    assert pipe.decode_latents(LATENTS).shape[0] == 1
    assert len(list(itertools.islice(pipe.generate_images("a three", steps=1, guidance_scale=0), 1))) == 1
