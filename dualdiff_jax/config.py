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
    """Images to latents. ``identity``: pixels are the latents; 1 channel is their mean, 3 are RGB."""

    kind: Literal["identity"] = "identity"
    channels: int = bounded(3, low=1)

    def contradictions(self) -> Iterator[str]:
        if self.kind == "identity" and self.channels not in (1, 3):
            yield f"channels is {self.channels}, but the identity autoencoder has 1 (grey) or 3 (RGB)"


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

    def contradictions(self) -> Iterator[str]:
        if self.t5.vocab_size < self.mmdit.vocab_size:
            yield f"t5.vocab_size {self.t5.vocab_size} is below mmdit.vocab_size {self.mmdit.vocab_size}"


RECORD_FORMATS = ("json", "tar", "array_record", "parquet", "tfds")
QUESTION_FORMATS = ("llava", "vqa_v2", "okvqa", "gqa", "textvqa", "vizwiz", "pope")


@frozen
class RootConfig:
    """A folder with records, and what their keys are called there."""

    root: str  # folder that image paths and ``files`` are relative to
    files: str = ""  # a name, or a pattern with {a,b}, {000..099}, *; "" is what the format's publisher calls them
    image_key: str = "image_path"
    caption_keys: tuple[str, ...] = ("caption",)
    question_key: str = "question"
    answer_key: str = "answer"


@frozen
class SourceConfig(RootConfig):
    """One set of records and what it is used for (docs/data.md shows each format).

    ``image_generation`` feeds the image loss; ``captioning`` and ``instruction`` the text loss.
    All sources of one (height, width) are mixed example by example; different sizes alternate
    batch by batch, because a batch has one shape.
    """

    name: str
    task: Literal["image_generation", "captioning", "instruction"]
    format: Literal[RECORD_FORMATS + QUESTION_FORMATS + ("coco_captions",)] = "json"
    split: str = "train"  # of tfds and the official question and caption files
    roots: tuple[RootConfig, ...] = ()  # more folders of the same source, with keys of their own
    height: int = bounded(low=1)  # pixels that the model sees
    width: int = bounded(low=1)
    buckets: tuple[tuple[int, ...], ...] = ()  # more (height, width): each image takes the one nearest in shape
    weight: float = bounded(1.0, low=1e-9)
    caption_weights: tuple[float, ...] = bounded((1.0,), low=0.0)  # how often each of caption_keys is taken
    question: str = ""  # instruction: asked of every record, which then answers with its caption
    question_suffix: str | None = None  # after each question; None is what the format's recipe says
    needs_stats: bool = False  # tar: a shard counts only beside its SHARD_stats.json
    max_aspect: float = bounded(0.0, low=0.0)  # keeps images up to this longer side / shorter side; 0 keeps all
    min_side: int = bounded(0, low=0)  # pixels; keeps images whose shorter side is at least this
    min_caption: int = bounded(0, low=0)  # characters; keeps records all of whose captions are at least so long
    max_caption: int = bounded(0, low=0)  # characters; 0 is no limit

    def contradictions(self) -> Iterator[str]:
        for root in (self, *self.roots):
            if len(root.caption_keys) != len(self.caption_weights):
                yield f"{len(root.caption_keys)} caption_keys, but {len(self.caption_weights)} caption_weights"
            if not root.files and self.format in RECORD_FORMATS:
                yield f"files must be given for format {self.format!r}"
        if not sum(self.caption_weights) > 0:
            yield "caption_weights are all zero"
        if self.question and self.task != "instruction":
            yield f"question is for task instruction, not {self.task}"
        if self.needs_stats and self.format != "tar":
            yield f"needs_stats is for format tar, not {self.format}"
        if self.max_aspect and self.max_aspect < 1:
            yield f"max_aspect {self.max_aspect} is below 1; it is the longer side over the shorter"
        if self.max_caption and self.max_caption < self.min_caption:
            yield f"max_caption {self.max_caption} is below min_caption {self.min_caption}"
        if self.format in QUESTION_FORMATS and self.task != "instruction":
            yield f"format {self.format!r} has questions and answers; its task is instruction, not {self.task}"
        for bucket in self.buckets:
            if len(bucket) != 2 or min(bucket) < 1:
                yield f"buckets has {bucket}; give pairs (height, width) in pixels"

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """All (height, width) that its images may take."""
        return tuple(dict.fromkeys(((self.height, self.width), *((b[0], b[1]) for b in self.buckets if len(b) == 2))))


