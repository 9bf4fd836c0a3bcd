"""An answer is by the rule of its own question, whatever else is in the batch."""

import dataclasses
import types

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.data.benchmarks.question import ListedQuestions, Question
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.asking import TOO_LONG, Asker, Sampling
from dualdiff_jax.evaluation.tasks.mmmu import TASK
from tests.unit.tiny import CONFIG

IMAGE = Image.new("RGB", (8, 8))
CHOICES = [Question(f"choice{n}", IMAGE, "which?", ("A",), ("x", "y")) for n in range(3)]
OPEN = [Question(f"open{n}", IMAGE, "how many?", ("5",)) for n in range(2)]


class Model:
    """The second option has the better score; what is written is the place in the batch."""

    batch_parts = 1
    tokenizer = types.SimpleNamespace(question_ids=lambda prompt, length: None)

    def __init__(self, batch):
        self.config = dataclasses.replace(CONFIG, sampling=dataclasses.replace(CONFIG.sampling, batch_size=batch))

    def score(self, images, letters, **_):
        return types.SimpleNamespace(nats=np.array([[1.0, 0.0]]))

    def answer(self, images, prompts, seed, **_):
        assert len(images) == len(prompts) == len(seed) == self.config.sampling.batch_size
        return [f"{each % 1000}" for each in seed]


def answers(questions, batch):
    listed = ListedQuestions("mmmu", "root", questions, [])
    asker = Asker(Model(batch), TASK.ask, TASK.with_settings({"choose_by": "score"}), Sampling())
    asked = [each for found in asker.ask(listed, range(len(questions))) for each in found]
    assert [each.question.question_id for each in asked] == [each.question_id for each in questions]
    return {each.question.question_id: (each.answer, each.scores) for each in asked}


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_an_open_question_does_not_change_how_options_are_chosen(batch):
    mixed = [CHOICES[0], OPEN[0], CHOICES[1], OPEN[1], CHOICES[2]]
    found = answers(mixed, batch)
    assert all(found[each.question_id] == ("B", (-1.0, 0.0)) for each in CHOICES)
    assert {name: found[name] for name in ("open0", "open1")} == answers(OPEN, 4)
    assert found["open0"][0] != found["open1"][0] and not found["open0"][1]


def test_an_option_to_score_needs_room_for_its_end(monkeypatch):
    """The tokens of a prompt are its characters here: 9 leave room in 10 for a written answer, not for an option."""

    def question_ids(prompt, length):
        if len(prompt) >= length:
            raise UserError("no room")

    monkeypatch.setattr(Model, "tokenizer", types.SimpleNamespace(question_ids=question_ids))
    settings = TASK.with_settings({"choose_by": "score", "length": 10})
    asker = Asker(Model(1), TASK.ask, settings, Sampling())
    questions = [dataclasses.replace(each, text="how many?") for each in (CHOICES[0], OPEN[0])]
    faults = [asker._fault(question.text, question) for question in questions]
    assert faults == [TOO_LONG, ""]
