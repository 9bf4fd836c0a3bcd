"""The kinds of file that hold a network, each known by one of its keys."""

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
    """How one kind of file names one network."""

    network: str
    name: str  # as messages say it
    mark: str  # a key that only such a file has
    entries: Callable[[ModelConfig], Iterator[Entry]]
    dropped: tuple[str, ...] = ()  # patterns (regular expressions) of keys that D-DiT has no place for
    fresh: tuple[str, ...] = ()  # leaves that are, wholly or in some layers, not in the file

    def drops(self, key: str) -> bool:
        return any(re.fullmatch(pattern, key) for pattern in self.dropped)


MMDIT = CheckpointFormat("mmdit", "D-DiT transformer", "text_proj_out.weight", mmdit_entries)
T5 = CheckpointFormat(
    "t5",
    "T5 v1.1 encoder",
    "encoder.block.0.layer.0.SelfAttention.q.weight",
    t5_entries,
    dropped=(r"decoder\..*", r"lm_head\.weight"),  # of the whole T5
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
OWN = {layout.network: layout for layout in (MMDIT, T5, AUTOENCODER)}  # what export writes

# Parts of the original single file that D-DiT does not have.
STRANGERS = (r"text_encoders\.clip_.*", r"model_sampling\..*", r"model_ema\..*", r"conditioner\..*")

# A key pattern -> the model that has such keys. The first that matches names the file.
OTHER_MODELS = (
    (r"(^|\.)(label_emb\.0\.0|add_embedding\.linear_1)\.weight$", "Stable Diffusion XL"),
    (r"(^|\.)(double_blocks|single_transformer_blocks)\.0\.", "Flux"),
    (r"(^|\.)(input_blocks\.0\.0|time_embedding\.linear_1)\.weight$", "the UNet of Stable Diffusion 1 or 2"),
    (r"blocks\.\d+\..*(attn\.(ln_q|norm_q|norm_added_q)|attn2)\.", "Stable Diffusion 3.5"),
    (r"^(first_stage_model\.)?quant_conv\.weight$", "the autoencoder of Stable Diffusion 1, 2 or XL"),
    (r"encoder\.block\.0\.layer\.1\.DenseReluDense\.wi\.weight$", "T5 1.0, whose layers are not gated"),
    (r"text_model\.encoder\.layers\.0\.", "a CLIP text encoder"),
)
EXPECTED = "SD3-medium, D-DiT, a T5 v1.1 encoder or SD3's autoencoder"


def recognise(keys: Iterable[str]) -> dict[str, CheckpointFormat]:
    """Prefix -> layout, for every network among the keys of a file; empty where there is none.

    Raises ``UserError`` with the name of another model whose keys these are.
    """
    keys = list(keys)
    for pattern, model in OTHER_MODELS[:4]:
        if any(re.search(pattern, key) for key in keys):
            raise UserError(f"this is {model}, expected {EXPECTED}")
    found = {}
    for layout in FORMATS:
        for key in keys:
            if key.endswith(layout.mark) and key.removesuffix(layout.mark)[-1:] in ("", "."):
                found.setdefault(key.removesuffix(layout.mark), layout)
    if not found or any(re.search(OTHER_MODELS[4][0], key) for key in keys):
        for pattern, model in OTHER_MODELS[4:]:
            if any(re.search(pattern, key) for key in keys):
                raise UserError(f"this is {model}, expected {EXPECTED}")
    return found
