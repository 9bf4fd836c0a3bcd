"""torchvision is imported before diffusers, which imports what there is of it."""

import importlib.util

from tests.original.pipeline import import_torchvision

if importlib.util.find_spec("torchvision"):
    import_torchvision()
