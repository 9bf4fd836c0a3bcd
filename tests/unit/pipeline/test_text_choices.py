"""The choices of a text sampler, through the pipeline: guidance, the early stop, and the model's defaults."""

import dataclasses
import inspect

import numpy as np
import pytest

from demo.data import write_tokenizer
from dualdiff_jax import DualDiffusionPipeline, UserError
from dualdiff_jax.config.model import SamplingConfig
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.pipeline.text_choices import OF_ALL_CALLS, text_options, text_steps
from dualdiff_jax.pipeline.text_programs import generate_text
from dualdiff_jax.sampling import text_network
from dualdiff_jax.sampling.token_rules import TokenRules
from tests.unit.pipeline.test_pipeline import SIDE, config
from tests.unit.tiny import random_weights

DEFAULT = SamplingConfig(height=4, width=4)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> DualDiffusionPipeline:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    tokenizer = Tokenizer(folder)
    sizes = config(tokenizer.vocab_size)
    weights = random_weights(sizes)
    bias = np.array(weights["mmdit.text_out.bias"])
    bias[tokenizer.end_token_id] += 2.0  # so that texts end
    return DualDiffusionPipeline(sizes, weights | {"mmdit.text_out.bias": bias}, tokenizer)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8))


PROMPT = [5, 6]
CALL = dict(prompts=[np.array(PROMPT)] * 3, length=7, order="confidence", steps=1)


def logits(pipe: DualDiffusionPipeline, images: np.ndarray | None, token_ids: np.ndarray) -> np.ndarray:
    latents = None if images is None else pipe.encode_image(images)
    return np.array(pipe.denoise(latents, np.zeros(len(token_ids)), pipe.encode_text(token_ids)).logits)


@pytest.mark.parametrize("null", ["image", "text"])
def test_guidance_leads_away_from_the_text_without_image_or_without_prompt(pipe, pictures, null):
    mask, scale = pipe.tokenizer.mask_token_id, 40.0
    images = np.stack(pictures).astype(np.float32) / 127.5 - 1
    start = np.array([PROMPT + [mask] * 5] * 3)
    conditional = logits(pipe, images, start)
    away = logits(pipe, None, start) if null == "image" else logits(pipe, images, np.full_like(start, mask))
    expected = away + scale * (conditional - away)
    expected[..., mask] = -np.inf
    found = pipe.generate_text(pictures, **CALL, guidance_scale=scale, guidance_null=null)
    np.testing.assert_array_equal(found.token_ids[:, 2:], expected.argmax(axis=-1)[:, 2:])
    np.testing.assert_array_equal(found.token_ids[:, :2], start[:, :2])
    conditional[..., mask] = -np.inf
    assert (expected.argmax(axis=-1) != conditional.argmax(axis=-1))[:, 2:].any()
    plain = pipe.generate_text(pictures, **CALL, guidance_scale=1.0)
    np.testing.assert_array_equal(plain.token_ids[:, 2:], conditional.argmax(axis=-1)[:, 2:])


@pytest.mark.parametrize("choices", [{}, {"guidance_scale": 3.0}, {"guidance_scale": 3.0, "guidance_null": "text"}])
def test_texts_are_the_same_wherever_scores_are_computed(pipe, pictures, choices, monkeypatch):
    """At the positions that a pass reveals alone, or at all; with blanks, by the rules of their positions."""
    call, found = CALL | {"order": "ancestral", "steps": 7}, {}
    for spare in (1, 100):
        monkeypatch.setattr(text_network, "SPARE", spare)
        generate_text.clear_cache()
        texts = pipe.infill("a _ three _", pictures, order="ancestral", steps=7, tokens_per_blank=2, **choices)
        found[spare] = texts, pipe.generate_text(pictures, **call, **choices).token_ids.tolist()
    generate_text.clear_cache()
    assert found[1] == found[100]


def test_guidance_without_a_prompt_to_leave_out_is_refused(pipe, pictures):
    call = CALL | {"prompts": [np.array([5]), np.array([]), np.array([5])]}
    with pytest.raises(UserError, match="text 1 begins with a mask, so nothing in front of it can be masked"):
        pipe.generate_text(pictures, **call, guidance_scale=2.0, guidance_null="text")
    for call in (
        lambda **o: pipe.infill("_ three", pictures[0], **o),
        lambda **o: pipe.image_to_text(pictures[0], **o),
    ):
        with pytest.raises(UserError, match="text 0 begins with a mask.*; use guidance_null='image'"):
            call(guidance_scale=2.0, guidance_null="text")


def test_the_options_of_all_calls_are_those_that_complete_text_takes():
    taken = inspect.signature(DualDiffusionPipeline._completions).parameters.values()
    named = {each.name for each in taken if each.kind is each.KEYWORD_ONLY}
    assert named == {*OF_ALL_CALLS, "order", "steps"}


