"""The demo's scores and page, with an oracle in place of the model: it knows all digits and can be made to err."""

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest

from demo import report, samples
from demo.data import write_tokenizer
from demo.digits import CAPTIONS, QUESTION, SIDE, WORDS, load, pair_caption, split_pairs
from demo.page import page
from demo.picture import picture
from demo.samples import Readings, sample
from demo.scores import MEASURES, DigitClassifier, is_caption, is_right_answer, judge, missed
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.pipeline.image_calls import ImageSample
from dualdiff_jax.pipeline.text_calls import TextSample

LENGTH, STEPS = 12, 3


class Oracle:
    """Draws real training digits, and reads images by looking them up. ``corrupt`` changes its texts."""

    def __init__(self, tokenizer, corrupt=lambda text: text, words=WORDS):
        self.tokenizer, self._corrupt, self._words = tokenizer, corrupt, words
        self.config = SimpleNamespace(
            sampling=SimpleNamespace(
                caption_length=LENGTH, caption_steps=LENGTH, answer_length=LENGTH, answer_steps=2, batch_size=64
            )
        )
        train, held_out = load()
        self._example = {word: train.images[train.labels == i][3] for i, word in enumerate(words)}
        self._label = {
            image.tobytes(): label
            for part in (train, held_out)
            for image, label in zip(part.images, part.labels, strict=True)
        }

    def generate_images(self, prompts, *, seed, height, width, guidance_scale=None):
        images = [
            np.concatenate([self._example[word] for word in prompt.split() if word in WORDS], 1) for prompt in prompts
        ]
        assert all(image.shape == (height, width) for image in images)
        latents = np.stack(images)[..., None] / 127.5 - 1.0
        yield ImageSample(latents, np.stack([latents * step / STEPS for step in range(1, STEPS + 1)]))

    def decode_latents(self, latents):
        return np.repeat(latents, 3, axis=-1)

    def _label_of(self, image):
        return int(self._label[np.ascontiguousarray(image).tobytes()])

    def infill(self, texts, images, *, order, seed):
        words = [self._corrupt(WORDS[self._label_of(image)]) for image in images]
        return [text.replace("_", word) for text, word in zip(texts, words, strict=True)]

    def score(self, images, texts, *, samples, seed):
        spoken = [self._corrupt(WORDS[self._label_of(image)]) for image in images]
        rows = zip(spoken, texts, strict=True)
        return SimpleNamespace(nats=np.array([[word not in text for text in row] for word, row in rows], float))

    def generate_text(self, images, prompts, *, length, steps, seed, height, width, order, anchor_end, remask):
        assert steps == (64 if order == "ancestral" and not len(prompts[0]) else 2 if len(prompts[0]) else LENGTH)
        self.kinds = {*getattr(self, "kinds", ()), (order, anchor_end, remask)}
        rows = []
        for image, prompt in zip(images, prompts, strict=True):
            assert image.shape == (height, width)
            halves = np.split(image, width // SIDE, axis=1)
            labels = tuple(map(self._label_of, halves))
            if len(prompt):
                text = WORDS[labels[0]]
            else:
                text = CAPTIONS[labels[0] % 3].format(WORDS[labels[0]]) if len(labels) == 1 else pair_caption(labels)
            token_ids = self.tokenizer.caption_ids(self._corrupt(text), length - len(prompt))
            rows.append(np.concatenate([prompt, token_ids]).astype(np.int32))
        revealed_in = np.tile(np.arange(length) - len(prompts[0]), (len(rows), 1))
        return TextSample(np.stack(rows), np.maximum(revealed_in, -1), np.full(len(rows), steps))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def digits():
    return load()


@pytest.fixture(scope="module")
def classifier(digits):
    return DigitClassifier(digits[0])


@pytest.fixture(scope="module")
def drawn(tokenizer, digits):
    return sample(Oracle(tokenizer), digits[1], seed=0)


@pytest.fixture(scope="module")
def flawed(tokenizer, digits):
    """An oracle that writes seven for one and draws each digit as the next one."""
    return sample(
        Oracle(tokenizer, lambda text: text.replace("one", "seven"), WORDS[1:] + WORDS[:1]), digits[1], seed=0
    )


def test_captions_in_random_order_are_read_with_and_without_a_given_end(tokenizer, digits):
    oracle = Oracle(tokenizer)
    sample(oracle, digits[1], seed=0)
    ancestral = {("ancestral", None, None), ("ancestral", False, None), ("ancestral", None, 0.05)}
    assert oracle.kinds == {("confidence", None, None), *ancestral}


@pytest.mark.parametrize("caption", CAPTIONS)
def test_a_caption_is_right_only_as_a_whole(caption):
    right = caption.format("three")
    assert is_caption(right, (3,))
    assert not is_caption(caption.format("four"), (3,))
    assert not is_caption(right, (4,))
    for wrong in (right + " three", "a " + right, right.replace("three", ""), right.split()[0], "", "three"):
        assert not is_caption(wrong, (3,))


def test_a_caption_of_another_template_is_wrong():
    assert not is_caption("a photo of the number three", (3,))
    assert not is_caption("a three left of a three", (3,))
    assert not is_caption("a handwritten three", (3, 3))


def test_a_pair_has_one_caption_in_one_order():
    assert is_caption("a three left of a seven", (3, 7))
    assert is_caption("a seven left of a three", (7, 3))
    assert not is_caption("a seven left of a three", (3, 7))
    assert not is_caption("a three left of a", (3, 7))


def test_an_answer_is_one_word():
    assert is_right_answer("three", (3,))
    for wrong in ("four", "three three", "a three", ""):
        assert not is_right_answer(wrong, (3,))


def test_the_classifier_reads_real_held_out_digits(classifier, digits):
    _, held_out = digits
    read = [label for (label,) in classifier(held_out.images)]
    assert np.mean(np.equal(read, held_out.labels)) >= MEASURES["classifier_accuracy"].bound == 0.98


def test_the_classifier_reads_pairs_from_the_left(classifier, digits):
    train, _ = digits
    three, seven = (train.images[train.labels == label][0] for label in (3, 7))
    assert classifier(np.concatenate([three, seven], 1)[None]) == [(3, 7)]
    assert classifier(np.concatenate([seven, three], 1)[None]) == [(7, 3)]


def test_an_oracle_scores_one_in_every_measure(drawn, classifier, digits):
    verdicts = judge(drawn, classifier, digits[1])
    assert list(verdicts) == list(MEASURES)
    counts = {"generation_accuracy": 300, "composed_caption_accuracy": 170, "composed_caption_accuracy_unseen": 120}
    counts |= {"composed_generation_accuracy": 170, "composed_generation_accuracy_unseen": 120}
    counts |= {f"caption_exact_match_{kind}": 4 * 297 for kind in ("ancestral", "unanchored", "remasked")}
    for name, is_right in verdicts.items():
        assert is_right.all() or name == "classifier_accuracy", name
        assert len(is_right) == counts.get(name, 297), name


def test_mistakes_are_counted_in_their_measures(flawed, classifier, digits):
    _, held_out = digits
    verdicts = judge(flawed, classifier, held_out)
    for name in (
        "caption_exact_match",
        "answer_accuracy",
        "answer_accuracy_ancestral",
        "infill_accuracy",
        "ranking_accuracy",
    ):
        np.testing.assert_array_equal(verdicts[name], held_out.labels != 1)
    for kind in ("ancestral", "unanchored", "remasked"):  # four draws each
        np.testing.assert_array_equal(verdicts[f"caption_exact_match_{kind}"], np.tile(held_out.labels != 1, 4))
    for name, readings in (
        ("composed_caption_accuracy", flawed.pair_captions),
        ("composed_caption_accuracy_unseen", flawed.unseen_pair_captions),
    ):
        np.testing.assert_array_equal(verdicts[name], [1 not in pair for pair in readings.labels])
    for name in ("generation_accuracy", "composed_generation_accuracy", "composed_generation_accuracy_unseen"):
        assert not verdicts[name].any()


def test_one_wrong_half_makes_a_pair_wrong(drawn, classifier, digits):
    images = drawn.unseen_pairs.images.copy()
    images[0, :, SIDE:] = drawn.digits.images[(drawn.unseen_pairs.labels[0][1] + 1) % 10]
    pairs = dataclasses.replace(drawn.unseen_pairs, images=images)
    verdicts = judge(dataclasses.replace(drawn, unseen_pairs=pairs), classifier, digits[1])
    is_right = verdicts["composed_generation_accuracy_unseen"]
    assert not is_right[0] and is_right[1:].all()


def test_there_are_enough_examples_of_the_right_kinds(drawn):
    counts = np.bincount([digit for (digit,) in drawn.digits.labels])
    assert len(drawn.digits.labels) >= 240 and counts.min() >= 24
    seen, unseen = map(set, split_pairs())
    assert set(drawn.pairs.labels) == set(drawn.pair_captions.labels) == seen
    assert set(drawn.unseen_pairs.labels) == set(drawn.unseen_pair_captions.labels) == unseen
    assert len(drawn.captions.labels) == len(drawn.answers.labels) == 297


def test_special_tokens_inside_a_text_stay_visible(tokenizer):
    pieces = ["▁a", "<pad>", "▁handwritten", "▁three", "</s>", "▁three"]
    assert samples._text(pieces, "</s>") == "a<pad> handwritten three"
    assert samples._text(pieces[2:], "</s>") == "handwritten three"


def test_a_text_is_revealed_evaluation_by_evaluation():
    tokens, revealed_in = [["A", "▁three", "</s>", "</s>"]], np.array([[-1, 3, 0, 3]])
    readings = Readings(np.zeros((1, 8, 8), np.uint8), [(3,)], ["three"], tokens, revealed_in)
    states = [[state for _, state in row] for row in readings.reveal(0)]
    assert states == [["given", "masked", "new", "masked"], ["given", "new", "old", "new"]]


def test_a_score_at_its_bound_is_met_and_one_below_is_missed():
    bounds = {name: m.bound for name, m in MEASURES.items()}
    scores = {name: bound or 0.0 for name, bound in bounds.items()}
    assert missed(scores) == []
    for name, bound in bounds.items():
        assert missed(scores | {name: scores[name] - 1e-6}) == ([] if bound is None else [name])


def test_the_bounds():
    assert {name: m.bound for name, m in MEASURES.items() if m.bound is not None} == {
        "caption_exact_match": 0.95,
        "caption_exact_match_ancestral": 0.93,
        "caption_exact_match_remasked": 0.93,
        "answer_accuracy": 0.95,
        "infill_accuracy": 0.95,
        "ranking_accuracy": 0.97,
        "generation_accuracy": 0.97,
        "classifier_accuracy": 0.98,
        "composed_generation_accuracy": 0.97,
        "composed_generation_accuracy_unseen": 0.95,
        "composed_caption_accuracy": 0.93,
        "composed_caption_accuracy_unseen": 0.93,
    }


@pytest.fixture(scope="module")
def reported(flawed, classifier, digits):
    verdicts = judge(flawed, classifier, digits[1])
    metrics = [{"step": s, "image_loss": 2.0 / s, "text_loss": 3.0 / s, "seconds": 0.5 * s} for s in range(1, 9)]
    measured = {"train_seconds": 4.0, "train_steps": 8, "sampling_seconds": 1.0, "total_seconds": None}
    figures = report.summary(verdicts) | measured | {"parameters": 1234567, "seed": 0} | report.surroundings()
    return figures, page(figures, flawed, verdicts, metrics)


def test_the_page_needs_nothing_but_itself(reported):
    _, html = reported
    assert "http://" not in html and "https://" not in html
    assert "<script" not in html and "<link" not in html and "@import" not in html and "url(" not in html
    references = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", html)
    assert references and all(reference.startswith("data:image/png;base64,") for reference in references)


def test_the_page_shows_scores_bounds_and_mistakes(reported):
    figures, html = reported
    for name, measure in MEASURES.items():
        assert measure.title in html
        assert f"<b>{figures[name]:.1%}</b>" in html
    assert html.count("✗ missed") == len(figures["missed"]) > 0
    assert html.count("✓ met") == len(figures["bounds"]) - len(figures["missed"]) > 0
    assert f"{MEASURES['generation_accuracy'].title}: 300 of 300 wrong" in html
    assert html.count("<polyline") == 2
    assert QUESTION in html and "1,234,567" in html


def test_the_table_names_the_missed_bounds(reported):
    figures, _ = reported
    last = report.table(figures).splitlines()[-1]
    assert last == "bounds missed: " + ", ".join(figures["missed"])
    assert "generation_accuracy" in figures["missed"] and "classifier_accuracy" not in figures["missed"]


def test_the_picture_is_as_wide_as_a_readme_and_is_drawn_to_its_end(drawn):
    image = picture(drawn)
    assert image.width == 900 and 500 < image.height < 1500
    assert len(set(np.asarray(image.convert("L"))[-60:].ravel().tolist())) > 1
