"""What XLA must know of a GPU to compile for it: the properties that the device would report of itself.

The sizes are those of the CUDA programming guide for each compute capability and of the cards as they report them.
"""

from typing import NamedTuple

_TEXT = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_memory}
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: {units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {cache}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  shared_memory_per_block_optin: {shared_memory_of_block}
  cuda_compute_capability {{ major: {capability} minor: 0 }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{name}"
"""


class GpuTarget(NamedTuple):
    """The properties in which NVIDIA's cards differ."""

    name: str
    capability: int  # major number; the minor is 0
    cores: int  # streaming multiprocessors
    units: int  # of fp32, in each
    clock: float  # GHz
    shared_memory: int  # bytes of each multiprocessor
    cache: int  # bytes of L2
    memory: int  # bytes
    bandwidth: int  # bytes per second

    @property
    def text(self) -> str:
        """A ``GpuTargetConfigProto`` as text."""
        of_block = self.shared_memory - 1024  # CUDA keeps 1 KiB of each block
        return _TEXT.format(**self._asdict(), shared_memory_of_block=of_block)


_HOPPER, _BLACKWELL = (9, 132, 128, 1.98, 228 << 10, 50 << 20), (10, 148, 128, 1.965, 228 << 10)

# By the names of ``hardware.CHIPS``.
GPU_TARGETS = {
    "a100": GpuTarget(
        "NVIDIA A100-SXM4-80GB", 8, 108, 64, 1.41, 164 << 10, 40 << 20, 85_100_068_864, 2_039_040_000_000
    ),
    "h100": GpuTarget("NVIDIA H100 80GB HBM3", *_HOPPER, 84_978_434_048, 3_352_320_000_000),
    "h200": GpuTarget("NVIDIA H200 141GB HBM3e", *_HOPPER, 151_397_597_184, 4_800_000_000_000),
    "b200": GpuTarget("NVIDIA B200", *_BLACKWELL, 132_644_864, 191_514_411_008, 7_672_320_000_000),
    "gb200": GpuTarget("NVIDIA GB200", 10, 152, 128, 2.062, 228 << 10, 135_528_448, 197_897_748_480, 7_928_064_000_000),
}
