"""The choices of a text sampler are checked where they are made."""

import pytest

from dualdiff_jax.config.fields import MOST_TOKENS
from dualdiff_jax.errors import UserError
from dualdiff_jax.sampling.text_options import FIELDS, OWN_OPTIONS, TextOptions
from dualdiff_jax.sampling.text_samplers import TEXT_SAMPLERS

NEEDED = {
    "ancestral": {"steps": 3},
    "confidence": {"steps": 3},
    "threshold": {"threshold": 0.9},
    "entropy_bound": {"entropy_bound": 0.1},
}


def test_every_order_has_a_sampler_and_its_own_options():
    assert set(OWN_OPTIONS) == set(TEXT_SAMPLERS) == set(NEEDED)
    assert set().union(*OWN_OPTIONS.values()) <= set(FIELDS)


@pytest.mark.parametrize("order", NEEDED)
def test_options_are_values(order):
    one, same = (TextOptions(order=order, **NEEDED[order]) for _ in range(2))
    assert one == same and hash(one) == hash(same)
    assert one != TextOptions(order=order, **NEEDED[order], temperature=0.5)


@pytest.mark.parametrize("order", NEEDED)
@pytest.mark.parametrize("name", sorted(set().union(*OWN_OPTIONS.values())))
def test_an_option_that_an_order_does_not_know_is_named_with_those_that_do(order, name):
    value = {"steps": 3, "certainty": "margin"}.get(name, 0.5)
    if name in OWN_OPTIONS[order]:
        TextOptions(**({"order": order} | NEEDED[order] | {name: value}))
        return
    with pytest.raises(UserError) as error:
        TextOptions(order=order, **NEEDED[order], **{name: value})
    owners = ", ".join(one for one, own in OWN_OPTIONS.items() if name in own)
    assert str(error.value) == f"{name} is for order {owners}, and order is {order}; leave {name} out"


@pytest.mark.parametrize(
    "choices, message",
    [
        ({"order": "left"}, "order is 'left'; give one of ancestral, confidence, threshold, entropy_bound"),
        ({"steps": None}, "steps is None; give a number, which order ancestral needs"),
        ({"steps": 0}, "steps: 0 is below 1"),
        ({"steps": True}, "steps: expected int, found True"),
        ({"order": "confidence", "certainty": "luck"}, "certainty: 'luck' is none of"),
        ({"order": "threshold", "steps": None, "threshold": 1.5}, "threshold: 1.5 is above 1.0"),
        ({"temperature": float("nan")}, "temperature: is not a number"),
        ({"top_p": 0.0}, "top_p: 0.0 is below"),
        ({"repetition_penalty": 0.5}, "repetition_penalty: 0.5 is below 1.0"),
        ({"block_length": 0}, "block_length: 0 is below 1"),
        ({"block_length": MOST_TOKENS + 1}, f"block_length: {MOST_TOKENS + 1} is above {MOST_TOKENS}"),
        ({"remask": 2.0}, "remask: 2.0 is above 1.0"),
        (
            {"temperature": 0.0, "top_p": 0.5},
            "top_p is for draws, but tokens are arg-maxima; give a temperature above 0",
        ),
        ({"order": "confidence", "top_p": 0.5}, "top_p is for draws"),
        ({"guidance_null": "text"}, "guidance_null is given without a guidance_scale above 1"),
        ({"guidance_scale": 2.0, "guidance_null": "sound"}, "guidance_null: 'sound' is none of 'image', 'text'"),
        ({"remask": 0.1, "early_stop": True}, "early_stop is given beside remask"),
        ({"early_stop": 1}, "early_stop: expected bool, found 1"),
    ],
)
def test_a_wrong_choice_is_one_sentence_that_names_it(choices, message):
    with pytest.raises(UserError) as error:
        TextOptions(**({"order": "ancestral", "steps": 3} | choices))
    assert message in str(error.value) and "\n" not in str(error.value)
