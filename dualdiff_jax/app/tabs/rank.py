"""The tab Rank."""

from typing import Any

from dualdiff_jax.app import given
from dualdiff_jax.app.door import gr
from dualdiff_jax.app.ranking import rank
from dualdiff_jax.app.studio import Studio
from dualdiff_jax.app.tabs import fields
from dualdiff_jax.app.tabs.outcome import Outcome
from dualdiff_jax.app.tabs.picture import Picture
from dualdiff_jax.pipeline.score_calls import SAMPLES


def build(studio: Studio, drawing: Any) -> None:
    """Makes the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            picture = Picture.chosen(studio, drawing, "rank")
            texts = gr.Textbox(
                label="Texts, one on each line", lines=4, max_length=given.MOST_TEXTS * given.MOST_CHARACTERS
            )
            question = fields.text_field("Question that they answer", "empty for captions")
            with gr.Accordion("Settings", open=False):
                per_token = gr.Checkbox(False, label="Per token, for texts of different lengths")
                samples = gr.Number(SAMPLES, label="Samples, an even number", precision=0)
                seed = fields.seed_field()
            button = gr.Button("Rank", variant="primary", elem_id="rank-run")
        with gr.Column(scale=3, min_width=280):
            outcome = Outcome.shown("rank", has_images=False)
    outcome.runs(button, studio, rank, [picture.file, texts, question, per_token, samples, seed], "rank")
