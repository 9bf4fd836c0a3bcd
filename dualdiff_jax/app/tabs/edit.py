"""The tab Edit."""

from pathlib import Path
from typing import Any

from dualdiff_jax.app import uploads
from dualdiff_jax.app.door import gr
from dualdiff_jax.app.editing import PAINTED, WHOLE, edit
from dualdiff_jax.app.studio import Studio
from dualdiff_jax.app.tabs import fields
from dualdiff_jax.app.tabs.brush import brush
from dualdiff_jax.app.tabs.outcome import Outcome
from dualdiff_jax.app.tabs.picture import Picture


def build(studio: Studio, drawing: Any) -> None:
    """Makes the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            picture = Picture.chosen(studio, drawing, "edit")
            part = gr.Radio([WHOLE, PAINTED], value=WHOLE, label="What changes", elem_id="edit-part")
            painted = brush("edit-brush")
            prompt = fields.text_field("Prompt", "what the result shows", lines=2)
            negative = fields.text_field("Negative prompt", "what guidance leads away from")
            strength = gr.Slider(0.05, 1.0, value=0.6, step=0.05, label="Strength, how much changes")
            settings = fields.drawing_fields(studio)
            button = gr.Button("Edit", variant="primary", elem_id="edit-run")
        with gr.Column(scale=3, min_width=280):
            outcome = Outcome.shown("edit", has_images=True)
    given = [picture.file, painted, part, prompt, negative, strength, *settings]
    outcome.runs(button, studio, edit, given, "edit")

    def shown_under_the_brush(file: str | None) -> dict[str, str | None]:
        return {"picture": uploads.as_data_url(Path(file)) if file else None, "mask": None}

    picture.file.change(shown_under_the_brush, picture.file, painted, api_visibility="private", show_progress="hidden")
    part.change(lambda chosen: 1.0 if chosen == PAINTED else 0.6, part, strength, api_visibility="private")
