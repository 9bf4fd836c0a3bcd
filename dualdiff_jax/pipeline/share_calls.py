"""Writes a loaded model: to a folder, and to the Hugging Face hub."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax

from dualdiff_jax.errors import UserError
from dualdiff_jax.files import bucket_sentences
from dualdiff_jax.hub import upload
from dualdiff_jax.models.separated import stacked_weights
from dualdiff_jax.pipeline import inputs
from dualdiff_jax.pipeline.loaded_model import LoadedModel
from dualdiff_jax.weights import save_model


class ShareCalls(LoadedModel):
    """What hands the model on to others."""

    @inputs.checks_names
    @bucket_sentences()
    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a model folder, which ``from_pretrained`` reads; every process calls this.

        Args:
            folder: the path to write. A model folder that exists is replaced once the new one is complete.

        Raises:
            UserError: ``folder`` holds other files, T5 is in 8 bits, the disk is full, or this process may not write
                there.
        """
        path, weights = inputs.as_path("folder", folder), stacked_weights(self.config, self.weights)
        save_model(path, self.config, weights, self.tokenizer)

    @inputs.checks_names
    def push_to_hub(
        self,
        name: str,
        *,
        private: bool = False,
        token: str | None = None,
        message: str = "A model",
        licence: str = "other",
        scores: str | Path | None = None,
        samples: Sequence[str | Path] = (),
    ) -> str:
        """Writes the model to the hub with a card that says what it is.

        For a model folder on a disk, ``dualdiff_jax.hub.upload`` does the same and needs no accelerator; it also puts
        the training's settings on the card.

        Args:
            name: ORGANISATION/NAME; the repository is made unless it exists.
            private: whether a new repository is private.
            token: of a user who may write; None takes HF_TOKEN or the login of the ``hf`` command.
            message: of the commit.
            licence: of the weights, as the hub names it.
            scores: the ``--output`` of ``--mode=evaluate``, for the card.
            samples: images for the card.

        Returns:
            The commit.

        Raises:
            UserError: several processes run, a sample is missing, or the hub refuses or cannot be reached.
        """
        if jax.process_count() > 1:
            raise UserError("push_to_hub works in a single process; save_pretrained on all, then upload from one")
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root) / "model"
            self.save_pretrained(folder)
            return upload(
                folder,
                name,
                private=private,
                token=token,
                message=message,
                licence=licence,
                scores=scores,
                samples=samples,
            )
