"""One training run: losses, optimizer, duration, telemetry, previews, devices."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from dualdiff_jax.config.data import DataConfig, SourceConfig, repeated_names
from dualdiff_jax.config.fields import bounded, field_types, frozen, in_units, is_section
from dualdiff_jax.config.model import ModelConfig

MOST_DEVICES = 2**20
MOST_SEED = 2**64 - 1
MOST_BATCH = 2**40  # bytes of the images of one step, in float32, on all hosts together
LARGEST_BETA = 1 - 2**-20  # 1 divides by zero in the first update, and numbers nearer to 1 are 1 in float32
MESH_AXES = ("data", "fsdp", "tensor", "context")
TASKS = {"image": "image_generation", "text": "captioning or instruction"}  # of a stream's sources


@frozen
class ObjectiveConfig:
    """The two losses and how they are added (arXiv 2501.00289, section 3; the formulas: objectives/)."""

    image_weight: float = bounded(default=1.0, low=0.0, high=1e6)  # 0 leaves the image stream out of every step
    image_weighting: Literal["uniform", "sigma_squared"] = "uniform"
    sigma_distribution: Literal["logit_normal_1000", "logit_normal"] = "logit_normal_1000"
    text_weight: float = bounded(default=0.2, low=0.0, high=1e6)  # lambda; 0 leaves the text stream out of every step
    text_normalization: Literal["all_positions", "answer_tokens"] = "all_positions"
    caption_dropout: float = bounded(default=0.1, low=0.0, high=1.0)
    anchor_end: bool = False  # whether a caption's last </s> is never masked; the text loss is then lower
    single_forward: bool = True  # both batches of a step share one pass of the model

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
    """The update rule. Lion needs about a tenth of AdamW's learning rate, Muon about ten times as much."""

    name: Literal["adamw", "adafactor", "lion", "muon"] = "adamw"
    learning_rate: float = bounded(default=3e-5, low=0.0, high=1e3)
    schedule: Literal["constant", "cosine"] = "constant"  # after the warm-up
    warmup_steps: int = bounded(default=2000, low=0)
    weight_decay: float = bounded(default=1e-2, low=0.0, high=1e3)
    decayed: Literal["kernels", "all"] = "kernels"  # what it acts on; all has biases, norms and the null image too
    beta1: float = bounded(default=0.9, low=0.0, high=LARGEST_BETA)
    beta2: float = bounded(default=0.999, low=0.0, high=LARGEST_BETA)
    gradient_scale: float = bounded(default=1.0, low=1e-6, high=1e6)  # a factor on the gradient, before the clip
    clip_norm: float = bounded(default=2.0, low=0.0)  # 0 turns clipping off
    ema_decay: float = bounded(default=0.9995, low=0.0, high=1.0)
    ema_start: int = bounded(default=0, low=0)  # updates before this one leave the average equal to the params
    ema_warmup: bool = False  # update n averages with min(ema_decay, (1 + n) / (10 + n))

    def contradictions(self) -> Iterator[str]:
        if self.ema_decay < 1.0 and np.float32(self.ema_decay) == 1.0:
            yield f"ema_decay is {self.ema_decay!r}, 1 in float32: the average never moves; give at most 1 - 1e-7"


@frozen
class LoraConfig:
    """Low-rank factors of kernels (arXiv 2106.09685): W + alpha / rank * A B, with A and B trained and W frozen."""

    rank: int = bounded(default=0, low=0, high=65536)  # of A B; 0 is no factors
    alpha: float = bounded(default=16.0, low=1e-3, high=1e6)
    targets: tuple[str, ...] = ("mmdit.blocks.*.qkv.kernel", "mmdit.blocks.*.attention_out.kernel")  # patterns
    merge: bool = True  # whether the run writes the whole model with A B inside, besides the factors alone

    def contradictions(self) -> Iterator[str]:
        if not self.rank and not self.merge:
            yield "merge is False, but rank is 0, so the run would write nothing; give a rank"
        for name in ("alpha", "targets"):
            if not self.rank and getattr(self, name) != getattr(LoraConfig, name):
                yield f"{name} is {getattr(self, name)}, but rank is 0, so there are no factors; give a rank"


