"""XLA's flags for each platform, and the reason for each.

``set_flags`` puts them into the environment before JAX starts; a plan for devices that this machine does not have
passes them to the compiler (``options``). A flag that the user sets in XLA_FLAGS or LIBTPU_INIT_ARGS keeps the user's
value. XLA aborts the process on a flag that it does not know: ``tests/unit/runtime/test_compiler_flags.py`` and
``tests/targets`` try these on the installed versions. They are not timed on a GPU or TPU yet; the reasons come from the
compiled programs.
"""

import os
import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path

MIB = 1 << 20
Value = bool | int | str

FLAGS: Mapping[str, Mapping[str, Value]] = {
    "gpu": {
        # Collectives run beside products that do not wait for them, instead of between them.
        "xla_gpu_enable_latency_hiding_scheduler": True,
        # One iteration of the loop over blocks computes two blocks, so the second's weights arrive during the first's
        # products.
        "xla_gpu_enable_while_loop_double_buffering": True,
        # One collective per block: in the 2B model a block has 170 MB of bfloat16 weights and 340 MB of float32
        # gradients. XLA's threshold of 30 MB would split them into collectives too small for the network's full rate.
        "xla_gpu_all_gather_combine_threshold_bytes": 256 * MIB,
        "xla_gpu_reduce_scatter_combine_threshold_bytes": 512 * MIB,
        "xla_gpu_all_reduce_combine_threshold_bytes": 512 * MIB,  # between nodes, in a hybrid layout
        # ``train.remat`` says what is computed again. Where XLA's own pass finds memory short, it computes products
        # again inside the loop: 12 pairs of the 2B model take 571 ms as compiled with it, 481 without, in one memory.
        "xla_disable_hlo_passes": "rematerialization",
        # Where rows are few, XLA cuts a product's contraction into two to eight parts, and another kernel adds their
        # float32 sums up: in a text pass of 128 tokens these are up to three times the bytes of the weights. Reading
        # one image with the 2B model takes 248 ms as compiled with the cuts, 214 without; training has none.
        "xla_gpu_experimental_force_split_k": 1,
    },
    "tpu": {
        # The same as for GPUs. They are libtpu's defaults, set here so that they stay: the compiled program is equal.
        "xla_tpu_enable_latency_hiding_scheduler": True,
        "xla_enable_async_all_gather": True,
        "xla_tpu_overlap_compute_collective_tc": True,
        # Left out: fusing gathers into products (xla_tpu_enable_async_collective_fusion), which libtpu does by default
        # on v5e and cannot compile elsewhere; and a limit of scoped VMEM, since libtpu's own is already 64 MiB.
    },
}
VARIABLE = {"gpu": "XLA_FLAGS", "tpu": "LIBTPU_INIT_ARGS"}
NVIDIA_DRIVER = Path("/dev/nvidiactl")


def options(platform: str, environment: Mapping[str, str] = os.environ) -> dict[str, Value]:
    """The flags of a platform that the user has not set.

    Args:
        platform: ``gpu`` or ``tpu``; others have no flags.
        environment: its XLA_FLAGS or LIBTPU_INIT_ARGS hold the user's flags.
    """
    set_by_user = set(re.findall(r"--(\w+)", environment.get(VARIABLE.get(platform, ""), "")))
    return {name: value for name, value in FLAGS.get(platform, {}).items() if name not in set_by_user}


def set_flags(environment: MutableMapping[str, str] = os.environ) -> None:
    """Adds the flags to ``environment``. Call before JAX starts.

    A run on CPUs gets no flags, and a machine without an NVIDIA driver none for GPUs.
    """
    if environment.get("JAX_PLATFORMS") == "cpu":
        return
    for platform in ("gpu", "tpu") if NVIDIA_DRIVER.exists() else ("tpu",):
        ours = [f"--{name}={str(value).lower()}" for name, value in options(platform, environment).items()]
        if ours:
            variable = VARIABLE[platform]
            environment[variable] = " ".join([*ours, environment.get(variable, "")]).strip()
