"""Flips one bit of a file in a folder, as a bad disk or a bad copy does."""

import random
from collections.abc import Iterator
from pathlib import Path


def flipped_bits(folder: Path, count: int, seed: int) -> Iterator[Path]:
    """Yields ``count`` times a file of ``folder`` in which a random bit is flipped, and mends it afterwards.

    A larger file has its turn more often, by the square root of its size.
    """
    rng = random.Random(seed)
    contents = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    contents = {path: content for path, content in contents.items() if content}
    for file in rng.choices(list(contents), [len(content) ** 0.5 for content in contents.values()], k=count):
        changed = bytearray(contents[file])
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
        yield file
        file.write_bytes(contents[file])
