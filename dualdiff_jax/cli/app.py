"""``--mode=app``: the web page."""

import sys

from dualdiff_jax.cli import arguments, help


def serve_page(model: str) -> None:
    """Serves the page until the process is interrupted.

    Args:
        model: a model folder, a diffusers folder, or a model on the hub.

    Raises:
        UserError: Gradio is not installed, the model cannot be loaded, or the address is in use.
    """
    bits = None if arguments.T5_BITS.value is None else int(arguments.T5_BITS.value)
    loading = {"dtype": arguments.DTYPE.value, "t5_bits": bits}
    from dualdiff_jax.app.page import serve  # imports Gradio, which takes seconds and may be absent

    serve(model, loading, help.program(sys.argv), arguments.HOST.value, arguments.PORT.value)
