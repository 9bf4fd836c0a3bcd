"""The tab Draw."""

from typing import Any

from dualdiff_jax.app.door import gr
from dualdiff_jax.app.drawing import draw
from dualdiff_jax.app.studio import Studio
from dualdiff_jax.app.tabs import fields
from dualdiff_jax.app.tabs.outcome import Outcome


def build(studio: Studio, drawing: Any) -> None:
    """Makes the tab; the first picture of each result goes into the state ``drawing``."""
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            prompt = fields.text_field("Prompt", "what the picture shows", lines=2)
            negative = fields.text_field("Negative prompt", "what guidance leads away from")
            settings = fields.drawing_fields(studio)
            button = gr.Button("Draw", variant="primary", elem_id="draw-run")
        with gr.Column(scale=3, min_width=280):
            outcome = Outcome.shown("draw", has_images=True)
    event = outcome.runs(button, studio, draw, [prompt, negative, *settings], "draw")
    prompt.submit(None, None, None, js="() => document.querySelector('#draw-run').click()")
    event.then(
        lambda files: files[0] if files else None,
        outcome.files,
        drawing,
        api_visibility="private",
        show_progress="hidden",
    )
