"""Models of the hub in the cache of huggingface_hub (HF_HOME), which resumes what was interrupted.

A repository holds a model folder, or a diffusers folder of D-DiT or SD3. The file by which a folder is known,
``model.json`` or ``model_index.json``, is downloaded last: a folder in the cache that has it is whole.
"""

import fnmatch
import glob
import logging
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import huggingface_hub

from dualdiff_jax.convert.diffusers_folder import INDEX_FILE, MASK_FILE, SETTINGS_FILE
from dualdiff_jax.errors import UserError
from dualdiff_jax.hub.faults import UnreachableError, as_user_errors
from dualdiff_jax.weights import DESCRIPTION

log = logging.getLogger(__name__)

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,95}")
PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")
VARIANT = re.compile(r"\.(fp16|bf16|fp8)\b")
CLIP = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")  # where there is a third, D-DiT reads that alone
PARTS = ("transformer", "vae", "text_encoder", "text_encoder_3", "tokenizer", "tokenizer_3", "scheduler")


def is_hub_name(path: str | Path) -> bool:
    """Whether ``path`` is taken for a model on the hub: it reads ORGANISATION/NAME, and no ORGANISATION lies here."""
    return HUB_NAME.fullmatch(str(path)) is not None and not Path(path).parent.exists()


def download(name: str, revision: str | None = None, token: str | None = None) -> Path:
    """Brings a model here, unless it is in the cache.

    Without the network, and with ``HF_HUB_OFFLINE``, a model that was downloaded before is taken from the cache.

    Args:
        name: ORGANISATION/NAME.
        revision: a branch, tag or commit; None is the main branch.
        token: of a user who may read it; None takes HF_TOKEN or the login of the ``hf`` command.

    Returns:
        A folder that ``DualDiffusionPipeline.from_pretrained`` and ``python -m convert`` read.

    Raises:
        UserError: there is no such model or revision, it may not be read or is of another kind, or the hub cannot be
            reached and the cache does not have it.
    """
    try:
        with as_user_errors(name, revision):
            found = huggingface_hub.HfApi(token=token).model_info(name, revision=revision)
    except UnreachableError as error:
        folder = _cached(name, revision)
        if folder is None:
            raise UserError(f"{error}; it has not been downloaded before") from error
        log.warning("%s; the copy in %s is used", error, folder)
        return folder
    mark, wanted = _choose(name, [sibling.rfilename for sibling in found.siblings or ()])
    with as_user_errors(name, revision):
        rest = huggingface_hub.snapshot_download(
            name, revision=found.sha, token=token, allow_patterns=[glob.escape(file) for file in wanted]
        )
        whole = Path(huggingface_hub.hf_hub_download(name, mark, revision=revision, token=token)).parent
    return whole if whole == Path(rest) else download(name, revision, token)  # else the branch moved meanwhile


def _cached(name: str, revision: str | None) -> Path | None:
    for mark in (DESCRIPTION, INDEX_FILE):
        found = huggingface_hub.try_to_load_from_cache(name, mark, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


def _choose(name: str, files: Sequence[str]) -> tuple[str, list[str]]:
    """(the file that comes last, the files that come before it). Raises ``UserError`` for what is no model of ours."""
    if DESCRIPTION in files:
        return DESCRIPTION, [file for file in files if file != DESCRIPTION]
    if INDEX_FILE not in files:
        raise UserError(
            f"{name}: has neither {DESCRIPTION} nor {INDEX_FILE}; name a model of this program, or a diffusers folder "
            "of D-DiT or SD3"
        )
    has_third = any(file.startswith("text_encoder_3/") for file in files)
    parts = [part for part in PARTS if not (has_third and part in CLIP)]
    inside = [file for file in files if PurePosixPath(file).parts[0] in parts and "/" in file]
    weights = [file for file in inside if file.endswith(".safetensors")]
    for part in ("transformer", "vae"):
        pickles = [file for file in inside if file.startswith(f"{part}/") and _is_pickle(file)]
        if pickles and not any(file.startswith(f"{part}/") for file in weights):
            raise UserError(
                f"{name}: has only pickled weights ({pickles[0]}), which can run code when they are opened; ask its "
                "owner for safetensors"
            )
    plain = [file for file in inside if not _is_pickle(file) and not VARIANT.search(file)]
    return INDEX_FILE, plain + [file for file in files if file in (MASK_FILE, SETTINGS_FILE)]


def _is_pickle(file: str) -> bool:
    return any(fnmatch.fnmatch(file, pattern) for pattern in PICKLES)
