"""Draws the images of a benchmark, from where an earlier run was stopped.

    open the prompts -> compare with what is in the folder -> draw what is left, a batch at a time
    DIR/TASK.json            settings, model, data, how long it took
    DIR/TASK.images.jsonl    {"image", "prompt", "seed"} of each image
    DIR/TASK/...             the images, in the publisher's layout
All processes draw the same batches, split over all devices; process 0 keeps the files. An image is written whole or
not at all, and one that is there is not drawn again. It depends on the model, the settings, the seed and its name
alone.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dualdiff_jax.config.resolve import to_dict
from dualdiff_jax.distributed.process_group import broadcast_from_first, first_host_first
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation import record
from dualdiff_jax.evaluation.agreement import left_over
from dualdiff_jax.evaluation.asking import question_seed
from dualdiff_jax.evaluation.generation.image_files import ImageFiles
from dualdiff_jax.evaluation.generation.image_task import ImageTask
from dualdiff_jax.evaluation.generation.prompts import Prompt, chosen
from dualdiff_jax.evaluation.runner import FINISHED, UNFINISHED
from dualdiff_jax.files import as_path
from dualdiff_jax.pipeline import inputs
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.progress import Progress, report

# The model's own settings that decide its images; a caller's options replace some of them.
OWN = (
    "text_length",
    "image_steps",
    "guidance_scale",
    "image_sampler",
    "guidance_rule",
    "guidance_interval",
    "zero_init_steps",
    "sigma_shift",
    "sigma_shift_rule",
)


class DrawnImage(NamedTuple):
    """One image that is to be there."""

    image: str  # its file, relative to the task's folder
    prompt: str
    seed: int


@dataclasses.dataclass(frozen=True)
class Drawing:
    """One benchmark as it is drawn by one model.

    Attributes:
        task: the benchmark.
        root: folder of the publisher's files.
        seed: of all draws, in [0, 2**64).
        limit: prompts; None is all.
        images_per_prompt: None is the task's own.
        options: others of ``ImageOptions``; None is the model's own.
        weights: how the weights were loaded, for the settings: such as {"dtype": "bfloat16"}.
    """

    task: ImageTask
    root: str
    seed: int = 0
    limit: int | None = None
    images_per_prompt: int | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        count, task = self.images_per_prompt, self.task
        if task.images_per_prompt == 1 and count not in (None, 1):
            raise UserError(f"images_per_prompt is {count}; {task.name} has one image of each prompt, leave it out")

    @property
    def count(self) -> int:
        """Images of each prompt."""
        return self.images_per_prompt or self.task.images_per_prompt

    def open(self) -> "OpenedDrawing":
        """Finds all that can be found wrong before the model is loaded.

        Raises:
            UserError: the prompts cannot be used, or hosts have different ones.
        """
        with first_host_first("prompts"):
            found = self.task.prompts(as_path(self.root))
        text = json.dumps([prompt._asdict() for prompt in found], sort_keys=True)
        fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
        if fingerprint != broadcast_from_first("prompts", fingerprint):
            raise UserError(
                f"{self.root}: the prompts of {self.task.name} on this host differ from the first host's; give all "
                "hosts the same files"
            )
        prompts = chosen(found, self.limit)
        images = [
            DrawnImage(name, prompt.text, question_seed(self.seed, name))
            for prompt in prompts
            for name in prompt.images(self.count)
        ]
        return OpenedDrawing(self, prompts, images, len(found), fingerprint)


class OpenedDrawing(NamedTuple):
    """A drawing whose prompts have been read."""

    drawing: Drawing
    prompts: list[Prompt]
    images: list[DrawnImage]
    prompts_in_all: int
    fingerprint: str


def draw(
    opened: OpenedDrawing,
    pipeline: DualDiffusionPipeline,
    model: Mapping[str, str],
    folder: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> record.Record:
    """Draws all images that are not in ``folder`` yet.

    Args:
        opened: what to draw.
        pipeline: the model.
        model: its ``path`` and ``fingerprint``, for the record.
        folder: exists, and is locked.
        overwrite: begins anew.
        progress: called after each batch with (images that are there, images in all).

    Returns:
        The record, as it was written to ``TASK.json``; on all processes.

    Raises:
        UserError: an option is wrong; or the folder has images by another model, of other prompts or by other
            settings, with what differs.
    """
    drawing, _, images, _, _ = opened
    found = _record(opened, pipeline, model)
    files, is_first = ImageFiles(drawing.task.name, folder), jax.process_index() == 0
    done = files.begin(found, opened.prompts, [each._asdict() for each in images], overwrite) if is_first else set()
    left = [images[place] for place in left_over("images", [each.image for each in images], done)]
    given = {name: value for name, value in drawing.options.items() if value is not None}
    size = -(-pipeline.config.sampling.batch_size // pipeline.batch_parts) * pipeline.batch_parts
    started, count = time.perf_counter(), len(images) - len(left)
    try:
        for batch in (left[start : start + size] for start in range(0, len(left), size)):
            filled = [*batch, *[batch[-1]] * (size - len(batch))]  # so that one program serves all batches
            drawn = pipeline.text_to_image(
                [each.prompt for each in filled], seed=[each.seed for each in filled], **given
            )
            if is_first:
                files.write([each.image for each in batch], list(drawn)[: len(batch)])
            count += len(batch)
            report(progress, count, len(images))
    finally:
        files.close()
    found["state"] = FINISHED
    found["seconds"] = {"all": time.perf_counter() - started, "images": len(left)}
    if is_first:
        files.end(found)
    return json.loads(broadcast_from_first("record", json.dumps(found)))


def _record(opened: OpenedDrawing, pipeline: DualDiffusionPipeline, model: Mapping[str, str]) -> record.Record:
    """All of the record that is known before an image is drawn."""
    drawing, prompts, images, prompts_in_all, fingerprint = opened
    own = {name: value for name, value in to_dict(pipeline.config.sampling).items() if name in OWN}
    given = {name: value for name, value in drawing.options.items() if value is not None}
    height, width = inputs.image_size(pipeline.config, given.get("height"), given.get("width"))
    settings = {"model": own, "given": given, "seed": drawing.seed, "images_per_prompt": drawing.count}
    found = {
        "task": drawing.task.name,
        "title": drawing.task.title,
        "split": None,
        "state": UNFINISHED,
        "score": None,
        "reported": [each._asdict() for each in drawing.task.reported],
        "prompts": {"in_all": prompts_in_all, "drawn": len(prompts), "limit": drawing.limit},
        "images": len(images),
        "settings": settings | {"height": height, "width": width} | dict(drawing.weights),
        "model": dict(model),
        "data": {"root": drawing.root, "fingerprint": fingerprint},
        "versions": record.versions(),
        "devices": record.devices(),
        "command": record.command(),
    }
    return json.loads(json.dumps(found))  # as it will be read again: a tuple is a list there
