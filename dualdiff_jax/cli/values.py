"""Values of flags that absl has no type for: numbers in the bounds of a field, lists of them, and a number or word."""

from typing import Any, get_args

from absl import flags

from dualdiff_jax.config.fields import field_types
from dualdiff_jax.config.model import SamplingConfig
from dualdiff_jax.pipeline.noise_levels import BY_RESOLUTION


class Numbers(flags.ArgumentParser):
    """Numbers in [low, high], separated by commas: "1,2,3" -> (1, 2, 3)."""

    syntactic_help = "numbers, separated by commas"

    def __init__(self, kind: type[int] | type[float], low: float, high: float):
        super().__init__()
        self._number = Number(kind, low, high)

    def parse(self, argument: Any) -> tuple[float, ...]:
        """The numbers; raises ``ValueError`` where ``argument`` has another part, or one out of bounds."""
        if isinstance(argument, tuple):
            return argument
        try:
            return tuple(map(self._number.parse, str(argument).split(",")))
        except ValueError:
            raise ValueError(f"give {self._number.kinds} from {self._number.bounds}, separated by commas") from None

    def flag_type(self) -> str:
        return "numbers"


class Number(flags.ArgumentParser):
    """A number in [low, high]."""

    syntactic_help = "a number"

    def __init__(self, kind: type[int] | type[float], low: float, high: float):
        super().__init__()
        self._kind, self._low, self._high = kind, low, high

    @property
    def kinds(self) -> str:
        """What a message calls such numbers."""
        return "whole numbers" if self._kind is int else "numbers"

    @property
    def bounds(self) -> str:
        """The bounds as a message has them."""
        return " to ".join(str(end) if isinstance(end, int) else f"{end:g}" for end in (self._low, self._high))

    def parse(self, argument: Any) -> float:
        """The number; raises ``ValueError`` where ``argument`` is none, or out of bounds."""
        try:
            number = self._kind(argument)
            is_allowed = self._low <= number <= self._high  # NaN is out of bounds
        except ValueError:
            is_allowed = False
        if not is_allowed:
            raise ValueError(f"give a {self.kinds.removesuffix('s')} from {self.bounds}")
        return number

    def flag_type(self) -> str:
        return "number"


def number_of(field: str, section: type = SamplingConfig) -> Number:
    """The parser of a flag that stands for a field.

    Args:
        field: of ``section``, whose type and bounds hold.
        section: of the config, or another class with such fields.

    Returns:
        The parser.
    """
    hint, bounds = field_types(section)[field], section.__dataclass_fields__[field].metadata
    return Number(int if int in (hint, *get_args(hint)) else float, bounds["low"], bounds["high"])


def define_number(
    name: str, help_text: str, *, field: str = "", section: type = SamplingConfig
) -> flags.FlagHolder[float | None]:
    """Defines a flag for a field, without a default.

    Args:
        name: of the flag.
        help_text: of the flag.
        field: as in ``number_of``; "" is ``name``.
        section: as in ``number_of``.

    Returns:
        The flag.
    """
    return flags.DEFINE(number_of(field or name, section), name, None, help_text)


class Shift(flags.ArgumentParser):
    """A shift of the noise levels: a number, or "resolution"."""

    syntactic_help = f"a number, or {BY_RESOLUTION}"

    def parse(self, argument: Any) -> float | str:
        """The value; raises ``ValueError`` for another word, or a number out of bounds."""
        if argument == BY_RESOLUTION:
            return argument
        number = number_of("sigma_shift")
        try:
            return number.parse(argument)
        except ValueError as error:
            raise ValueError(f"{error}, or {BY_RESOLUTION}") from None

    def flag_type(self) -> str:
        return "shift"
