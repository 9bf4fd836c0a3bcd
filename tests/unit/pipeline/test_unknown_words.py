"""Words that a model's tokenizer does not know: each call that reads a text warns of them, once."""

import warnings

import pytest

from dualdiff_jax.pipeline.text_inputs import UnknownWords
from tests.unit.pipeline.test_pipeline import pictures, pipe  # noqa: F401

CALLS = {
    "text_to_image": lambda model, images, text: model.text_to_image([text, text], steps=1),
    "negative_prompt": lambda model, images, text: model.text_to_image("a three", text, steps=1),
    "image_to_image": lambda model, images, text: model.image_to_image(images[0], text, steps=1),
    "image_to_text": lambda model, images, text: model.image_to_text(images[0], prompt=text, length=12),
    "answer": lambda model, images, text: model.answer(images[0], text, length=24),
    "infill": lambda model, images, text: model.infill(text + " _", images[0], length=12),
    "score": lambda model, images, text: model.score(images[0], text, samples=4, length=12),
    "questions": lambda model, images, text: model.score(images[0], "three", questions=text, samples=4, length=24),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_warns_of_the_words_that_it_cannot_read(pipe, pictures, call):  # noqa: F811
    with pytest.warns(UnknownWords, match="this model's tokenizer does not know 'zebra'; use other words in") as found:
        CALLS[call](pipe, pictures, "a zebra three")
    assert sum(each.category is UnknownWords for each in found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CALLS[call](pipe, pictures, "a three")
