"""What process 0 finds in a folder, on all processes."""

from collections.abc import Collection, Sequence

import numpy as np

from dualdiff_jax.distributed.process_group import broadcast_from_first


def left_over(place: str, names: Sequence[str], done: Collection[str]) -> list[int]:
    """The places in ``names`` of those that are not ``done``, by the ``done`` of process 0.

    Args:
        place: in the code, for ``broadcast_from_first``.
        names: the same on all processes.
        done: of this process; only that of process 0 counts.
    """
    is_left = np.array([name not in done for name in names], bool)
    packed = broadcast_from_first(place, np.packbits(is_left).tobytes().hex())
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(packed), np.uint8), count=len(names))
    return np.flatnonzero(bits).tolist()
