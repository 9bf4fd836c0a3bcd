"""The tab Fill."""

from typing import Any

from dualdiff_jax.app.door import gr
from dualdiff_jax.app.filling import fill
from dualdiff_jax.app.studio import Studio
from dualdiff_jax.app.tabs import fields
from dualdiff_jax.app.tabs.outcome import Outcome
from dualdiff_jax.app.tabs.picture import Picture


def build(studio: Studio, drawing: Any) -> None:
    """Makes the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            picture = Picture.chosen(studio, drawing, "fill")
            text = fields.text_field("Text with _ for each blank", "a photo of a _ on a _", lines=2)
            tokens = gr.Slider(1, 16, value=1, step=1, label="Tokens of a blank")
            with gr.Accordion("Settings", open=False):
                order = fields.order_field(studio)
                steps = fields.steps_field(None)
                seed = fields.seed_field()
            button = gr.Button("Fill", variant="primary", elem_id="fill-run")
        with gr.Column(scale=3, min_width=280):
            outcome = Outcome.shown("fill", has_images=False)
    outcome.runs(button, studio, fill, [picture.file, text, tokens, order, steps, seed], "fill")
