"""How a text is sampled: the choices of one call, checked where they are made."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal

import jax

from dualdiff_jax.config.fields import bounded, value_faults
from dualdiff_jax.config.model import MOST_STEPS
from dualdiff_jax.errors import UserError, quoted

Certainty = Literal["probability", "margin", "entropy"]
GuidanceNull = Literal["image", "text"]

# The options that belong to some orders only; all others go with every order.
OWN_OPTIONS: Mapping[str, frozenset[str]] = {
    "ancestral": frozenset({"steps", "remask"}),
    "confidence": frozenset({"steps", "certainty"}),
    "threshold": frozenset({"threshold"}),
    "entropy_bound": frozenset({"entropy_bound", "certainty"}),
}
NEEDED = frozenset({"steps", "threshold", "entropy_bound"})  # by the orders that take them
PLANNED = frozenset({"ancestral"})  # orders that know which positions a pass reveals before they see a score
DRAWING = frozenset({"ancestral"})  # orders whose tokens are draws unless a temperature says otherwise


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextOptions:
    """What a text sampler does. None is "without", and for ``temperature`` and ``certainty`` the order's own way.

    It is hashable, and a tree of JAX: the fields with a float are its leaves, so that another number needs no new
    program, while another choice, or a number in place of None, does.

    Args:
        order: a name in ``TEXT_SAMPLERS``.
        steps: passes over the text for ``ancestral`` and ``confidence``, which alone take it.
        certainty: what ranks positions in ``confidence`` (by default ``probability``) and ``entropy_bound``
            (``entropy``); see ``certainty.py``.
        threshold: of ``threshold``: a position whose best token is more probable is revealed.
        entropy_bound: of ``entropy_bound``, in nats.
        block_length: tokens that are complete before those on their right begin, counted from an example's first mask.
        remask: of ``ancestral``: the largest probability with which a step masks a token again.
        temperature: divides the log-probabilities before a draw; 0 is the arg-max, which every order but ``ancestral``
            uses by default.
        top_p: draws come from the most probable tokens that have this probability together.
        repetition_penalty: divides positive scores of tokens that are already written, and multiplies negative ones.
        guidance_scale: g in null + g (conditional - null), on the logits.
        guidance_null: what guidance leads away from: ``image``, the text without an image (the default); or ``text``,
            the image with a text whose prompt is masked.
        exit_margin: reveals all that is left once its mean margin is this large (``masked_sampler``, equation 3).
        early_stop: leaves out what a decoder that ends at the first ``</s>`` does not read.

    Raises:
        UserError: a value is out of range, or two choices do not go together.
    """

    order: str
    steps: int | None = bounded(default=None, low=1, high=MOST_STEPS)
    certainty: Certainty | None = None
    threshold: float | None = bounded(default=None, low=0.0, high=1.0)
    entropy_bound: float | None = bounded(default=None, low=0.0, high=1e9)
    block_length: int | None = bounded(default=None, low=1, high=2**13)
    remask: float | None = bounded(default=None, low=0.0, high=1.0)
    temperature: float | None = bounded(default=None, low=0.0, high=100.0)
    top_p: float | None = bounded(default=None, low=1e-6, high=1.0)
    repetition_penalty: float | None = bounded(default=None, low=1.0, high=100.0)
    guidance_scale: float | None = bounded(default=None, low=0.0, high=1000.0)
    guidance_null: GuidanceNull | None = None
    exit_margin: float | None = bounded(default=None, low=0.0, high=1e9)
    early_stop: bool = False

    def __post_init__(self) -> None:
        if self.order not in OWN_OPTIONS:
            raise UserError(f"order is {quoted(self.order)}; give one of {', '.join(OWN_OPTIONS)}")
        for name, field in FIELDS.items():
            for fault in value_faults(name, TYPES[name], getattr(self, name), field.metadata):
                raise UserError(fault)
        for name in sorted(frozenset().union(*OWN_OPTIONS.values())):
            self._check_own(name)
        if self.top_p is not None and not self.draws:
            raise UserError("top_p is for draws, but tokens are arg-maxima; give a temperature above 0 too")
        if self.guidance_null is not None and self.guidance_scale is None:
            raise UserError("guidance_null is given without a guidance_scale above 1; give one, or leave it out")
        if self.early_stop and self.remask is not None:
            raise UserError("early_stop is given beside remask, by which what is written may change; leave one out")

    def _check_own(self, name: str) -> None:
        """Raises ``UserError`` unless option ``name`` is given where the order needs it, and only where it is known."""
        is_given, is_known = getattr(self, name) is not None, name in OWN_OPTIONS[self.order]
        if is_given and not is_known:
            orders = ", ".join(order for order, own in OWN_OPTIONS.items() if name in own)
            raise UserError(f"{name} is for order {orders}, and order is {self.order}; leave {name} out")
        if is_known and name in NEEDED and not is_given:
            raise UserError(f"{name} is None; give a number, which order {self.order} needs")

    @property
    def is_planned(self) -> bool:
        """Whether no score decides which positions a pass reveals."""
        return self.order in PLANNED and self.exit_margin is None

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn; else they are arg-maxima. A temperature inside a program counts as a draw."""
        if self.temperature is None:
            return self.order in DRAWING
        return not isinstance(self.temperature, float) or self.temperature > 0.0


FIELDS = {field.name: field for field in dataclasses.fields(TextOptions)}
TYPES: dict[str, Any] = typing.get_type_hints(TextOptions)
NUMBERS = tuple(name for name, hint in TYPES.items() if float in typing.get_args(hint))  # the leaves
CHOICES = tuple(name for name in FIELDS if name not in NUMBERS)


def _flatten(options: TextOptions) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return tuple(getattr(options, name) for name in NUMBERS), tuple(getattr(options, name) for name in CHOICES)


def _unflatten(choices: tuple[Any, ...], numbers: Any) -> TextOptions:
    """Checks nothing: JAX puts tracers and placeholders where numbers were, and the numbers were checked."""
    options = object.__new__(TextOptions)
    for name, value in zip((*CHOICES, *NUMBERS), (*choices, *numbers), strict=True):
        object.__setattr__(options, name, value)
    return options


jax.tree_util.register_pytree_node(TextOptions, _flatten, _unflatten)
