"""The page of all tabs, and the server that shows it."""

import os
import signal
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dualdiff_jax.app.door import gr
from dualdiff_jax.app.markup import element
from dualdiff_jax.app.studio import Studio, open_studio
from dualdiff_jax.app.style import CSS
from dualdiff_jax.app.tabs import both, draw, edit, fill, rank, read
from dualdiff_jax.app.uploads import MOST_BYTES
from dualdiff_jax.errors import UserError
from dualdiff_jax.pipeline.devices import in_words

TABS = {"Draw": draw, "Read": read, "Edit": edit, "Fill": fill, "Rank": rank, "Both": both}
WAITING = 64  # calls that may wait; the next visitor reads that the page is full
SESSIONS = 256  # visitors whose pictures are kept
CLEANED = (600, 6 * 3600)  # seconds: how often Gradio's copies are looked at, and the age at which they go


def build(studio: Studio) -> Any:
    """The page, not served yet."""
    where = element("p", f"{studio.model}: {in_words(studio.pipe.mesh)}", "where")
    with gr.Blocks(title="Dual Diffusion", analytics_enabled=False, delete_cache=CLEANED) as page:
        gr.HTML(f"<h1>Dual Diffusion</h1>{where}", js_on_load=None)
        drawing = gr.State(None)
        for title, tab in TABS.items():
            with gr.Tab(title, id=title.lower()):
                tab.build(studio, drawing)
    page.queue(max_size=WAITING, default_concurrency_limit=4)
    return page


def serve(model: str, loading: Mapping[str, Any], program: str, host: str, port: int) -> None:
    """Loads the model and serves the page until the process is interrupted.

    Args:
        model: a model folder, a diffusers folder, or a model on the hub.
        loading: ``dtype`` and ``t5_bits`` of ``DualDiffusionPipeline.from_pretrained``.
        program: how the command line is started, for the calls that the page shows.
        host: the address; 127.0.0.1 is this machine alone.
        port: 0 takes a free one.

    Raises:
        UserError: the model cannot be loaded, or the address is in use.
    """
    with tempfile.TemporaryDirectory(prefix="dualdiff-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "gradio")
        results = Path(folder) / "results"
        results.mkdir()
        page = build(open_studio(model, loading, program, results))
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder goes
        try:
            _, address, _ = launch(page, host, port)
            print(f"the page is at {address}; Ctrl+C ends it", flush=True)
            page.block_thread()
        except KeyboardInterrupt:
            pass
        finally:
            page.close(verbose=False)


def launch(page: Any, host: str, port: int) -> Any:
    """Starts the server in a thread of its own.

    Returns:
        Gradio's application, the address, and no public address.

    Raises:
        UserError: the address is in use.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return page.launch(
                server_name=host,
                server_port=port or None,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                inbrowser=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                run_history=False,
                enable_monitoring=False,
                footer_links=[],
                max_file_size=MOST_BYTES,
                state_session_capacity=SESSIONS,
                css=CSS,
                theme=gr.themes.Default(
                    font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"], primary_hue="indigo"
                ),
            )
        except OSError as error:
            raise UserError(
                f"the page cannot be served at {host}, port {port} ({error}); give another --port"
            ) from error
