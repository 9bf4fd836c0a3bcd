"""The command ``python -m convert``, over ``dualdiff_jax.convert``."""
