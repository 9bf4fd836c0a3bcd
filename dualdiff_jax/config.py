"""Every setting of the project: its name, type, bounds and default, once.

A config file builds an ``ml_collections.ConfigDict`` that holds only what differs; ``resolution.resolve``
turns it into the frozen dataclasses below, or raises one ``UserError`` that lists every fault.
A field without a default must be given.
"""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any, Literal

import ml_collections

frozen = dataclasses.dataclass(frozen=True, kw_only=True)


def bounded(default: Any = dataclasses.MISSING, *, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field whose number (or each number of a tuple) lies in [low, high]."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


@frozen
class MMDiTConfig:
    """Sizes of the joint transformer (arXiv 2403.03206, section 4; 2501.00289, section 3)."""

    depth: int = bounded(low=1)  # joint blocks
    width: int = bounded(low=2)  # of both residual streams
    heads: int = bounded(low=1)
    vocab_size: int = bounded(low=4)  # outputs of the text head
    mlp_ratio: int = bounded(4, low=1)
    patch_size: int = bounded(2, low=1)  # latents per token side
    position_grid: int = bounded(192, low=1)  # side of the fixed position table
    position_base: int = bounded(64, low=1)  # grid steps that span one unit of the training resolution
    null_image_tokens: int = bounded(8, low=1)  # stand for the image in text-only passes

    def contradictions(self) -> Iterator[str]:
        if self.width % self.heads:
            yield f"width {self.width} is not a multiple of heads {self.heads}"
        if self.width % 4:
            yield f"width {self.width} is not a multiple of 4, which the 2-D sinusoids need"


@frozen
class T5Config:
    """Sizes of the text encoder, T5 v1.1 (arXiv 1910.10683, 2002.05202)."""

    vocab_size: int = bounded(low=4)  # embedding rows
    width: int = bounded(low=1)
    depth: int = bounded(low=1)
    heads: int = bounded(low=1)
    head_dim: int = bounded(low=1)
    mlp_width: int = bounded(low=1)
    relative_buckets: int = bounded(32, low=4)
    relative_max_distance: int = bounded(128, low=4)


@frozen
class AutoencoderConfig:
    """Images to latents.

    ``identity``: pixels are the latents; 1 channel is their mean, 3 are RGB.
    ``kl``: SD3's variational autoencoder; the fields from ``level_widths`` on are its own.
    """

    kind: Literal["identity", "kl"] = "identity"
    channels: int = bounded(3, low=1)  # of the latents
    level_widths: tuple[int, ...] = bounded((128, 256, 512, 512), low=1)  # each level has half the side of the last
    level_depth: int = bounded(2, low=1)  # residual blocks of a level in the encoder; the decoder has one more
    norm_groups: int = bounded(32, low=1)
    shift: float = 0.0609  # latents = (posterior sample - shift) * scale
    scale: float = bounded(1.5305, low=1e-9)

    def contradictions(self) -> Iterator[str]:
        if self.kind == "identity" and self.channels not in (1, 3):
            yield f"channels is {self.channels}, but the identity autoencoder has 1 (grey) or 3 (RGB)"
        if not self.level_widths:
            yield "level_widths is empty; give a width for each level"
        for width in self.level_widths:
            if width % self.norm_groups:
                yield f"level_widths has {width}, which is not a multiple of norm_groups {self.norm_groups}"


@frozen
class SamplingConfig:
    """What the pipeline does when the caller names nothing else. Stored with the weights."""

    height: int = bounded(low=1)  # pixels
    width: int = bounded(low=1)
    text_length: int = bounded(256, low=2)  # tokens of a prompt for text to image
    image_steps: int = bounded(28, low=1)
    guidance_scale: float = bounded(7.0, low=1.0)  # 1 is no guidance
    sigma_shift: float = bounded(3.0, low=1e-3)  # of the sigma grid
    caption_length: int = bounded(256, low=2)
    caption_steps: int = bounded(128, low=1)
    answer_length: int = bounded(128, low=2)
    answer_steps: int = bounded(32, low=1)
    text_order: Literal["ancestral", "confidence"] = "ancestral"
    batch_size: int = bounded(16, low=1)  # examples that go through the model together


@frozen
class ModelConfig:
    """All that a model folder needs to be loaded and sampled."""

    mmdit: MMDiTConfig
    t5: T5Config
    autoencoder: AutoencoderConfig
    sampling: SamplingConfig
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    attention: Literal["auto", "xla", "cudnn", "splash", "splash_interpreted"] = "auto"  # the MMDiT's kernel

    def contradictions(self) -> Iterator[str]:
        if self.t5.vocab_size < self.mmdit.vocab_size:
            yield f"t5.vocab_size {self.t5.vocab_size} is below mmdit.vocab_size {self.mmdit.vocab_size}"


@frozen
class SourceConfig:
    """One set of records and what it is used for.

    ``image_generation`` feeds the image loss; ``captioning`` and ``instruction`` the text loss.
    All sources of one (height, width) are mixed example by example; different sizes alternate
    batch by batch, because a batch has one shape.
    """

    name: str
    root: str  # folder that image paths are relative to
    metadata: str  # JSON file with a list of records, relative to root
    task: Literal["image_generation", "captioning", "instruction"]
    height: int = bounded(low=1)  # pixels that the model sees
    width: int = bounded(low=1)
    weight: float = bounded(1.0, low=1e-9)
    caption_keys: tuple[str, ...] = ("caption",)
    caption_weights: tuple[float, ...] = bounded((1.0,), low=0.0)

    def contradictions(self) -> Iterator[str]:
        if len(self.caption_keys) != len(self.caption_weights):
            yield f"{len(self.caption_keys)} caption_keys, but {len(self.caption_weights)} caption_weights"
        if not sum(self.caption_weights) > 0:
            yield "caption_weights are all zero"


@frozen
class DataConfig:
    sources: tuple[SourceConfig, ...]
    tokenizer: str  # folder with tokenizer.json
    text_length: int = bounded(256, low=2)  # tokens of every training example
    read_threads: int = bounded(16, low=1)
    prefetch_batches: int = bounded(8, low=1)
    cache_images: int = bounded(0, low=0)  # decoded pictures of each source that stay in memory

    def contradictions(self) -> Iterator[str]:
        names = [source.name for source in self.sources]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"two sources are named {name!r}"
        image = {(s.height, s.width) for s in self.sources if s.task == "image_generation"}
        text = {(s.height, s.width) for s in self.sources if s.task != "image_generation"}
        if image != text:
            yield (
                "both streams need the same image sizes, but image_generation sources have "
                f"{sorted(image)} and captioning and instruction sources {sorted(text)}"
            )


@frozen
class ObjectiveConfig:
    """The two losses and how they are added (arXiv 2501.00289, section 3; the formulas: objectives/)."""

    image_weight: float = bounded(1.0, low=0.0)  # 0 leaves the image half of a step out
    image_weighting: Literal["uniform", "sigma_squared"] = "uniform"
    sigma_distribution: Literal["logit_normal_1000", "logit_normal"] = "logit_normal_1000"
    text_weight: float = bounded(0.2, low=0.0)  # lambda; 0 leaves the text half of a step out
    text_normalization: Literal["all_positions", "answer_tokens"] = "all_positions"
    caption_dropout: float = bounded(0.1, low=0.0, high=1.0)
    single_forward: bool = True  # both batches of a step in one pass of the model

    def contradictions(self) -> Iterator[str]:
        if not self.image_weight and not self.text_weight:
            yield "image_weight and text_weight are both 0, so there is nothing to learn"


@frozen
class OptimizerConfig:
    """Who moves the parameters. Lion and Muon want other rates than AdamW: a tenth, and about ten times as much."""

    name: Literal["adamw", "adafactor", "lion", "muon"] = "adamw"
    learning_rate: float = bounded(3e-5, low=0.0)
    schedule: Literal["constant", "cosine"] = "constant"  # after the warm-up
    warmup_steps: int = bounded(2000, low=0)
    weight_decay: float = bounded(1e-2, low=0.0)
    beta1: float = bounded(0.9, low=0.0, high=1.0)
    beta2: float = bounded(0.999, low=0.0, high=1.0)
    clip_norm: float = bounded(2.0, low=0.0)  # 0 turns clipping off
    ema_decay: float = bounded(0.9995, low=0.0, high=1.0)
    ema_warmup: bool = False  # update n averages with min(ema_decay, (1 + n) / (10 + n))


@frozen
class LoraConfig:
    """Low-rank factors beside kernels (arXiv 2106.09685): W + alpha / rank * A B, with A and B trained and W frozen."""

    rank: int = bounded(0, low=0)  # 0 is none
    alpha: float = bounded(16.0, low=0.0)
    targets: tuple[str, ...] = ("mmdit.blocks.*.qkv.kernel", "mmdit.blocks.*.attention_out.kernel")


@frozen
class TrainConfig:
    steps: int = bounded(low=1)
    global_batch_size: int = bounded(256, low=1)  # examples of each of the two streams, per step
    microbatches: int = bounded(1, low=1)  # parts that a step's batch is cut into
    remat: Literal["none", "full", "dots", "save_attention", "offload"] = "none"  # what the backward pass recomputes
    trainable: tuple[str, ...] = ("mmdit.*",)  # patterns of leaf names, or t5.embedding[mask]; the rest is frozen
    log_every: int = bounded(50, low=1)
    save_every: int = bounded(1000, low=1)
    keep_checkpoints: int = bounded(2, low=1)  # the newest ones
    keep_every: int = bounded(0, low=0)  # steps; checkpoints at its multiples stay for good; 0 is none
    stop_after_skipped: int = bounded(10, low=1)  # updates in a row that were not finite
    stall_seconds: float = bounded(1800.0, low=0.0)  # without a finished step, until the run ends; 0 is never

    def contradictions(self) -> Iterator[str]:
        if self.global_batch_size % self.microbatches:
            yield f"global_batch_size {self.global_batch_size} is not a multiple of microbatches {self.microbatches}"
        if self.keep_every % self.save_every:
            yield f"keep_every {self.keep_every} is not a multiple of save_every {self.save_every}"


@frozen
class TelemetryConfig:
    """Where figures go beside metrics.jsonl. Both need a package of their own."""

    tensorboard: bool = False
    wandb_project: str = ""  # "" is none


@frozen
class ValidationConfig:
    """Likelihood of records that are not trained on, with the EMA weights."""

    every: int = bounded(0, low=0)  # steps; 0 is never
    batches: int = bounded(4, low=1)  # of train.global_batch_size examples of each stream
    sources: tuple[SourceConfig, ...] = ()

    def contradictions(self) -> Iterator[str]:
        if self.every and not self.sources:
            yield f"every is {self.every}, but there are no sources to validate on"


@frozen
class PreviewConfig:
    """What is drawn and read with the EMA weights while training goes on."""

    every: int = bounded(0, low=0)  # steps; 0 is never
    prompts: tuple[str, ...] = ()
    images: tuple[str, ...] = ()  # files
    question: str = ""  # asked of each image, when given


@frozen
class MeshConfig:
    """Devices as a mesh; sizes are counts of devices, and -1 is the rest.

    ``replicated``: data is the rest. ``fsdp``: fsdp is the rest (ZeRO-3). ``hybrid``: parameters are sharded inside a
    node and replicated across nodes. ``sizes``: data and fsdp are as given. tensor and context count in all of them.
    """

    layout: Literal["replicated", "fsdp", "hybrid", "sizes"] = "fsdp"
    data: int = bounded(1, low=-1)  # replicas
    fsdp: int = bounded(-1, low=-1)  # parameter shards
    tensor: int = bounded(1, low=1)  # parts of heads, mlp and vocabulary
    context: int = bounded(1, low=1)  # parts of the sequence

    def contradictions(self) -> Iterator[str]:
        if self.data == 0 or self.fsdp == 0:
            yield "data and fsdp are numbers of devices, or -1 for the rest, but one of them is 0"
        if self.data == self.fsdp == -1:
            yield "data and fsdp cannot both be the rest (-1)"
        if self.layout != "sizes" and (self.data, self.fsdp) != (1, -1):
            yield f"data {self.data} and fsdp {self.fsdp} are for layout 'sizes', but layout is {self.layout!r}"


@frozen
class RunConfig:
    """One training run."""

    model: ModelConfig
    data: DataConfig
    objective: ObjectiveConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    lora: LoraConfig
    telemetry: TelemetryConfig
    validation: ValidationConfig
    preview: PreviewConfig
    mesh: MeshConfig
    seed: int = bounded(0, low=0)
    init_from: str = ""  # model folder that the run starts from; "" is fresh weights
    init_weights: Literal["ema", "raw"] = "ema"  # of that folder: the averages, or what the last update left
    profile: tuple[int, ...] = bounded((), low=1)  # (first step, number of steps) of which a trace is written

    def contradictions(self) -> Iterator[str]:
        if len(self.profile) not in (0, 2):
            yield f"profile is {self.profile}; give the first step and how many, as in --config.profile=100,5"
        if self.init_weights == "raw" and not self.init_from:
            yield "init_weights is 'raw', but there is no init_from"
        if self.optimizer.warmup_steps >= self.train.steps:
            yield f"optimizer.warmup_steps {self.optimizer.warmup_steps} is not below train.steps {self.train.steps}"
        for source in (*self.data.sources, *self.validation.sources):
            for side in ("height", "width"):
                if getattr(source, side) % self.model.mmdit.patch_size:
                    yield (
                        f"source {source.name!r}: {side} {getattr(source, side)} is not a multiple "
                        f"of model.mmdit.patch_size {self.model.mmdit.patch_size}"
                    )


def empty_config() -> ml_collections.ConfigDict:
    """The sections of ``RunConfig``, all empty, for a config file to write its differences into."""
    return ml_collections.ConfigDict(_sections(RunConfig))


def _sections(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {name: _sections(hint) for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
