"""The one place that imports Gradio, as ``gr``; without it, importing this module raises a ``UserError``.

Gradio reads its environment when it is imported: it reports nothing to its makers and looks for no newer release.
"""

import os
import warnings
from typing import Any

from dualdiff_jax.errors import UserError, reason

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def _gradio() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Gradio stands on
            import gradio  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"the page needs Gradio, which cannot be imported ({reason(error)}); pip install -r requirements-app.txt, "
            "or, without a clone, pip install 'gradio>=6.31,<7'"
        ) from error
    return gradio


gr = _gradio()