@frozen
class TrainConfig:
    """Duration, batches, what is trained, and when to log, to save and to stop."""

    steps: int = bounded(low=1)
    global_batch_size: int = bounded(default=256, low=1, high=2**20)  # examples of each stream, per step
    microbatches: int = bounded(default=1, low=1)  # parts of a step's batch, whose gradients are summed
    remat: Literal["none", "full", "dots", "save_attention", "offload"] = "none"  # what is recomputed
    blocks: Literal["auto", "loop", "unrolled"] = "auto"  # how the MMDiT's blocks run; auto goes by the chip
    trainable: tuple[str, ...] = ("mmdit.*",)  # patterns of leaf names, or t5.embedding[mask]; the rest is frozen
    log_every: int = bounded(default=50, low=1)
    save_every: int = bounded(default=1000, low=1)
    keep_checkpoints: int = bounded(default=2, low=1)  # the newest ones
    keep_every: int = bounded(default=0, low=0)  # steps; checkpoints at its multiples are never deleted; 0 is none
    stop_after_skipped: int = bounded(default=10, low=1)  # updates in a row that are not finite
    stall_seconds: float = bounded(
        default=1800.0, low=0.0
    )  # without a finished step, after which the run stops; 0 is never

    def contradictions(self) -> Iterator[str]:
        if self.global_batch_size % self.microbatches:
            yield f"global_batch_size {self.global_batch_size} is not a multiple of microbatches {self.microbatches}"
        if self.keep_every % self.save_every:
            yield f"keep_every {self.keep_every} is not a multiple of save_every {self.save_every}"


@frozen
class TelemetryConfig:
    """Where metrics go besides metrics.jsonl. Each needs a package of its own."""

    tensorboard: bool = False
    wandb_project: str = ""  # "" is none


@frozen
class TaskConfig:
    """A benchmark, some of whose questions are asked while a model trains, by the model's own ``sampling``."""

    name: str  # of the task, as --task has it (docs/evaluation.md)
    root: str  # folder of the publisher's files
    split: str = ""  # "" is the task's default
    limit: int = bounded(default=256, low=1)  # about how many questions, the same every time


@frozen
class ValidationConfig:
    """Losses of held-out records and scores of benchmarks, with the EMA weights."""

    every: int = bounded(default=0, low=0)  # steps between losses; 0 is never
    batches: int = bounded(default=4, low=1)  # of train.global_batch_size examples of each stream
    sources: tuple[SourceConfig, ...] = ()
    tasks_every: int = bounded(default=0, low=0)  # steps between scores; 0 is never
    tasks: tuple[TaskConfig, ...] = ()

    def contradictions(self) -> Iterator[str]:
        if self.every and not self.sources:
            yield f"every is {self.every}, but there are no sources to validate on"
        if self.tasks_every and not self.tasks:
            yield f"tasks_every is {self.tasks_every}, but there are no tasks to evaluate on"
        yield from repeated_names(self.sources)
        names = [task.name for task in self.tasks]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"two tasks are named {name!r}"


@frozen
class PreviewConfig:
    """Images and texts generated with the EMA weights during training."""

    every: int = bounded(default=0, low=0)  # steps; 0 is never
    prompts: tuple[str, ...] = ()  # each is drawn
    images: tuple[str, ...] = ()  # files; each gets a caption
    question: str = ""  # asked about each image; "" is no question


@frozen
class MeshConfig:
    """The devices as a mesh of four axes: data, fsdp, tensor, context. Sizes are counts of devices, and -1 is the rest.

    The layout chooses data and fsdp; tensor and context count in every layout.
    ``replicated``: data is the rest. ``fsdp``: fsdp is the rest (ZeRO-3). ``hybrid``: parameters are sharded inside a
    node and replicated across nodes. ``sizes``: data and fsdp are as given.

    ``rules`` replaces rows of the table of logical axes (sharding/rules.py). Each entry is a logical axis and the mesh
    axes that split it; a logical axis alone is kept whole. To split width over fsdp and context and keep vocab whole:
        --config.mesh.rules='(("width", "fsdp", "context"), ("vocab",))'
    """

    layout: Literal["replicated", "fsdp", "hybrid", "sizes"] = "fsdp"
    data: int = bounded(default=1, low=-1, high=MOST_DEVICES)  # replicas
    fsdp: int = bounded(default=-1, low=-1, high=MOST_DEVICES)  # parameter shards
    tensor: int = bounded(default=1, low=1, high=MOST_DEVICES)  # parts of heads, mlp and vocabulary
    context: int = bounded(default=1, low=1, high=MOST_DEVICES)  # parts of the sequence
    rules: tuple[tuple[str, ...], ...] = ()

    def contradictions(self) -> Iterator[str]:
        if self.data == 0 or self.fsdp == 0:
            yield "data and fsdp are numbers of devices, or -1 for the rest, but one of them is 0"
        if self.data == self.fsdp == -1:
            yield "data and fsdp cannot both be the rest (-1)"
        if self.layout != "sizes" and (self.data, self.fsdp) != (1, -1):
            yield f"data {self.data} and fsdp {self.fsdp} are for layout 'sizes', but layout is {self.layout!r}"
        for rule in self.rules:
            yield from _rule_faults(rule)
        axes = [rule[0] for rule in self.rules if rule]
        for axis in sorted({axis for axis in axes if axes.count(axis) > 1}):
            yield f"rules has several entries for {axis!r}; give one"


