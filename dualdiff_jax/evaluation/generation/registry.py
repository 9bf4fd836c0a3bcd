"""The benchmarks of images by name."""

from collections.abc import Mapping

from dualdiff_jax.evaluation.generation import coco30k, geneval, mjhq30k
from dualdiff_jax.evaluation.generation.image_task import ImageTask

IMAGE_TASKS: Mapping[str, ImageTask] = {task.name: task for task in (geneval.TASK, coco30k.TASK, mjhq30k.TASK)}
IMAGE_SCORES = ("fid", "clip-score")  # of folders of images, without a model
