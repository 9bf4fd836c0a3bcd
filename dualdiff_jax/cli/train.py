"""``--mode=train``: a run with the previews and the validation of its config."""

import json
from pathlib import Path
from typing import Any

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


def run_training(config: RunConfig, workdir: str, *, as_json: bool = False) -> None:
    """Trains in ``workdir``, or resumes the run there; process 0 prints the folder of the trained model.

    Args:
        config: of the run.
        workdir: its folder.
        as_json: prints an object in place of the folder: the workdir, the folders of the model and of the LoRA or null,
            and whether the run has finished, or was stopped by a signal and saved.

    Raises:
        UserError: the processes have different configs, or the run cannot begin or go on; the message says why.
    """
    check_one_config(config)
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
    if jax.process_index() == 0:
        if as_json:
            print(json.dumps(_result(config, workdir, folder), indent=2))
        elif folder is not None:
            print(folder)


def _result(config: RunConfig, workdir: str, folder: Path | None) -> dict[str, Any]:
    has_lora, has_model = folder is not None and config.lora.rank > 0, folder is not None and config.lora.merge
    lora = str(as_path(workdir) / "lora") if has_lora else None
    return {
        "workdir": workdir,
        "finished": folder is not None,
        "model": str(folder) if has_model else None,
        "lora": lora,
    }


def check_one_config(config: RunConfig) -> None:
    """Raises ``UserError`` on each process whose config is not that of process 0: their programs would not match."""
    first = resolve(json.loads(broadcast_from_first("config", json.dumps(to_dict(config)))))
    changed = list(differences(first, config))
    if changed:
        raise UserError(
            "this process was started with another config than process 0; start all with the same command. "
            "Process 0 -> this one:\n  " + "\n  ".join(changed)
        )