def _rule_faults(rule: tuple[str, ...]) -> Iterator[str]:
    if not all(rule) or not rule:
        yield f"rules has {rule}; an entry is a logical axis and its mesh axes, such as ('mlp', 'tensor')"
        return
    axis, *mesh_axes = rule
    for name in dict.fromkeys(mesh_axes):
        if name not in MESH_AXES:
            yield f"rules sends {axis!r} to {name!r}, which is none of the mesh axes {', '.join(MESH_AXES)}"
        if mesh_axes.count(name) > 1:
            yield f"rules sends {axis!r} to {name!r} more than once"


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
    seed: int = bounded(default=0, low=0, high=MOST_SEED)
    init_from: str = ""  # model folder whose weights the run starts from; "" is fresh weights
    init_weights: Literal["ema", "raw"] = "ema"  # of that folder: the averages, or the last update's
    profile: tuple[int, ...] = bounded(default=(), low=1)  # (first step, number of steps) to write a trace of

    @property
    def read_sources(self) -> tuple[SourceConfig, ...]:
        """The sources of the streams that have weight; the run reads no others."""
        return tuple(source for source in self.data.sources if source.stream in self.objective.streams)

    def contradictions(self) -> Iterator[str]:
        if len(self.profile) not in (0, 2):
            yield f"profile is {self.profile}; give the first step and how many, as in --config.profile=100,5"
        elif self.profile and self.profile[0] > self.train.steps:
            yield f"profile is {self.profile}, but train.steps is {self.train.steps}; give a first step of the run"
        if self.init_weights == "raw" and not self.init_from:
            yield "init_weights is 'raw', but there is no init_from"
        if not self.lora.merge and self.train.trainable:
            yield (
                f"lora.merge is False, but train.trainable has {self.train.trainable[0]!r}, which only a whole model "
                "can hold; give lora.merge=True, or train.trainable=()"
            )
        if self.optimizer.warmup_steps >= self.train.steps:
            yield f"optimizer.warmup_steps {self.optimizer.warmup_steps} is not below train.steps {self.train.steps}"
        yield from self._source_faults()

    def _source_faults(self) -> Iterator[str]:
        sizes: dict[str, set[tuple[int, int]]] = {stream: set() for stream in self.objective.streams}
        for source in self.read_sources:
            sizes[source.stream].update(source.sizes())
            if test_data := source.test_data():
                yield (
                    f"data.sources: {source.name!r} would train on {test_data}, which is there to be tested on; name a "
                    "training split"
                )
        for stream in (stream for stream in sizes if not sizes[stream]):
            yield (
                f"data.sources has none of task {TASKS[stream]}, but objective.{stream}_weight is "
                f"{getattr(self.objective, f'{stream}_weight')}; give such a source, or set the weight to 0"
            )
        if all(sizes.values()) and len(set(map(frozenset, sizes.values()))) > 1:
            yield (
                f"data.sources: both streams need the same image sizes, but sources of task {TASKS['image']} have "
                f"{sorted(sizes['image'])} and sources of task {TASKS['text']} {sorted(sizes['text'])}"
            )
        pixels = max((height * width for sized in sizes.values() for height, width in sized), default=0)
        batch = 12 * pixels * self.train.global_batch_size * len(sizes)
        if batch > MOST_BATCH:
            yield (
                f"train.global_batch_size {self.train.global_batch_size}: the images of one step would take "
                f"{in_units(batch)} in float32, and they may take {in_units(MOST_BATCH)}"
            )
        yield from self._side_faults()

    def _side_faults(self) -> Iterator[str]:
        step = self.model.mmdit.patch_size * self.model.autoencoder.downscale
        most = step * self.model.mmdit.position_grid
        sides = {"model.sampling": {self.model.sampling.height, self.model.sampling.width}}
        for source in (*self.data.sources, *self.validation.sources):
            sides[f"source {source.name!r}"] = {side for size in source.sizes() for side in size}
        for what, side in ((what, side) for what, found in sides.items() for side in sorted(found)):
            if side % step:
                yield (
                    f"{what}: side {side} is not a multiple of {step}, the pixels of a token's side: "
                    "model.mmdit.patch_size times the pixels of a latent's side"
                )
            elif side > most:
                yield f"{what}: side {side} is above {most}, the pixels that model.mmdit.position_grid has places for"


def empty_config() -> Any:
    """A ``ConfigDict`` of the sections of ``RunConfig``, all empty, for a config file to write its differences into.

    It is ``Any`` to type checkers, because the annotations of ``ConfigDict`` know no sections inside sections.
    """
    import ml_collections  # imported here, because only config files need it

    return ml_collections.ConfigDict(_sections(RunConfig))


def _sections(cls: type) -> dict[str, Any]:
    return {name: _sections(hint) for name, hint in field_types(cls).items() if is_section(hint)}
