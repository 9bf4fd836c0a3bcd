"""Models on the Hugging Face hub: downloaded whole or not at all, and shared with a card that says what they are."""

from dualdiff_jax.hub.download import download, is_hub_name
from dualdiff_jax.hub.upload import upload

__all__ = ["download", "is_hub_name", "upload"]
