"""The formats in which files hold a network, each recognised by one of its keys."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.autoencoder_keys import autoencoder_entries, original_autoencoder_entries
from dualdiff_jax.convert.mmdit_keys import mmdit_entries
from dualdiff_jax.convert.rule import Entry
from dualdiff_jax.convert.sd3_keys import FRESH, sd3_entries, single_file_entries
from dualdiff_jax.convert.t5_keys import t5_entries
from dualdiff_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class CheckpointFormat:
    """How one kind of file names the tensors of one network.

    Attributes:
        network: one of ``NETWORKS``.
        name: for messages.
        marker: a key that only files of this format have.
        entries: the entries of every leaf that the format has, for the sizes of a config.
        dropped: regular expressions of keys that have no leaf in D-DiT.
        fresh: leaves that the format lacks, wholly or in some layers; an import initialises them.
    """

    network: str
    name: str
    marker: str
    entries: Callable[[ModelConfig], Iterator[Entry]]
    dropped: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()

    def drops(self, key: str) -> bool:
        """Whether an import ignores ``key``, given without its prefix."""
        return any(re.fullmatch(pattern, key) for pattern in self.dropped)


MMDIT = CheckpointFormat("mmdit", "D-DiT transformer", "text_proj_out.weight", mmdit_entries)
T5 = CheckpointFormat(
    "t5",
    "T5 v1.1 encoder",
    "encoder.block.0.layer.0.SelfAttention.q.weight",
    t5_entries,
    dropped=(r"decoder\..*", r"lm_head\.weight"),  # in files of the full T5
)
AUTOENCODER = CheckpointFormat(
    "autoencoder", "SD3 autoencoder", "decoder.up_blocks.0.resnets.0.conv1.weight", autoencoder_entries
)
FORMATS = (
    MMDIT,
    CheckpointFormat(
        "mmdit",
        "SD3 transformer",
        "time_text_embed.text_embedder.linear_1.weight",
        sd3_entries,
        dropped=(r"time_text_embed\.text_embedder\..*",),
        fresh=FRESH,
    ),
    CheckpointFormat(
        "mmdit",
        "SD3 transformer of the original file",
        "joint_blocks.0.x_block.attn.qkv.weight",
        single_file_entries,
        dropped=(r"y_embedder\..*",),
        fresh=FRESH,
    ),
    T5,
    AUTOENCODER,
    CheckpointFormat(
        "autoencoder",
        "SD3 autoencoder of the original file",
        "decoder.up.0.block.0.conv1.weight",
        original_autoencoder_entries,
    ),
)
D_DIT_FORMATS = {one.network: one for one in (MMDIT, T5, AUTOENCODER)}  # network -> the format that export writes

# Keys of the original single file that belong to no network of D-DiT.
IGNORED_KEYS = (r"text_encoders\.clip_.*", r"model_sampling\..*", r"model_ema\..*", r"conditioner\..*")

# Pattern of a key -> the model that has such keys; no checkpoint of D-DiT or SD3-medium has one.
OTHER_MODELS = (
    (r"(^|\.)(label_emb\.0\.0|add_embedding\.linear_1)\.weight$", "Stable Diffusion XL"),
    (r"(^|\.)(double_blocks|single_transformer_blocks)\.0\.", "Flux"),
    (r"(^|\.)(input_blocks\.0\.0|time_embedding\.linear_1)\.weight$", "the UNet of Stable Diffusion 1 or 2"),
    (r"blocks\.\d+\..*(attn\.(ln_q|norm_q|norm_added_q)|attn2)\.", "Stable Diffusion 3.5"),
    (r"^(first_stage_model\.)?quant_conv\.weight$", "the autoencoder of Stable Diffusion 1, 2 or XL"),
)
# The same for files in which no network is found: their keys may lie beside networks of D-DiT.
OTHER_FILES = (
    (
        r"(^|[._])lora[._]|[._]lora_(A|B|up|down)\b",
        "a LoRA, which changes a model and is none (python -m convert lora reads it)",
    ),
    (r"encoder\.block\.0\.layer\.1\.DenseReluDense\.wi\.weight$", "T5 1.0, whose layers are not gated"),
    (r"text_model\.encoder\.layers\.0\.", "a CLIP text encoder"),
)
EXPECTED = "SD3-medium, D-DiT, a T5 v1.1 encoder or SD3's autoencoder"


def recognise(keys: Iterable[str]) -> dict[str, CheckpointFormat]:
    """Finds the networks in a file by their marker keys.

    Args:
        keys: all keys of the file.

    Returns:
        Prefix of a network's keys -> its format. Empty where no network is found.

    Raises:
        UserError: the keys are those of another model, which the message names.
    """
    keys = list(keys)
    _refuse_models(OTHER_MODELS, keys)
    found: dict[str, CheckpointFormat] = {}
    for checkpoint_format in FORMATS:
        for key in keys:
            prefix = key.removesuffix(checkpoint_format.marker)
            if key.endswith(checkpoint_format.marker) and prefix[-1:] in ("", "."):
                found.setdefault(prefix, checkpoint_format)
    if not found:
        _refuse_models(OTHER_FILES, keys)
    return found


def _refuse_models(models: Iterable[tuple[str, str]], keys: Iterable[str]) -> None:
    """Raises ``UserError`` with the name of the first model whose pattern matches one of ``keys``."""
    for pattern, model in models:
        if any(re.search(pattern, key) for key in keys):
            raise UserError(f"this is {model}, expected {EXPECTED}")
