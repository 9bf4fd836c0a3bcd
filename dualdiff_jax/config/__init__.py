"""Every setting of the project: its name, type, bounds and default, each declared once.

A config file builds an ``ml_collections.ConfigDict`` that holds only the differences from the defaults.
``resolve.resolve`` turns it into the frozen sections here. A section checks itself when it is built, so that
none exists that is wrong; ``resolve`` lists the faults of all sections in one ``ConfigError``.
A field without a default must be given.
"""

from dualdiff_jax.config.data import (
    QUESTION_FORMATS,
    RECORD_FORMATS,
    DataConfig,
    RootConfig,
    SourceConfig,
)
from dualdiff_jax.config.fields import ConfigError
from dualdiff_jax.config.model import (
    AutoencoderConfig,
    MMDiTConfig,
    ModelConfig,
    SamplingConfig,
    T5Config,
)
from dualdiff_jax.config.run import (
    LoraConfig,
    MeshConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PreviewConfig,
    RunConfig,
    TaskConfig,
    TelemetryConfig,
    TrainConfig,
    ValidationConfig,
    empty_config,
)

__all__ = [
    "AutoencoderConfig",
    "ConfigError",
    "DataConfig",
    "LoraConfig",
    "MMDiTConfig",
    "MeshConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PreviewConfig",
    "QUESTION_FORMATS",
    "RECORD_FORMATS",
    "RootConfig",
    "RunConfig",
    "SamplingConfig",
    "SourceConfig",
    "T5Config",
    "TaskConfig",
    "TelemetryConfig",
    "TrainConfig",
    "ValidationConfig",
    "empty_config",
]
