"""What the tests ask of XLA: to compile fast. Programs this small run no slower for it."""

import jaxlib

OPTIONS: dict[str, int] = {"xla_backend_optimization_level": 0}
if jaxlib.__version__.startswith("0.10."):  # XLA aborts a process whose XLA_FLAGS name what it does not know
    OPTIONS["xla_cpu_use_fusion_emitters"] = False  # half the time to compile a training step
FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in OPTIONS.items())
