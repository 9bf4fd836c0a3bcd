"""A model for lmms-eval 0.7: ``lmms-eval --model dualdiff --model_args pretrained=MODEL --tasks ...``.

The entry point ``lmms_eval.models`` in pyproject.toml names ``manifest``. Each request is asked as ``--mode=evaluate``
asks a question: with a seed of its own, from the publisher's id where the task's documents have one, so that equal
prompts get equal answers in both. Tasks that compare log-likelihoods, have several rounds or no image are refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

from dualdiff_jax.data.benchmarks.question import Question, Questions
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.asking import Asker, Sampling
from dualdiff_jax.evaluation.tasks.task import TaskSettings, with_suffix
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.progress import bar, report

NAME = "dualdiff"
ID_KEYS = ("question_id", "questionId", "id", "index")  # of documents, the first that there is
IMAGE_MARK = "<image>"  # that some tasks write into their prompts


def manifest() -> ModelManifest:
    """What lmms-eval finds by the entry point."""
    return ModelManifest(NAME, simple_class_path=f"{__name__}.DualDiffusion")


class DualDiffusion(lmms):
    """A model folder, or a diffusers folder of D-DiT, on all devices.

    Args:
        pretrained: the folder.
        length: tokens of prompt and answer together; ``max_new_tokens`` of tasks does not count.
        steps: of the sampler.
        order: in which tokens appear; None for the model's own.
        seed: of all draws.
        dtype: float32 or bfloat16; None for the model's own.
        batch_size, max_batch_size, device: lmms-eval's own, which the model's ``sampling.batch_size`` and JAX decide.

    Raises:
        UserError: the folder is damaged, or is no such model.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        length: int = 128,
        steps: int = 32,
        order: str | None = None,
        seed: int = 0,
        dtype: str | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
    ):
        super().__init__()
        self._pipeline = DualDiffusionPipeline.from_pretrained(pretrained, dtype=dtype)
        self._settings = TaskSettings(suffix="", steps=int(steps), length=int(length))
        self._sampling = Sampling(seed=int(seed), order=order)

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The answers, each up to the first of its ``until``; a request without a prompt gets a caption."""
        asked = _Requests(requests, self.task_dict)
        captions = [index for index in range(len(asked)) if not asked.prompt(index)]
        others = [index for index in range(len(asked)) if asked.prompt(index)]
        found, progress = dict[int, str](), bar(NAME)
        asker = Asker(self._pipeline, with_suffix, self._settings, self._sampling)
        for indexes in (captions, others):
            for answers in asker.ask(asked, indexes):
                found |= {each.index: _until(each.answer, requests[each.index].args[1]) for each in answers}
                report(progress, len(found), len(requests))
        return [found[index] for index in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Refused: the model bounds the likelihood of whole answers, and has no greedy one."""
        raise UserError(f"{NAME} runs lmms-eval's generation tasks; choose a task of output_type generate_until")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Refused: the model answers one question."""
        raise UserError(f"{NAME} answers one question; choose a task of output_type generate_until")


class _Requests(Questions):
    """The requests of a run as questions."""

    name, root = "lmms-eval", ""

    def __init__(self, requests: Sequence[Instance], documents: Mapping[str, Any]):
        self._requests, self._documents = requests, documents

    def __len__(self) -> int:
        return len(self._requests)

    def prompt(self, index: int) -> str:
        """In one line, without marks of images."""
        return " ".join(self._requests[index].args[0].replace(IMAGE_MARK, " ").split())

    def __getitem__(self, index: int) -> Question:
        _, _, to_visual, number, task, split = self._requests[index].args
        document = self._documents[task][split][number]
        images = to_visual(document)
        if not images:
            raise UserError(f"task {task}: document {number} has no image, and {NAME} answers questions about one")
        name = next((str(document[key]) for key in ID_KEYS if key in document), str(number))
        return Question(name, images[0], self.prompt(index), ())

    def files(self) -> list[Path]:
        return []


def _until(answer: str, options: Mapping[str, Any]) -> str:
    """``answer`` up to the first of the task's ends."""
    until = options.get("until") or ()
    for end in [until] if isinstance(until, str) else until:
        answer = answer.split(end)[0] if end else answer
    return answer
