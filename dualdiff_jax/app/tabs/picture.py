"""A visitor's picture: a file of theirs, or their latest drawing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dualdiff_jax.app import uploads
from dualdiff_jax.app.door import gr
from dualdiff_jax.app.faults import in_sentences
from dualdiff_jax.app.studio import Studio
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import remove

KEPT_SECONDS = 6 * 3600  # that a visitor's picture stays without a visit


class Picture(NamedTuple):
    """The components of a picture; ``file`` is its name on the server, which browsers cannot set."""

    file: Any
    shown: Any

    @classmethod
    def chosen(cls, studio: Studio, drawing: Any, name: str) -> "Picture":
        """Makes the components.

        Args:
            studio: whose folder uploads are written into.
            drawing: the state with the file of the visitor's latest drawing.
            name: of the tab.
        """
        file = gr.State(None, time_to_live=KEPT_SECONDS)
        upload = gr.File(
            label="A picture, up to 20 MiB", file_count="single", type="filepath", height=120, elem_id=f"{name}-upload"
        )
        take = gr.Button("Take my latest drawing", size="sm", elem_id=f"{name}-take")
        fault = gr.HTML(elem_id=f"{name}-upload-fault", elem_classes="message", js_on_load=None)
        shown = gr.Image(
            label="Picture",
            interactive=False,
            type="filepath",
            format="png",
            height=220,
            elem_id=f"{name}-picture",
            elem_classes="pictures",
            buttons=["fullscreen"],
        )

        def received(path: str | None) -> Iterator[tuple]:
            if path is None:
                return
            try:
                found = str(uploads.receive(studio, path))
            finally:
                remove(Path(path))
            yield found, found, None

        def taken(path: str | None) -> Iterator[tuple]:
            if path is None or not Path(path).is_file():
                raise UserError("there is no drawing yet; draw one in the first tab")
            found = str(uploads.receive(studio, path))
            yield found, found, None

        outputs, unchanged = [fault, file, shown, upload], (gr.skip(), gr.skip(), None)
        # "multiple": Gradio drops a file that is chosen while the one before is still on its way.
        options: dict[str, Any] = {"concurrency_limit": 4, "show_progress": "hidden", "trigger_mode": "multiple"}
        upload.upload(in_sentences(received, unchanged), upload, outputs, api_name=f"{name}_picture", **options)
        take.click(in_sentences(taken, unchanged), drawing, outputs, api_visibility="private", **options)
        return cls(file, shown)
