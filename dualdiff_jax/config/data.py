"""What a run reads."""

from collections.abc import Iterator
from typing import Literal

from dualdiff_jax.config.fields import bounded, frozen

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

    @property
    def stream(self) -> str:
        """The stream that reads it: ``image`` or ``text``."""
        return "image" if self.task == "image_generation" else "text"

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
