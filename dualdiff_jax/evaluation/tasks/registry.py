"""The tasks by name."""

from collections.abc import Mapping

from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.evaluation.tasks import (
    coco_captions,
    gqa,
    mmbench,
    mme,
    mmmu,
    okvqa,
    pope,
    textvqa,
    vizwiz,
    vqav2,
)
from dualdiff_jax.evaluation.tasks.task import Task

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        vqav2.TASK,
        okvqa.TASK,
        textvqa.TASK,
        vizwiz.TASK,
        gqa.TASK,
        pope.TASK,
        mme.TASK,
        mme.COGNITION_TASK,
        coco_captions.TASK,
        mmmu.TASK,
        mmbench.TASK,
    )
}


def task_of(name: str) -> Task:
    """The task of that name. Raises ``UserError`` where there is none."""
    if name not in TASKS:
        raise UserError(f"there is no task {quoted(name)}; choose some of {', '.join(TASKS)}")
    return TASKS[name]
