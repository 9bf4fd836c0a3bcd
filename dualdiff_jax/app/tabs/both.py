"""The tab Both."""

from typing import Any

from dualdiff_jax.app.door import gr
from dualdiff_jax.app.pairing import pair
from dualdiff_jax.app.studio import Studio
from dualdiff_jax.app.tabs import fields
from dualdiff_jax.app.tabs.outcome import Outcome


def build(studio: Studio, drawing: Any) -> None:
    """Makes the tab."""
    del drawing  # nothing begins from a picture here
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            beginning = fields.text_field("The texts begin with", "empty for any text")
            count = fields.count_field("Pairs at once")
            with gr.Accordion("Settings", open=False):
                size = fields.size_fields(studio)
                with gr.Row():
                    steps = fields.steps_field(studio.pipe.config.sampling.image_steps)
                    guidance = fields.guidance_field(studio)
                temperature = gr.Number(1.0, label="Temperature of the tokens")
                seed = fields.seed_field()
            button = gr.Button("Draw both", variant="primary", elem_id="both-run")
        with gr.Column(scale=3, min_width=280):
            outcome = Outcome.shown("both", has_images=True)
    outcome.runs(button, studio, pair, [beginning, count, *size, steps, guidance, temperature, seed], "both")