@pytest.mark.parametrize("order", ["ancestral", "confidence", "threshold"])
def test_captions_and_answers_are_the_same_with_and_without_the_early_stop(pipe, pictures, order, monkeypatch):
    """Both stop early by default, which saves passes; ``like_original`` returns all tokens, and never does."""
    passes: list[int] = []
    complete = type(pipe).complete_text

    def counted(self, *args, **kwargs):
        sample = complete(self, *args, **kwargs)
        passes.append(int(sample.passes.sum()))
        return sample

    monkeypatch.setattr(type(pipe), "complete_text", counted)
    options = dict(order=order, length=14, seed=4, anchor_end=False) | ({} if order == "threshold" else {"steps": 14})
    options |= {"threshold": 1.0} if order == "threshold" else {}
    questions = ["which digit is this?"] * 3
    for call in (lambda **o: pipe.image_to_text(pictures, **o), lambda **o: pipe.answer(pictures, questions, **o)):
        passes.clear()
        texts = [call(**options, early_stop=choice) for choice in (None, True, False)]
        assert texts[0] == texts[1] == texts[2]
        assert passes[0] == passes[1] <= passes[2]
        assert order != "ancestral" or passes[1] < passes[2]  # the others write the padding at the end first
    passes.clear()
    like = dict(options, like_original=True)
    del like["anchor_end"]
    assert pipe.image_to_text(pictures, **like) == pipe.image_to_text(pictures, **like, early_stop=False)
    assert passes[0] == passes[1]
    with pytest.raises(UserError, match="early_stop would change the texts of this call"):
        pipe.image_to_text(pictures, **like, early_stop=True)


def test_a_mask_that_a_prompt_spells_forbids_the_early_stop(pipe, pictures):
    """The sampler fills it, perhaps with an end that is not part of the answer."""
    question = ["<extra_id_0> which digit?"] * 3
    assert pipe.answer(pictures, question, length=14) == pipe.answer(pictures, question, length=14, early_stop=False)
    with pytest.raises(UserError, match="early_stop would change"):
        pipe.answer(pictures, question, length=14, early_stop=True)


def test_texts_with_blanks_have_no_early_stop(pipe, pictures):
    with pytest.raises(UserError, match="early_stop writes </s>, which blanks and rules may not allow"):
        pipe.infill("a handwritten _", pictures[0], early_stop=True)


def test_captions_and_answers_follow_rules(pipe, pictures):
    """A single early </s> in place of the other tokens would not."""
    vocabulary = pipe.tokenizer.mask_token_id + 1
    kinds = np.zeros(vocabulary, np.uint8)
    kinds[pipe.tokenizer.end_token_id] = 1
    for call, length in ((lambda **o: pipe.image_to_text(pictures, **o), 7), (_answers(pipe, pictures), 14)):
        rules = TokenRules(kinds, np.ones((3, length), np.uint8))
        options = dict(length=length, order="confidence", seed=3, rules=rules)
        assert call(**options) == call(**options, early_stop=False)
        with pytest.raises(UserError, match="early_stop would change the texts of this call .*rules"):
            call(**options, early_stop=True)


def _answers(pipe, pictures):
    return lambda **options: pipe.answer(pictures, ["which digit?"] * 3, **options)


def test_rules_have_to_fit_the_texts_and_leave_a_token(pipe, pictures):
    vocabulary = pipe.tokenizer.mask_token_id + 1
    kinds, none = np.ones(vocabulary, np.uint8), np.zeros((3, 7), np.uint8)
    closed = none.copy()
    closed[1, 4] = 1
    for rules, message in (
        (TokenRules(kinds[:-1], none), rf"rules.kinds is uint8 of \({vocabulary - 1},\); give uint8 of"),
        (TokenRules(kinds, none[:2]), r"rules.ruled_out is uint8 of \(2, 7\); give uint8 of \(3, 7\)"),
        (TokenRules(kinds, none[:1, :1]), r"rules.ruled_out is uint8 of \(1, 1\)"),
        (TokenRules(kinds, none.astype(np.float32)), "rules.ruled_out is float32"),
        (TokenRules(kinds, closed), "rules rule out every token at position 4 of text 1; allow one there"),
    ):
        with pytest.raises(UserError, match=message):
            pipe.image_to_text(pictures, length=7, rules=rules)


def test_a_choice_that_does_not_exist_is_refused_by_name(pipe, pictures):
    with pytest.raises(UserError, match=r"there is no argument 'temprature'; did you mean temperature\?"):
        pipe.image_to_text(pictures, temprature=0.5)


def test_the_models_defaults_hold_where_a_call_names_nothing():
    default = dataclasses.replace(
        DEFAULT, text_order="threshold", text_threshold=0.7, text_entropy_bound=0.3, text_guidance_scale=2.0
    )
    options = text_options(default, None, {"threshold": None})
    assert (options.order, options.threshold, options.guidance_scale, options.steps) == ("threshold", 0.7, 2.0, None)
    assert text_options(default, "entropy_bound", {}).entropy_bound == 0.3
    given = text_options(default, None, {"threshold": 1, "guidance_scale": np.float32(1)})
    assert (given.threshold, given.guidance_scale) == (1.0, None)


def test_steps_are_the_models_only_where_the_order_takes_steps():
    assert text_steps(DEFAULT, None, None, DEFAULT.answer_steps) == DEFAULT.answer_steps
    assert text_steps(DEFAULT, "threshold", None, DEFAULT.answer_steps) is None
    assert text_steps(DEFAULT, "confidence", 5, DEFAULT.answer_steps) == 5
    with pytest.raises(
        UserError, match="steps is for order ancestral, confidence, and order is threshold; leave steps"
    ):
        text_options(DEFAULT, "threshold", {"steps": text_steps(DEFAULT, "threshold", 5, DEFAULT.answer_steps)})
