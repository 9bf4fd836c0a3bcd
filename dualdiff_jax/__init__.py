"""Dual Diffusion (D-DiT, arXiv 2501.00289) in JAX: one transformer, both ways between images and text."""

from dualdiff_jax.errors import UserError
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline

__all__ = ["DualDiffusionPipeline", "UserError"]
