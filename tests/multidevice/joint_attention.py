"""The TPU's kernel over both streams, interpreted, on one device and on eight.

python -m tests.multidevice.joint_attention FOLDER

FOLDER/LAYOUT.npz has outputs and gradients of a layout, FOLDER/taken.json the sizes that the kernel was given.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.models import joint_kernel
from dualdiff_jax.models.joint_attention import joint_attention
from dualdiff_jax.sharding import constrain, make_mesh

HEADS, HEAD_DIM, BATCH, LENGTHS = 4, 64, 4, (256, 128)
LAYOUTS = {  # name -> (devices, fields of the mesh)
    "one device": (1, {}),
    "fsdp": (4, {}),
    "fsdp and tensor": (8, {"layout": "sizes", "data": 2, "fsdp": 2, "tensor": 2}),
    "context": (8, {"context": 2}),
}


def main(folder: Path) -> None:
    rng = np.random.default_rng(0)
    streams = [rng.standard_normal((BATCH, 3, length, HEADS * HEAD_DIM)).astype(np.float32) for length in LENGTHS]
    weights = [rng.standard_normal((BATCH, length, HEADS * HEAD_DIM)).astype(np.float32) for length in LENGTHS]
    run, taken = joint_kernel.joint_attention, {}

    def loss(image: jax.Array, text: jax.Array):
        given = (constrain(x, "parts") for x in (image, text))
        outs = joint_attention(*given, scale=0.125, kernel="splash_interpreted", heads=HEADS)
        return sum(jnp.vdot(weight, out) for weight, out in zip(weights, outs, strict=True)), outs

    for name, (count, fields) in LAYOUTS.items():
        calls = []
        joint_kernel.joint_attention = lambda *args, calls=calls, **more: (
            calls.append(args[0].shape) or run(*args, **more)
        )
        with jax.set_mesh(make_mesh(MeshConfig(**fields), jax.devices()[:count])):
            (_, outs), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(*streams)
        np.savez(folder / f"{name}.npz", *outs, *gradients)
        taken[name] = sorted(set(calls))
    (folder / "taken.json").write_text(json.dumps(taken))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
