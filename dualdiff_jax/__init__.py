"""Dual Diffusion (D-DiT, arXiv 2501.00289) in JAX: one transformer, both ways between images and text."""

from typing import TYPE_CHECKING, Any

from dualdiff_jax.errors import UserError

if TYPE_CHECKING:
    from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline

__all__ = ["DualDiffusionPipeline", "UserError"]


def __getattr__(name: str) -> Any:
    """The pipeline, on its first use: importing a part of the package starts neither JAX nor transformers."""
    if name == "DualDiffusionPipeline":
        from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline

        return DualDiffusionPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
