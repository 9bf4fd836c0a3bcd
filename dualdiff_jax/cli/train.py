"""``--mode=train``: a run with the previews and the validation of its config."""

import json

import jax

from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.resolve import differences, resolve, to_dict
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.distributed.process_group import broadcast_from_first, first_host_first
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.likelihood import Likelihood
from dualdiff_jax.evaluation.previews import Preview
from dualdiff_jax.evaluation.task_scores import TaskScores
from dualdiff_jax.files import as_path
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.loop import train


def run_training(config: RunConfig, workdir: str) -> None:
    """Trains in ``workdir``, or resumes the run there; process 0 prints the folder of the trained model.

    Raises:
        UserError: the processes have different configs, or the run cannot begin or go on; the message says why.
    """
    check_same_config(config)
    mesh, tokenizer, hooks = make_mesh(config.mesh), Tokenizer(config.data.tokenizer), []
    if config.preview.every:
        preview = Preview(config.preview, config.model, tokenizer, as_path(workdir) / "samples")
        hooks.append((config.preview.every, preview))
    if config.validation.every:
        with first_host_first("validation"):
            hooks.append((config.validation.every, Likelihood(config, tokenizer, mesh)))
    if config.validation.tasks_every:
        hooks.append((config.validation.tasks_every, TaskScores(config, tokenizer)))
    folder = train(config, workdir, mesh, hooks)
    if folder is not None and jax.process_index() == 0:
        print(folder)


def check_same_config(config: RunConfig) -> None:
    """Raises ``UserError`` on each process whose config is not that of process 0: their programs would not match."""
    first = resolve(json.loads(broadcast_from_first("config", json.dumps(to_dict(config)))))
    changed = list(differences(first, config))
    if changed:
        raise UserError(
            "this process was started with another config than process 0; start all with the same command. "
            "Process 0 -> this one:\n  " + "\n  ".join(changed)
        )
