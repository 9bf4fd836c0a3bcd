"""What callers may hand to the pipeline: texts, settings, sizes, seeds; ``arrays_in`` has the images and arrays.

Each check returns the value in the form that the pipeline works with. Otherwise it raises a ``UserError`` that names
the argument, its value, and what to give instead. Nothing is allocated before it is checked.
"""

import dataclasses
import difflib
import functools
import inspect
import math
import operator
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeAlias, TypeGuard, TypeVar, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dualdiff_jax import files
from dualdiff_jax.arrays import SEEDS, Key, key_of
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.config.fields import field_types, value_faults
from dualdiff_jax.config.model import SamplingConfig
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.sampling import text_options

Texts: TypeAlias = str | Sequence[str]
Seed: TypeAlias = int | Sequence[int]
P = ParamSpec("P")
R = TypeVar("R")
REAL = int | float | np.integer | np.floating

_FIELDS = {field.name: field for field in dataclasses.fields(SamplingConfig)}
NO_GUIDANCE = 1.0  # scales up to it are none, as in the original


def as_texts(name: str, texts: Texts) -> list[str]:
    """One text or several, at least one, as a list."""
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, list | tuple):
        raise UserError(f"{name} is {quoted(texts)}; give a text, or a list of texts")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"{name}[{index}] is {quoted(text)}; give a text")
    if not texts:
        raise UserError(f"{name} is empty; give at least one text")
    return list(texts)


def check_names(given: Collection[str], known: Collection[str]) -> None:
    """Raises ``UserError`` for an argument that a call does not have."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UserError(f"there is no argument {quoted(name)}; {hint}")


def checks_names(method: Callable[P, R]) -> Callable[P, R]:
    """``method``, where an argument by a name that it does not have raises as in ``check_names``."""
    known = [name for name in inspect.signature(method).parameters if name not in ("self", "cls")]

    @functools.wraps(method)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check_names(kwargs, known)
        return method(*args, **kwargs)

    return checked


def check_count(name: str, found: int, count: int) -> None:
    """Raises ``UserError`` unless there is one entry for all prompts, or one for each."""
    if found not in (1, count):
        raise UserError(f"{name} has {found} entries for {count} prompts; give one, or one for each prompt")


def setting(name: str, value: Any, field: str, default: Any = None) -> Any:
    """A sampling setting within the bounds of the config's field of that kind.

    Args:
        name: of the argument.
        value: of the caller; None stands for ``default``.
        field: of ``SamplingConfig``, whose type and bounds hold.
        default: returned where ``value`` is None.
    """
    if value is None and default is not None:
        return default
    return _checked(name, value, field_types(SamplingConfig)[field], _FIELDS[field].metadata)


def text_option(name: str, value: Any) -> Any:
    """A field of ``TextOptions`` within its bounds."""
    hint = text_options.TYPES[name]
    choices = next((get_args(part) for part in get_args(hint) if get_origin(part) is Literal), None)
    if choices:
        return choice(name, value, choices)
    return _checked(name, value, hint, text_options.FIELDS[name].metadata)


def _checked(name: str, given: Any, hint: Any, bounds: Mapping[str, Any]) -> Any:
    kinds = (hint, *get_args(hint))  # the type itself, or one of those that it joins
    if int in kinds and _is_whole(given):
        given = operator.index(given)
    if float in kinds and isinstance(given, REAL) and not isinstance(given, bool):
        given = _as_float(given)
    for fault in value_faults(name, hint, given, bounds):
        raise UserError(fault)
    return given


def check_settings(
    *,
    steps: int | None = None,
    length: int | None = None,
    guidance_scale: float | None = None,
    **others: Any,
) -> None:
    """Checks what can be checked before there is a model; of the ``others``, the fields of ``TextOptions``."""
    given = (
        ("steps", steps, "image_steps"),
        ("length", length, "caption_length"),
        ("guidance_scale", guidance_scale, "guidance_scale"),
    )
    for name, value, field in given:
        if value is not None:
            setting(name, value, field)
    for name, value in others.items():
        if name in text_options.FIELDS and value is not None:
            text_option(name, value)


def whole_number(name: str, value: Any, default: int, least: int = 1, most: int = 2**31 - 1) -> int:
    """``value``, or ``default`` where it is None; the caller's value has to be an integer in [least, most]."""
    if value is None:
        return default
    if not _is_whole(value) or not least <= value <= most:
        raise UserError(f"{name} is {quoted(value)}; give a whole number from {least} to {most}")
    return operator.index(value)


def finite_number(name: str, value: Any) -> float:
    """A number that is neither infinite nor NaN."""
    if not isinstance(value, REAL) or isinstance(value, bool) or not math.isfinite(_as_float(value)):
        raise UserError(f"{name} is {quoted(value)}; give a finite number")
    return float(value)


