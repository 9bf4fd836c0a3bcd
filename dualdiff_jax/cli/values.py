"""Values of flags that are more than one number or word."""

from typing import Any

from absl import flags

from dualdiff_jax.pipeline.noise_levels import BY_RESOLUTION


class Numbers(flags.ArgumentParser):
    """Numbers in [low, high], separated by commas: "1,2,3" -> (1, 2, 3)."""

    syntactic_help = "numbers, separated by commas"

    def __init__(self, kind: type[int] | type[float], low: float, high: float):
        super().__init__()
        self._kind, self._low, self._high = kind, low, high

    def parse(self, argument: Any) -> tuple[float, ...]:
        """The numbers; raises ``ValueError`` where ``argument`` has another part, or one out of bounds."""
        if isinstance(argument, tuple):
            return argument
        numbers = tuple(self._kind(part) for part in str(argument).split(","))
        if not all(self._low <= number <= self._high for number in numbers):  # NaN is out of bounds
            raise ValueError(f"give numbers from {self._low} to {self._high}, separated by commas")
        return numbers

    def flag_type(self) -> str:
        return "numbers"


class Shift(flags.ArgumentParser):
    """A number, or "resolution"."""

    syntactic_help = f"a number, or {BY_RESOLUTION}"

    def parse(self, argument: Any) -> float | str:
        """The value; raises ``ValueError`` for another word."""
        return argument if argument == BY_RESOLUTION else float(argument)

    def flag_type(self) -> str:
        return "shift"
