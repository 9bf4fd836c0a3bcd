"""A model folder becomes a repository of the hub, in one commit."""

from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd

from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path, is_bucket
from dualdiff_jax.hub.card import model_card
from dualdiff_jax.hub.download import HUB_NAME
from dualdiff_jax.hub.faults import as_user_errors
from dualdiff_jax.weights import DESCRIPTION, load_config


def upload(
    folder: str | Path,
    name: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = "A model",
    licence: str = "other",
    scores: str | Path | None = None,
    samples: Sequence[str | Path] = (),
) -> str:
    """Uploads a model folder and a card made from it (``card.model_card``); whoever downloads it sees all or nothing.

    Args:
        folder: the model folder, on a disk.
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
        UserError: the folder is no model folder, a sample is missing, or the hub refuses or cannot be reached.
    """
    folder = as_path(folder)
    if is_bucket(folder):
        raise UserError(f"{folder}: is uploaded from a disk alone; copy it first")
    if not HUB_NAME.fullmatch(name):
        raise UserError(f"{name}: is no name of a model on the hub; give ORGANISATION/NAME")
    load_config(folder)
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    for number, sample in enumerate(map(as_path, samples)):
        if not sample.is_file():
            raise UserError(f"{sample}: there is no such file; name an image")
        files[f"samples/{number:02}{sample.suffix}"] = sample
    shown = [file for file in files if file.startswith("samples/")]
    card = model_card(folder, name, licence, scores, shown).encode()
    operations = [CommitOperationAdd("README.md", card)]
    operations += [CommitOperationAdd(path, str(file)) for path, file in files.items() if path != "README.md"]
    operations.sort(key=lambda operation: operation.path_in_repo == DESCRIPTION)
    api = huggingface_hub.HfApi(token=token)
    with as_user_errors(name):
        api.create_repo(name, private=private, exist_ok=True)
        return api.create_commit(name, operations, commit_message=message).oid
