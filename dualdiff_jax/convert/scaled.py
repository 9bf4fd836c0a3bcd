"""Tensors as ComfyUI publishes them: 8-bit weights with a scale beside each, and strays that belong to no network.

NAME.weight       float8
NAME.scale_weight one number; the weight is NAME.weight * NAME.scale_weight, computed in float32
PREFIX.scaled_fp8 marks such a file and holds no number
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dualdiff_jax.convert.tensor_file import TensorInfo
from dualdiff_jax.convert.tensors import Tensors
from dualdiff_jax.errors import UserError

SCALE = re.compile(r"(.*\.)?(scale_weight|weight_scale)")
STRAYS = re.compile(r"(.*\.)?(scaled_fp8|scale_input|input_scale|comfy_quant|logit_scale|spiece_model)")


class CleanTensors(Tensors):
    """Other ``Tensors``, with scaled weights multiplied out and without strays.

    Args:
        tensors: of a file or of its shards.

    Raises:
        UserError: a scale is no single number.
    """

    def __init__(self, tensors: Tensors):
        self.path, self._tensors = tensors.path, tensors
        self.left_out = [key for key in tensors if STRAYS.fullmatch(key)]
        self._scales: dict[str, str] = {}  # key of a weight -> key of its scale
        for key in tensors:
            if (match := SCALE.fullmatch(key)) and (weight := f"{match[1] or ''}weight") in tensors:
                if int(np.prod(tensors[key].shape, dtype=object)) != 1:
                    raise UserError(
                        f"{tensors.file_of(key)}: {key}: found shape {tensors[key].shape}, expected one number, the "
                        f"scale of {weight}; give a file with a scale a tensor, or one that is not quantised"
                    )
                self._scales[weight] = key
        hidden = {*self.left_out, *self._scales.values()}
        self._keys = [key for key in tensors if key not in hidden]
        self.scaled = self._scales.keys()

    def __getitem__(self, key: str) -> TensorInfo:
        info = self._tensors[key]
        return TensorInfo(info.shape, np.dtype(np.float32)) if key in self._scales else info

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def file_of(self, key: str) -> Path:
        return self._tensors.file_of(key)

    def read(self, key: str) -> np.ndarray:
        tensor = self._tensors.read(key)
        if key not in self._scales:
            return tensor
        scale = self._tensors.read(self._scales[key]).astype(np.float32).reshape(())
        return tensor.astype(np.float32) * scale
