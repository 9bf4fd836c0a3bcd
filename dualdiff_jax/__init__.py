"""Dual Diffusion (D-DiT, arXiv 2501.00289) in JAX: one transformer, from text to images and from images to text."""

from typing import TYPE_CHECKING, Any

from dualdiff_jax.errors import UserError
from dualdiff_jax.runtime import readers

if TYPE_CHECKING:
    from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline

readers.end_with_run()  # first of all: what follows takes seconds to import

__all__ = ["DualDiffusionPipeline", "UserError"]


def __getattr__(name: str) -> Any:
    """Imports the pipeline on first use, so that ``import dualdiff_jax`` imports neither JAX nor transformers."""
    if name == "DualDiffusionPipeline":
        from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline

        return DualDiffusionPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
