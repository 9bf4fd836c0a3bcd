"""One training run: losses, optimizer, how long, what is told on the way, on which devices."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from dualdiff_jax.config.data import DataConfig, SourceConfig
from dualdiff_jax.config.fields import bounded, frozen
from dualdiff_jax.config.model import ModelConfig

if TYPE_CHECKING:
    import ml_collections


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

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that have weight, out of ``image`` and ``text``; the others are not read."""
        weights = {"image": self.image_weight, "text": self.text_weight}
        return tuple(stream for stream, weight in weights.items() if weight)

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

    @property
    def read_sources(self) -> tuple[SourceConfig, ...]:
        """The sources of the streams that have weight."""
        return tuple(source for source in self.data.sources if source.stream in self.objective.streams)

    def contradictions(self) -> Iterator[str]:
        if len(self.profile) not in (0, 2):
            yield f"profile is {self.profile}; give the first step and how many, as in --config.profile=100,5"
        if self.init_weights == "raw" and not self.init_from:
            yield "init_weights is 'raw', but there is no init_from"
        if self.optimizer.warmup_steps >= self.train.steps:
            yield f"optimizer.warmup_steps {self.optimizer.warmup_steps} is not below train.steps {self.train.steps}"
        step = self.model.mmdit.patch_size * self.model.autoencoder.downscale
        for source in (*self.data.sources, *self.validation.sources):
            for side in sorted({side for size in source.sizes() for side in size if side % step}):
                yield (
                    f"source {source.name!r}: side {side} is not a multiple of {step}, which is "
                    "model.mmdit.patch_size times what the autoencoder takes to a latent"
                )


def empty_config() -> "ml_collections.ConfigDict":
    """The sections of ``RunConfig``, all empty, for a config file to write its differences into."""
    import ml_collections  # here: only config files need it, a config from a plain dict does not

    return ml_collections.ConfigDict(_sections(RunConfig))


def _sections(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {name: _sections(hint) for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
