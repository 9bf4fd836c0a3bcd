"""The tab Read."""

from typing import Any

from dualdiff_jax.app.door import gr
from dualdiff_jax.app.reading import read
from dualdiff_jax.app.studio import Studio
from dualdiff_jax.app.tabs import fields
from dualdiff_jax.app.tabs.outcome import Outcome
from dualdiff_jax.app.tabs.picture import Picture


def build(studio: Studio, drawing: Any) -> None:
    """Makes the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            picture = Picture.chosen(studio, drawing, "read")
            question = fields.text_field("Question", "empty for a caption")
            with gr.Accordion("Settings", open=False):
                order = fields.order_field(studio)
                with gr.Row():
                    steps = fields.steps_field(None)
                    length = fields.number_field("Tokens", None)
                seed = fields.seed_field()
            button = gr.Button("Read", variant="primary", elem_id="read-run")
        with gr.Column(scale=3, min_width=280):
            outcome = Outcome.shown("read", has_images=False)
    outcome.runs(button, studio, read, [picture.file, question, order, steps, length, seed], "read")
