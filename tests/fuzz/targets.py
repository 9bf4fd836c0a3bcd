"""What is damaged and which of the package's readers then reads it."""

import json
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import torch
from PIL import Image, PngImagePlugin
from safetensors.numpy import save as save_safetensors

from demo.data import write_tokenizer
from dualdiff_jax.convert.lora_alpha import PEFT_CONFIG, PEFT_FILE
from dualdiff_jax.convert.lora_file import read_lora
from dualdiff_jax.convert.tensors import open_file, open_sharded
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.images import read_pixels
from dualdiff_jax.data.records.record import DataError
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.stored_arrays import save_arrays, stored_leaves
from dualdiff_jax.training.telemetry.sinks import JsonLines
from dualdiff_jax.weights import load_config, save_model
from tests.fuzz import mutations
from tests.fuzz.mutations import Mutator
from tests.unit import tiny
from tests.unit.data import photos


class Count(NamedTuple):
    """What a reader found: good records, and those that it reported as bad."""

    good: int
    bad: int = 0


class Target(NamedTuple):
    """One kind of file.

    Attributes:
        make: writes the file, and whatever must lie beside it, into an empty folder; returns the file's path.
        read: reads the file as the package does; raises ``UserError`` where it is refused.
        mutators: each as likely.
        notices_loss: whether ``DAMAGE`` that makes records vanish has to be reported.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Count]
    mutators: Sequence[Mutator]
    notices_loss: bool = False


def read_tensors(file: Path) -> Count:
    tensors = open_file(file)
    for name in tensors:
        tensors.read(name)
    return Count(len(tensors))


def some_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"blocks.{layer}.weight": rng.standard_normal((3, 4)).astype(np.float32) for layer in range(3)}


def make_safetensors(folder: Path) -> Path:
    (folder / "model.safetensors").write_bytes(save_safetensors(some_tensors()))
    return folder / "model.safetensors"


def make_torch(folder: Path) -> Path:
    content = {"model": {name: torch.from_numpy(array) for name, array in some_tensors().items()}}
    torch.save(content, folder / "model.pth")
    return folder / "model.pth"


def make_index(folder: Path) -> Path:
    shard_of = {}
    for number, (name, array) in enumerate(some_tensors().items()):
        shard_of[name] = f"model-{number}.safetensors"
        (folder / shard_of[name]).write_bytes(save_safetensors({name: array}))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 144}, "weight_map": shard_of}))
    return index


def read_index(file: Path) -> Count:
    tensors = open_sharded(file)
    for name in tensors:
        tensors.read(name)
    return Count(len(tensors))


def make_source(writer: Callable[[Path], str], name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        writer(folder)
        return folder / name

    return make


def write_one_tar(folder: Path) -> str:
    with tarfile.open(folder / "00000.tar", "w") as archive:
        for index in range(photos.COUNT):
            image = photos.jpeg(index).ljust(10240, b"x")  # zeros over a smaller sample make a whole, shorter shard
            photos.add(archive, f"{index:04d}.jpg", image)
            photos.add(archive, f"{index:04d}.json", json.dumps(photos.fields(index)).encode())
    return "00000.tar"


def read_source(form: str) -> Callable[[Path], Count]:
    """Reads every record of the file as a source of the format ``form``."""

    def read(file: Path) -> Count:
        source = open_source(photos.source(file.parent, file.name, format=form))
        good = 0
        for index in range(len(source)):
            try:
                record = source[index]
                assert record.image is not None
                good += 1
            except DataError as error:
                assert error.cause
        return Count(good, len(source) - good)

    return read


def picture(form: str, **options) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        image = Image.fromarray(photos.photo(0)[:40, :56])
        file = folder / f"picture.{form.lower()}"
        image.save(file, form, **options)
        return file

    return make


def png_text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "a photo", zip=True)
    info.add_itxt("XML:com.adobe.xmp", "<x/>")
    return info


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112], tags[0x010E] = 6, "a photo"
    return tags


def read_picture(file: Path) -> Count:
    pixels = read_pixels(file, 16, 16)
    assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8
    return Count(1)


def tokenizer_folder() -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return Tokenizer(folder)


def make_model_json(folder: Path) -> Path:
    save_model(folder / "model", tiny.CONFIG, tiny.random_weights(), tokenizer_folder())
    return folder / "model" / "model.json"


def read_model_json(file: Path) -> Count:
    load_config(file.parent)
    return Count(1)


def make_checkpoint(folder: Path) -> Path:
    save_arrays(folder / "weights", {name: jnp.asarray(array) for name, array in some_tensors().items()})
    return folder / "weights" / "_METADATA"


def read_checkpoint(file: Path) -> Count:
    return Count(len(stored_leaves(file.parent)))


def make_metrics(folder: Path) -> Path:
    file = folder / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in range(1, 9)))
    return file


def read_metrics(file: Path) -> Count:
    """A run that resumes behind step 8 keeps all records that it can read."""
    JsonLines(file, 9).close()
    return Count(sum(1 for line in file.read_bytes().splitlines() if line.strip()))


def make_lora(folder: Path) -> Path:
    """A file of PEFT, and its settings."""
    name = "base_model.model.transformer_blocks.0.attn"
    shapes = {f"{layer}.lora_{part}.weight": (3, 16)[:: 1 if part == "A" else -1] for layer in "qkv" for part in "AB"}
    tensors = {f"{name}.to_{key}": np.ones(shape, np.float32) for key, shape in shapes.items()}
    (folder / PEFT_FILE).write_bytes(save_safetensors(tensors, {"format": "pt"}))
    settings = {"peft_type": "LORA", "r": 3, "lora_alpha": 2, "alpha_pattern": {"to_q": 1.5}, "use_rslora": False}
    (folder / PEFT_CONFIG).write_text(json.dumps(settings))
    return folder / PEFT_FILE


def make_lora_settings(folder: Path) -> Path:
    return make_lora(folder).with_name(PEFT_CONFIG)


def read_one_lora(file: Path) -> Count:
    return Count(len(read_lora(file.with_name(PEFT_FILE), tiny.CONFIG)))


JSON = (mutations.json_value, mutations.json_text, mutations.several)
LINES = (mutations.json_line, mutations.json_text, mutations.several, *mutations.DAMAGE)

TARGETS = {
    "safetensors": Target(
        make_safetensors, read_tensors, (mutations.safetensors_header, mutations.several, *mutations.DAMAGE)
    ),
    "lora": Target(make_lora, read_one_lora, (mutations.safetensors_header, mutations.several, *mutations.DAMAGE)),
    "lora_settings": Target(make_lora_settings, read_one_lora, JSON),
    "pth": Target(make_torch, read_tensors, (mutations.zip_member, mutations.several, *mutations.DAMAGE)),
    "index": Target(make_index, read_index, JSON),
    "tar": Target(
        make_source(write_one_tar, "00000.tar"),
        read_source("tar"),
        (mutations.tar_header, mutations.several, *mutations.DAMAGE),
        notices_loss=True,
    ),
    "json": Target(make_source(photos.write_json, "list.json"), read_source("json"), JSON),
    "jsonl": Target(make_source(photos.write_lines, "lines.jsonl"), read_source("json"), LINES),
    "parquet": Target(
        make_source(photos.write_parquet, "train-00000.parquet"),
        read_source("parquet"),
        (mutations.several, *mutations.DAMAGE),
        notices_loss=True,
    ),
    "array_record": Target(
        make_source(photos.write_array_record, "all.array_record"),
        read_source("array_record"),
        (mutations.several, *mutations.DAMAGE),
        notices_loss=True,
    ),
    "png": Target(
        picture("PNG", pnginfo=png_text(), exif=exif()), read_picture, (mutations.png_chunk, mutations.several)
    ),
    "jpeg": Target(picture("JPEG", exif=exif()), read_picture, (mutations.several,)),
    "webp": Target(picture("WEBP", exif=exif()), read_picture, (mutations.several,)),
    "tiff": Target(picture("TIFF"), read_picture, (mutations.several,)),
    "model_json": Target(make_model_json, read_model_json, JSON),
    "checkpoint": Target(make_checkpoint, read_checkpoint, JSON),
    "metrics": Target(make_metrics, read_metrics, LINES),
}