@frozen
class DataConfig:
    sources: tuple[SourceConfig, ...]
    tokenizer: str  # folder with tokenizer.json
    text_length: int = bounded(256, low=2)  # tokens of every training example
    read_threads: int = bounded(16, low=1)
    workers: int = bounded(0, low=0)  # processes that read, with read_threads each; 0 is threads of this process
    prefetch_batches: int = bounded(8, low=1)
    cache_images: int = bounded(0, low=0)  # decoded pictures of each source that stay in memory
    index_cache: str = ""  # folder for indexes of large files; "" is beside them
    max_bad_share: float = bounded(0.05, low=0.0, high=1.0)  # of a source's records; above it the run stops
    patience: float = bounded(600.0, low=1.0)  # seconds without a batch, after which the run stops

    def contradictions(self) -> Iterator[str]:
        names = [source.name for source in self.sources]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"two sources are named {name!r}"
        image = {size for s in self.sources if s.task == "image_generation" for size in s.sizes()}
        text = {size for s in self.sources if s.task != "image_generation" for size in s.sizes()}
        if image != text:
            yield (
                "both streams need the same image sizes, but image_generation sources have "
                f"{sorted(image)} and captioning and instruction sources {sorted(text)}"
            )
        for source in self.sources:
            tested = [root.files for root in (source, *source.roots) if "test" in root.files]
            tested = [] if source.format in RECORD_FORMATS else tested
            if source.split.startswith("test") or source.format == "pope" or tested:
                what = " ".join([source.format, source.split, *tested])
                yield f"{source.name!r} would train on {what}, which is there to be tested on; name a training split"


@frozen
class ObjectiveConfig:
    """The two losses and how they are added (arXiv 2501.00289, section 3; the formulas: objectives/)."""

    image_weighting: Literal["uniform", "sigma_squared"] = "uniform"
    sigma_distribution: Literal["logit_normal_1000", "logit_normal"] = "logit_normal_1000"
    text_weight: float = bounded(0.2, low=0.0)  # lambda
    text_normalization: Literal["all_positions", "answer_tokens"] = "all_positions"
    caption_dropout: float = bounded(0.1, low=0.0, high=1.0)
    single_forward: bool = True  # both batches of a step in one pass of the model


@frozen
class OptimizerConfig:
    learning_rate: float = bounded(3e-5, low=0.0)
    schedule: Literal["constant", "cosine"] = "constant"  # after the warm-up
    warmup_steps: int = bounded(2000, low=0)
    weight_decay: float = bounded(1e-2, low=0.0)
    beta1: float = bounded(0.9, low=0.0, high=1.0)
    beta2: float = bounded(0.999, low=0.0, high=1.0)
    clip_norm: float = bounded(2.0, low=0.0)  # 0 turns clipping off
    ema_decay: float = bounded(0.9995, low=0.0, high=1.0)


@frozen
class TrainConfig:
    steps: int = bounded(low=1)
    global_batch_size: int = bounded(256, low=1)  # examples of each of the two streams, per step
    microbatches: int = bounded(1, low=1)  # parts that a step's batch is cut into
    trainable: tuple[str, ...] = ("mmdit.*",)  # patterns of leaf names; the rest is frozen
    log_every: int = bounded(50, low=1)
    save_every: int = bounded(1000, low=1)
    keep_checkpoints: int = bounded(2, low=1)

    def contradictions(self) -> Iterator[str]:
        if self.global_batch_size % self.microbatches:
            yield f"global_batch_size {self.global_batch_size} is not a multiple of microbatches {self.microbatches}"


@frozen
class PreviewConfig:
    """What is drawn and read with the EMA weights while training goes on."""

    every: int = bounded(0, low=0)  # steps; 0 is never
    prompts: tuple[str, ...] = ()
    images: tuple[str, ...] = ()  # files
    question: str = ""  # asked of each image, when given


@frozen
class MeshConfig:
    fsdp: int = bounded(-1, low=-1)  # devices that share the parameters; -1 is all

    def contradictions(self) -> Iterator[str]:
        if self.fsdp == 0:
            yield "fsdp is 0; give a number of devices, or -1 for all"


@frozen
class RunConfig:
    """One training run."""

    model: ModelConfig
    data: DataConfig
    objective: ObjectiveConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    preview: PreviewConfig
    mesh: MeshConfig
    seed: int = bounded(0, low=0)

    def contradictions(self) -> Iterator[str]:
        if self.optimizer.warmup_steps >= self.train.steps:
            yield f"optimizer.warmup_steps {self.optimizer.warmup_steps} is not below train.steps {self.train.steps}"
        for source in self.data.sources:
            patch = self.model.mmdit.patch_size
            for side in sorted({side for size in source.sizes() for side in size if side % patch}):
                yield f"data.sources {source.name!r}: side {side} is not a multiple of model.mmdit.patch_size {patch}"


def empty_config() -> ml_collections.ConfigDict:
    """The sections of ``RunConfig``, all empty, for a config file to write its differences into."""
    return ml_collections.ConfigDict(_sections(RunConfig))


def _sections(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {name: _sections(hint) for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
