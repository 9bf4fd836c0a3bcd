"""LoRAs on a loaded model: added, several at once, and taken away again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualdiff_jax.convert.lora_file import read_lora
from dualdiff_jax.convert.lora_terms import Term, scaled_factors
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.files import bucket_sentences
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.models.lora import with_factors
from dualdiff_jax.pipeline import inputs
from dualdiff_jax.pipeline.loaded_model import LoadedModel


class LoraCalls(LoadedModel):
    """Adds LoRAs to the weights, which have them inside, so calls are as fast as without and nothing is compiled again.

    The kernels that a LoRA changes are kept as they were, so that taking it away gives the same bits. While it is
    loaded, these kernels take memory twice.
    """

    _loras: Mapping[str, tuple[Sequence[Term], float]] = {}
    _kernels_without: Mapping[str, Any] = {}

    @property
    def loras(self) -> dict[str, float]:
        """The loaded LoRAs: name -> scale, in the order in which they were loaded."""
        return {name: scale for name, (_, scale) in self._loras.items()}

    @inputs.checks_names
    @bucket_sentences()
    def load_lora(self, path: str | Path, scale: float = 1.0, name: str | None = None) -> str:
        """Adds a LoRA to the weights, beside those that are loaded.

        Args:
            path: a ``.safetensors`` file of diffusers, kohya, ComfyUI or OneTrainer, or a folder of PEFT or of a run
                (``WORKDIR/lora``).
            scale: factor on what it changes; 1 is as it was trained, 0 is nothing, and it may be negative.
            name: by which ``unload_lora`` knows it; by default that of the file without its ending, or of the folder.

        Returns:
            The name.

        Raises:
            UserError: there is no such file, it is no LoRA of this model, or a LoRA of that name is loaded.
        """
        path, scale = inputs.as_path("path", path), inputs.finite_number("scale", scale)
        if name is None:
            name = path.absolute().name if path.is_dir() else path.absolute().stem
        if not isinstance(name, str) or not name:
            raise UserError(f"name is {quoted(name)}; give a text that is not empty")
        if name in self._loras:
            raise UserError(f"a LoRA is loaded as {quoted(name)} already; unload it first, or give another name")
        self._change({**self._loras, name: (read_lora(path, self.config), scale)})
        return name

    @inputs.checks_names
    def unload_lora(self, name: str | None = None) -> None:
        """Takes a LoRA away, or all of them; with the last one the weights have the bits that they had before.

        Args:
            name: that ``load_lora`` returned; None is all.

        Raises:
            UserError: no LoRA of that name is loaded.
        """
        if name is not None and not (isinstance(name, str) and name in self._loras):
            loaded = f"loaded are {', '.join(map(quoted, self._loras))}" if self._loras else "none is loaded"
            raise UserError(f"no LoRA is loaded as {quoted(name)}; {loaded}")
        self._change({other: lora for other, lora in self._loras.items() if name not in (None, other)})

    def _change(self, loras: Mapping[str, tuple[Sequence[Term], float]]) -> None:
        """Makes ``loras`` the loaded ones; where it fails, everything stays."""
        specs = leaf_specs(self.config, ("mmdit",))
        weights = {**self.weights, **self._kernels_without}
        factors = scaled_factors(loras.values(), specs)
        if not factors.keys() <= weights.keys():
            raise UserError("this model holds no mmdit, which a LoRA changes; load a complete model")
        without = {leaf: weights[leaf] for leaf in factors}
        weights |= {leaf: with_factors(without[leaf], specs[leaf], factors[leaf]) for leaf in factors}
        self.weights, self._kernels_without, self._loras = weights, without, loras