def numbers(values: Any) -> np.ndarray | None:
    """``values`` in fp64; None where they are no real numbers, such as texts that read like some."""
    try:
        found = np.asarray(values)
        is_real = jnp.issubdtype(found.dtype, np.number) and not jnp.issubdtype(found.dtype, np.complexfloating)
        return found.astype(np.float64) if is_real else None
    except (TypeError, ValueError, OverflowError):
        return None


def yes_or_no(name: str, value: bool | None, default: bool = False) -> bool:
    """``value``, or ``default`` where it is None."""
    if value is None:
        return default
    if not isinstance(value, bool):
        raise UserError(f"{name} is {quoted(value)}; give True or False")
    return value


def choice(name: str, value: Any, choices: Collection[str]) -> str:
    """One of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise UserError(f"{name} is {quoted(value)}; give one of {', '.join(choices)}")
    return value


def as_path(name: str, value: Any) -> Path:
    """A path that is no empty string."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in str(value):
        raise UserError(f"{name} is {quoted(value)}; give the path of a folder")
    return files.as_path(value)


def check_mesh(name: str, mesh: Any) -> Mesh:
    """A mesh of devices."""
    if not isinstance(mesh, Mesh):
        raise UserError(f"{name} is {quoted(mesh)}; give a jax.sharding.Mesh, as dualdiff_jax.sharding.make_mesh makes")
    return mesh


def image_size(config: ModelConfig, height: int | None, width: int | None) -> tuple[int, int]:
    """(height, width) in pixels; None stands for the model's own.

    Both are multiples of the pixels that one image token covers, up to the side of the model's position table.
    """
    default, step = config.sampling, config.mmdit.patch_size * config.autoencoder.downscale
    size = whole_number("height", height, default.height), whole_number("width", width, default.width)
    limit = step * config.mmdit.position_grid
    if any(side % step or side > limit for side in size):
        raise UserError(
            f"height x width is {size[0]} x {size[1]} pixels, which this model cannot make; "
            f"give multiples of {step} up to {limit}"
        )
    return size


def latent_shape(config: ModelConfig, size: tuple[int, int]) -> tuple[int, int, int]:
    """(h, w, c) of the latents of an image of ``size``, height and width in pixels."""
    autoencoder = config.autoencoder
    return size[0] // autoencoder.downscale, size[1] // autoencoder.downscale, autoencoder.channels


def check_callable(name: str, value: Any) -> None:
    """Raises ``UserError`` unless ``value`` is a function or None."""
    if value is not None and not callable(value):
        raise UserError(f"{name} is {quoted(value)}; give a function of (examples finished, examples in all)")


def check_seed(name: str, seed: Any) -> int:
    """An integer in [0, 2**64)."""
    if not _is_whole(seed) or not 0 <= operator.index(seed) < SEEDS:
        raise UserError(f"{name} is {quoted(seed)}; give a whole number from 0 to {SEEDS - 1}")
    return operator.index(seed)


def example_keys(seed: Seed, count: int, repeats: int = 1) -> Key:
    """A key for each example.

    Args:
        seed: one for all: an example's key depends on its place in the list. Or a sequence, one for each input: then
            the key depends on that seed alone, and equals the key that the input has in a call of its own.
        count: inputs.
        repeats: examples of each input, neighbours in the result.

    Returns:
        (count * repeats,).
    """
    fold_in = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    if not _is_list(seed):
        return fold_in(key_of(check_seed("seed", seed)), np.arange(count * repeats))
    if len(seed) != count:
        raise UserError(f"seed has {len(seed)} entries for {count} inputs; give one, or one for each input")
    keys = [key_of(check_seed(f"seed[{index}]", each)) for index, each in enumerate(seed)]
    return jnp.concatenate([fold_in(key, np.arange(repeats)) for key in keys])


def batches(keys: Key, largest: int, parts: int) -> Iterator[tuple[np.ndarray, int, Key]]:
    """Splits examples into batches of one size, so that few shapes are compiled.

    Args:
        keys: (n,), one for each example.
        largest: the largest batch. A call of fewer examples gets the next power of two.
        parts: what a batch is divided into over the mesh; batches are rounded up to a multiple of it.

    Yields:
        ``rows`` (b,), the indices of a batch's examples: where they run out, the last one fills the batch up;
        how many of the rows count; and ``rngs`` (b,), a key for each row.
    """
    count = len(keys)
    size = min(largest, 1 << max(count - 1, 0).bit_length())
    size = -(-size // parts) * parts
    for begin in range(0, count, size):
        rows = np.minimum(np.arange(begin, begin + size), count - 1)
        yield rows, min(size, count - begin), keys[rows]


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf if value > 0 else -math.inf


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether ``value`` has one entry for each input: a sequence that is no text, or an array of one dim."""
    is_sequence = isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)
    return is_sequence or (hasattr(value, "__array__") and getattr(value, "ndim", 0) == 1)


def _is_whole(value: Any) -> bool:
    """Whether ``value`` is an integer of any library, or an array of one without dims; a bool is none."""
    if "bool" in str(getattr(value, "dtype", type(value))) or getattr(value, "ndim", 0):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True
