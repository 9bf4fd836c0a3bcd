"""Arrays whose every chunk carries its CRC-32C, so that a chunk whose bits have changed is an error, not other numbers.

TensorStore writes and checks the sums. They are a codec of zarr's third version, named in the description of each
array. Orbax writes that version and has no option for the codec, so the descriptions that it makes are completed here.
Readers follow the description: arrays that were written without sums are read as before.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint._src.serialization import tensorstore_utils  # Orbax has no public way to an array's codecs

from dualdiff_jax.errors import reason

PLAIN = ({"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"})
COMPRESSED = (PLAIN[0], {"name": "zstd", "configuration": {"level": 1}}, PLAIN[1])

CHUNK = re.compile(r'["/]([^"/]+)/c[\d/]*".*Digest mismatch')
INDEX = "CRC-32C checksum verification failed"  # of a file that says where the chunks of all arrays are
DETAILS = " [tensorstore_spec"


def checked_arrays(**options: Any) -> ocp.PyTreeCheckpointHandler:
    """Orbax's handler of trees of arrays; each chunk that it writes carries a checksum.

    Args:
        **options: of ``ocp.PyTreeCheckpointHandler``.
    """
    if not hasattr(tensorstore_utils.build_array_write_spec, "__wrapped__"):
        tensorstore_utils.build_array_write_spec = _with_checksums(tensorstore_utils.build_array_write_spec)
    return ocp.PyTreeCheckpointHandler(use_zarr3=True, **options)


def _with_checksums(describe: Callable) -> Callable:
    @functools.wraps(describe)
    def describe_with_checksums(*args: Any, **kwargs: Any) -> Any:
        description = describe(*args, **kwargs)
        array = description.json.get("base", description.json)  # below a cast
        if array["driver"] == "zarr3":
            array["metadata"]["codecs"] = list(COMPRESSED)
        return description

    return describe_with_checksums


def fault(error: BaseException) -> str:
    """Why arrays cannot be read, in one line that names the array if its bytes are not those that were written.

    Args:
        error: raised by Orbax or TensorStore.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).split(DETAILS)[0].encode(errors="replace").decode()  # damaged JSON may have half a character
    if match := CHUNK.search(text):
        return f"{match[1]} was changed since it was written"
    if INDEX in text:
        return "the list of its arrays was changed since it was written"
    return reason(ValueError(text) if text else error)
