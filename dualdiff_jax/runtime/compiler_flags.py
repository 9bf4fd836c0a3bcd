"""What XLA is told, platform by platform, and why.

``set_flags`` puts them into the environment before JAX starts; a plan for devices that are not here gives them to the
compiler itself (``options``). What the user's XLA_FLAGS and LIBTPU_INIT_ARGS say of a flag wins. XLA ends a process
over a flag that it does not know: ``tests/unit/test_compiler_flags.py`` and ``tests/targets`` try these on the
installed versions. No GPU or TPU has timed them yet; the reasons are those of the compiled text.
"""

import os
import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path

MIB = 1 << 20
Value = bool | int

FLAGS: Mapping[str, Mapping[str, Value]] = {
    "gpu": {
        # Collectives run beside products that do not wait for them, instead of between them.
        "xla_gpu_enable_latency_hiding_scheduler": True,
        # Two blocks become one turn of the loop over blocks, so the second's weights come during the first's products.
        "xla_gpu_enable_while_loop_double_buffering": True,
        # One collective a block: at 2B a block has 170 MB of bfloat16 weights and 340 MB of float32 gradients, which
        # XLA's threshold of 30 MB would cut into many that are too small for the network's full rate.
        "xla_gpu_all_gather_combine_threshold_bytes": 256 * MIB,
        "xla_gpu_reduce_scatter_combine_threshold_bytes": 512 * MIB,
        "xla_gpu_all_reduce_combine_threshold_bytes": 512 * MIB,  # of a hybrid layout: between nodes
    },
    "tpu": {
        # The same as for GPUs. These are libtpu's defaults, said so that they stay: the compiled text does not change.
        "xla_tpu_enable_latency_hiding_scheduler": True,
        "xla_enable_async_all_gather": True,
        "xla_tpu_overlap_compute_collective_tc": True,
        # Not here: fusing gathers into products (xla_tpu_enable_async_collective_fusion), which libtpu does by itself
        # on v5e and refuses to compile elsewhere; a limit of scoped VMEM, where libtpu's own is already 64 MiB.
    },
}
VARIABLE = {"gpu": "XLA_FLAGS", "tpu": "LIBTPU_INIT_ARGS"}
NVIDIA_DRIVER = Path("/dev/nvidiactl")


def options(platform: str, environment: Mapping[str, str] = os.environ) -> dict[str, Value]:
    """The flags of a platform (``gpu``, ``tpu``; others have none) that the environment says nothing of."""
    said = set(re.findall(r"--(\w+)", environment.get(VARIABLE.get(platform, ""), "")))
    return {name: value for name, value in FLAGS.get(platform, {}).items() if name not in said}


def set_flags(environment: MutableMapping[str, str] = os.environ) -> None:
    """Call before JAX starts. A run on CPUs is told nothing, nor is the CUDA compiler where no GPU is."""
    if environment.get("JAX_PLATFORMS") == "cpu":
        return
    for platform in ("gpu", "tpu") if NVIDIA_DRIVER.exists() else ("tpu",):
        ours = [f"--{name}={str(value).lower()}" for name, value in options(platform, environment).items()]
        if ours:
            variable = VARIABLE[platform]
            environment[variable] = " ".join([*ours, environment.get(variable, "")]).strip()
