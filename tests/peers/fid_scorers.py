"""Loads the code of torch-fidelity, pytorch-fid and clean-fid, without what it downloads."""

import importlib
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tests.original.pipeline import import_torchvision


def torch_fidelity_network(weights: Path) -> Any:
    """torch-fidelity's extractor of the features of the last pooling: (n, 3, h, w) uint8 -> (n, 2048)."""
    import_torchvision()
    module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    extractor = module.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights))
    return lambda pixels: extractor(pixels)[0]


def tensorflow_resize() -> Any:
    """torch-fidelity's resize like TensorFlow 1's."""
    import_torchvision()
    return importlib.import_module(
        "torch_fidelity.interpolate_compat_tensorflow"
    ).interpolate_bilinear_2d_like_tensorflow1x


def pytorch_fid(weights: Path | None = None) -> tuple[Any, Any]:
    """pytorch-fid's module ``fid_score`` and, given weights, its network: (n, 3, h, w) in [0, 1] -> (n, 2048, 1, 1)."""
    import_torchvision()
    network = importlib.import_module("pytorch_fid.inception")
    score = importlib.import_module("pytorch_fid.fid_score")
    if weights is None:
        return score, None
    state = torch.load(weights, weights_only=True)
    with mock.patch.object(network, "load_state_dict_from_url", lambda *_, **__: state):
        return score, network.InceptionV3().eval()


def clean_fid_resize() -> Any:
    """clean-fid's resizer of mode "clean": (h, w, 3) uint8 -> (299, 299, 3) fp32."""
    package = types.ModuleType("cleanfid")  # its own __init__ imports what downloads
    package.__path__ = [str(Path(folder) / "cleanfid") for folder in sys.path if (Path(folder) / "cleanfid").is_dir()]
    with mock.patch.dict(sys.modules, {"cleanfid": package}):
        return importlib.import_module("cleanfid.resize").build_resizer("clean")
