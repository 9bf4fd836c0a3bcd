"""``--mode=inspect-data`` and ``--mode=encode-data``: figures of a config's data, and its encoded form."""

import json
import logging
from pathlib import Path

import jax

from dualdiff_jax.arrays import key_of
from dualdiff_jax.cli.results import results_folder
from dualdiff_jax.config import MeshConfig, ModelConfig, RunConfig
from dualdiff_jax.config.resolve import to_dict
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.distributed.process_group import barrier
from dualdiff_jax.encoding.frozen_encoder import FROZEN, FrozenEncoder
from dualdiff_jax.encoding.writer import encode_sources
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path, locked_folder, write_text
from dualdiff_jax.inspection.page import page
from dualdiff_jax.inspection.survey import Survey, figures, summary, survey
from dualdiff_jax.models.bundle import check_attention, init_weights, leaf_specs
from dualdiff_jax.models.leaves import network_of
from dualdiff_jax.progress import Progress
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.initial_weights import architecture_differences
from dualdiff_jax.weights import load_config, load_model, load_tokenizer

log = logging.getLogger(__name__)

PAGE = "data.html"

LOOKED_AT = 256  # records of each source that inspect-data looks at, unless --samples says otherwise


def inspect_data(config: RunConfig, output: str, samples: int, *, overwrite: bool, as_json: bool = False) -> None:
    """Prints figures of every source, and writes a page that shows records as the model sees them.

    Args:
        config: of the run.
        output: folder for the page, ``data.html``.
        samples: records of each source to look at.
        overwrite: whether a page that is there may be replaced.
        as_json: prints one object in place of tables.

    Raises:
        UserError: a source cannot be read, or the page is there already or cannot be written.
    """
    tokenizer = Tokenizer(config.data.tokenizer)
    surveys = []
    with results_folder(output, [PAGE], overwrite) as folder:
        file = folder / PAGE
        for source in config.data.sources:
            surveys.append(survey(source, config.data, tokenizer, samples))
            if not as_json:
                print(_table(surveys[-1]) + "\n", flush=True)
        try:
            write_text(file, page(surveys, tokenizer))
        except OSError as error:
            raise UserError(f"{file}: may not be written ({error.strerror}); choose another --output") from error
    found = {"page": str(file), "sources": [figures(each) for each in surveys]}
    print(json.dumps(found, indent=2) if as_json else file)


def _table(found: Survey) -> str:
    lines = summary(found)
    width = max(len(name) for name, _ in lines)
    figures = [f"{name.ljust(width)}  {value}" for name, value in lines]
    return "\n".join(figures + [f"  {message}" for message in found.messages])


def encode_data(
    config: RunConfig, output: str, model: str | None, progress: Progress | None, *, as_json: bool = False
) -> None:
    """Encodes every source of the config into a folder under ``output``, and prints the config entries that read them.

    Each host encodes its share with its own devices.

    Args:
        config: of the run.
        output: folder, shared by all hosts.
        model: the model folder whose frozen networks encode; None takes the weights that training begins with: those
            of ``config.init_from``, or else the ones that the seed draws.
        progress: called after each file with (records encoded, records of this host).
        as_json: prints the entries as a list of objects.

    Raises:
        UserError: a source or the model cannot be read, the model is not the config's, its attention does not run here,
            or the output cannot be written.
    """
    mesh, model = make_mesh(MeshConfig(), jax.local_devices()), model or config.init_from
    with locked_folder(as_path(output), "--output"):  # before weights are read, which may take long
        if model:
            check_model(config, model)
            model_config, weights, tokenizer = load_model(model, mesh)
        else:
            check_attention(config.model)
            _warn_of_random_weights(config.model)
            model_config, tokenizer = config.model, Tokenizer(config.data.tokenizer)
            weights = init_weights(model_config, mesh, key_of(config.seed))
        made_by = {
            "model": model or f"seed {config.seed}",
            "autoencoder": to_dict(model_config.autoencoder),
            "t5": to_dict(model_config.t5),
        }
        folders = encode_sources(
            config.data,
            FrozenEncoder(model_config, weights, mesh),
            tokenizer,
            output,
            made_by=made_by,
            host=jax.process_index(),
            hosts=jax.process_count(),
            progress=progress,
        )
        barrier("encoded")
    if jax.process_index() == 0:
        entries = [_entry(name, folder) for name, folder in folders.items()]
        print(json.dumps(entries, indent=2) if as_json else "\n".join(_snippet(entry) for entry in entries))


def check_model(config: RunConfig, folder: str) -> None:
    """Looks at a model folder whose frozen networks make of the data what the runs of a config read.

    Args:
        config: of the runs.
        folder: the model folder.

    Raises:
        UserError: ``folder`` is no model folder, its attention does not run here, or the networks or the tokens of the
            config are others.
    """
    own = load_config(folder)
    check_attention(own)
    has_texts = any(source.task == "image_generation" for source in config.data.sources)
    read = ("model.autoencoder.", "model.t5.") if has_texts else ("model.autoencoder.",)
    changed = [line for line in architecture_differences(own, config.model) if line.startswith(read)]
    if changed:
        raise UserError(
            f"{folder}: holds other networks than this config has (it -> config):\n  " + "\n  ".join(changed)
        )
    if has_texts and load_tokenizer(folder).fingerprint() != Tokenizer(config.data.tokenizer).fingerprint():
        raise UserError(
            f"{folder}: has other tokens than data.tokenizer {config.data.tokenizer}; "
            f"give --config.data.tokenizer={as_path(folder) / 'tokenizer'}"
        )


def _warn_of_random_weights(model: ModelConfig) -> None:
    networks = {network_of(name) for name in leaf_specs(model)}
    random = [network for network in FROZEN if network in networks]
    if random:
        log.warning(
            "%s: random weights encode the data; give --model=MODEL_DIR or --config.init_from=MODEL_DIR",
            " and ".join(random),
        )


def _entry(name: str, folder: Path) -> dict[str, str]:
    """What of an entry of ``data.sources`` makes it read an encoded source."""
    return {"name": name, "format": "array_record", "root": str(folder), "files": "*.array_record"}


def _snippet(entry: dict[str, str]) -> str:
    return f"dict({', '.join(f'{name}={json.dumps(value)}' for name, value in entry.items())}, ...)"
