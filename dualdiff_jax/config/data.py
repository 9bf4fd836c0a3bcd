"""What a run reads."""

import typing
from collections.abc import Iterator, Sequence
from typing import Literal

from dualdiff_jax.config.fields import bounded, frozen, pixel_count, token_count

RecordFormat = Literal["json", "tar", "array_record", "parquet", "tfds"]
QuestionFormat = Literal["llava", "vqa_v2", "okvqa", "gqa", "textvqa", "vizwiz", "pope"]
Fit = Literal["crop", "letterbox"]
RECORD_FORMATS: tuple[str, ...] = typing.get_args(RecordFormat)
QUESTION_FORMATS: tuple[str, ...] = typing.get_args(QuestionFormat)
MAX_PIXELS = 1 << 25  # of an image file that is decoded whole; a PNG of so many takes three seconds and 0.7 GB


@frozen
class RootConfig:
    """A folder with records, and the names of their fields."""

    root: str  # folder that image paths and ``files`` are relative to
    files: str = ""  # a name, or a pattern with {a,b}, {000..099}, *; "" is the names that the format's publisher uses
    image_key: str = "image_path"
    caption_keys: tuple[str, ...] = ("caption",)
    question_key: str = "question"
    answer_key: str = "answer"


@frozen
class SourceConfig(RootConfig):
    """One set of records and its use (docs/data.md shows each format).

    ``image_generation`` feeds the image loss; ``captioning`` and ``instruction`` feed the text loss.
    All sources of one (height, width) are mixed example by example; different sizes alternate
    batch by batch, because a batch has one shape.
    """

    name: str
    task: Literal["image_generation", "captioning", "instruction"]
    format: Literal[RecordFormat, QuestionFormat, "coco_captions"] = "json"
    split: str = "train"  # of tfds and of the official question and caption files
    roots: tuple[RootConfig, ...] = ()  # more folders of the same source, each with its own keys
    height: int = pixel_count()  # that the model sees
    width: int = pixel_count()
    buckets: tuple[tuple[int, ...], ...] = ()  # more (height, width); each image takes the one nearest in shape
    fit: Fit = "crop"  # crop fills height x width and cuts what is over; letterbox keeps the whole image, on grey
    weight: float = bounded(default=1.0, low=1e-9, high=1e9)  # share of its stream's examples among sources
    caption_weights: tuple[float, ...] = bounded(default=(1.0,), low=0.0)  # how often each of caption_keys is taken
    question: str = ""  # instruction: asked about every record, whose caption is the answer
    question_suffix: str | None = None  # after each question; None is the suffix of the format's recipe
    turns: Literal["all", "first"] = "all"  # of a dialogue; all means as many as fit into text_length
    answer_choice: Literal["most_frequent", "random"] = "most_frequent"  # of annotators; random: anew each epoch
    end_after_cut: bool = True  # whether </s> ends an answer that is cut, so that the model learns to stop there
    allow_outside_root: bool = False  # whether relative image paths may leave their root by ..
    needs_stats: bool = False  # tar: reads a shard only if its SHARD_stats.json exists
    max_aspect: float = bounded(default=0.0, low=0.0)  # drops images of larger longer side / shorter side; 0 keeps all
    min_side: int = bounded(default=0, low=0)  # pixels; drops images whose shorter side is below it
    min_caption: int = bounded(default=0, low=0)  # characters; drops records with a caption shorter than this
    max_caption: int = bounded(default=0, low=0)  # characters; drops records with a longer caption; 0 is no limit

    @property
    def stream(self) -> str:
        """The stream that reads it: ``image`` or ``text``."""
        return "image" if self.task == "image_generation" else "text"

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """All (height, width) that its images may take."""
        return tuple(dict.fromkeys(((self.height, self.width), *((height, width) for height, width in self.buckets))))

    def test_data(self) -> str:
        """Names the data made for testing that it reads, such as ``vqa_v2 test-dev``; "" if it reads none."""
        files = [root.files for root in (self, *self.roots) if "test" in root.files]
        files = [] if self.format in RECORD_FORMATS else files
        is_test = self.split.startswith("test") or self.format == "pope" or files
        return " ".join([self.format, self.split, *files]) if is_test else ""

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
            if len(bucket) != 2 or min(bucket) < 1 or max(bucket) > 16384:
                yield f"buckets has {bucket}; give pairs (height, width) in pixels, 1 to 16384 each"


@frozen
class DataConfig:
    """The sources, and how to read them."""

    sources: tuple[SourceConfig, ...]  # those of a stream without weight are not read
    tokenizer: str  # folder with tokenizer.json
    text_length: int = token_count(256)  # of every training example
    read_threads: int = bounded(default=16, low=1, high=4096)
    workers: int = bounded(default=0, low=0, high=1024)  # reading processes; 0 is threads of this one
    prefetch_batches: int = bounded(default=8, low=1, high=4096)
    cache_images: int = bounded(default=0, low=0)  # decoded images of each source that stay in memory
    max_pixels: int = bounded(default=MAX_PIXELS, low=4, high=1 << 27)  # of an image file; a larger one is a bad record
    index_cache: str = ""  # folder for indexes of large files; "" is a folder next to each file
    local_cache: str = ""  # folder on each host's disk for what is read from buckets; "" keeps nothing
    local_cache_gb: float = bounded(default=100.0, low=0.01, high=1e6)  # 10^9 bytes there; the longest unused go first
    max_bad_share: float = bounded(default=0.05, low=0.0, high=1.0)  # of a source's records; above it the run stops
    patience: float = bounded(default=600.0, low=1.0)  # seconds without a batch after which the run stops
    allow_changed: bool = False  # whether a run may resume although its data changed, so that its batches differ

    def contradictions(self) -> Iterator[str]:
        yield from repeated_names(self.sources)


def repeated_names(sources: Sequence[SourceConfig]) -> Iterator[str]:
    """Yields one sentence for each name that several sources have."""
    names = [source.name for source in sources]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"two sources are named {name!r}"
