"""One of two hosts, four devices each, that runs programs over groups of devices after ``connect``.

python -m tests.multidevice.connected_hosts ID PORT
"""

import itertools
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dualdiff_jax.distributed.process_group import connect, distributed_run
from tests.end_to_end.command import HANG

AXES = ("data", "fsdp", "tensor")
MARKER = "all groups are connected"
PROGRAMS = 24


def main(number: int, port: str) -> None:
    with distributed_run(f"127.0.0.1:{port}", 2, number, int(HANG)):
        mesh = Mesh(np.asarray(jax.devices()).reshape(2, 2, 2), AXES)
        connect(mesh)
        print(MARKER, flush=True)
        groups = [None, *itertools.chain.from_iterable(itertools.permutations(AXES, size) for size in (1, 2, 3))]
        rng = np.random.default_rng(0)
        for _ in range(PROGRAMS):  # products whose operands and result lie on random groups
            shardings = [NamedSharding(mesh, random_spec(groups, rng)) for _ in range(3)]
            one, other = (
                jax.make_array_from_callback((8, 8), sharding, lambda index: np.ones((8, 8), np.float32)[index])
                for sharding in shardings[:2]
            )
            product = jax.jit(jax.numpy.matmul, out_shardings=shardings[2])(one, other)
            assert all(np.all(np.asarray(shard.data) == 8.0) for shard in product.addressable_shards)


def random_spec(groups: list, rng: np.random.Generator) -> PartitionSpec:
    while True:
        rows, columns = (groups[index] for index in rng.integers(len(groups), size=2))
        if not set(rows or ()) & set(columns or ()):
            return PartitionSpec(rows, columns)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
