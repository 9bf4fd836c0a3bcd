"""Fields that several tabs have, with the model's own values in them."""

import random
from typing import Any

from dualdiff_jax.app import given
from dualdiff_jax.app.door import gr
from dualdiff_jax.app.studio import Studio
from dualdiff_jax.sampling.flow_sampler import IMAGE_SAMPLERS
from dualdiff_jax.sampling.text_samplers import TEXT_SAMPLERS

NEW_SEEDS = 2**31  # seeds that the button draws from


def seed_field() -> Any:
    """A seed, and a button that draws another."""
    with gr.Row(elem_classes="seed"):
        field = gr.Number(0, label="Seed", precision=0, scale=3, min_width=90)
        button = gr.Button("New seed", size="sm", scale=1, min_width=90)
    button.click(
        lambda: random.randrange(NEW_SEEDS), None, field, queue=False, api_visibility="private", show_progress="hidden"
    )
    return field


def size_fields(studio: Studio) -> list[Any]:
    """Height and width."""
    default = studio.pipe.config.sampling
    with gr.Row():
        return [number_field("Height", default.height), number_field("Width", default.width)]


def drawing_fields(studio: Studio) -> list[Any]:
    """How many pictures, and the settings of all of them: the fields that ``given.drawing`` reads."""
    default = studio.pipe.config.sampling
    count = count_field("Pictures at once")
    with gr.Accordion("Settings", open=False):
        size = size_fields(studio)
        with gr.Row():
            steps, guidance = steps_field(default.image_steps), guidance_field(studio)
        sampler = gr.Dropdown(list(IMAGE_SAMPLERS), value=default.image_sampler, label="Sampler")
        seed = seed_field()
    return [*size, steps, guidance, sampler, seed, count]


def steps_field(value: int | None) -> Any:
    """Sampling steps; None is the model's own."""
    return number_field("Steps", value)


def guidance_field(studio: Studio) -> Any:
    """The guidance scale."""
    return gr.Number(studio.pipe.config.sampling.guidance_scale, label="Guidance", min_width=90)


def order_field(studio: Studio) -> Any:
    """The order in which tokens appear."""
    return gr.Dropdown(list(TEXT_SAMPLERS), value=studio.pipe.config.sampling.text_order, label="Order of the tokens")


def count_field(label: str) -> Any:
    """How many results at once."""
    return gr.Slider(1, given.MOST_AT_ONCE, value=1, step=1, label=label)


def text_field(label: str, placeholder: str = "", lines: int = 1) -> Any:
    """A text of bounded length."""
    return gr.Textbox("", label=label, placeholder=placeholder, lines=lines, max_length=given.MOST_CHARACTERS)


def number_field(label: str, value: int | None) -> Any:
    """A whole number; ``given.whole`` has its bounds, since Gradio's refuse an empty field, which arrives as 0.

    Gradio shows None as 0, so the label says what 0 is.
    """
    shown = f"{label} (0: the model's own)" if value is None else label
    return gr.Number(value or 0, label=shown, precision=0, min_width=90, placeholder="the model's own")
