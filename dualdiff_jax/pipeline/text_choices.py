"""From what a call names, and the model's defaults, to the options of its text sampler."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dualdiff_jax.config.model import SamplingConfig
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.pipeline import inputs
from dualdiff_jax.sampling.text_options import FIELDS, OWN_OPTIONS, TextOptions
from dualdiff_jax.sampling.token_rules import TokenRules

OF_ALL_CALLS = ("seed", "height", "width", "fit", "progress", "rules")  # besides the fields of TextOptions


def known(options: Mapping[str, Any], *others: str) -> Mapping[str, Any]:
    """The options of a call that completes texts, as they are.

    Args:
        options: of the caller.
        others: names that this call has besides those of ``complete_text``.

    Raises:
        UserError: there is no such option, or the rules are none.
    """
    inputs.check_names(options, [*others, *OF_ALL_CALLS, *FIELDS])
    if not isinstance(options.get("rules"), TokenRules | None):
        raise UserError(f"rules is {quoted(options['rules'])}; give a TokenRules, or None")
    return options


def text_order(default: SamplingConfig, order: Any) -> str:
    """A name in ``TEXT_SAMPLERS``; None stands for the model's."""
    return inputs.choice("order", default.text_order if order is None else order, OWN_OPTIONS)


def text_steps(default: SamplingConfig, order: Any, steps: Any, of_model: int) -> int | None:
    """The steps of a call.

    Args:
        default: of the model.
        order: a name in ``TEXT_SAMPLERS``, or None for the model's.
        steps: of the caller; None stands for ``of_model``, where the order takes steps.
        of_model: the field of ``default`` for this kind of text.
    """
    if steps is None and "steps" not in OWN_OPTIONS[text_order(default, order)]:
        return None
    return inputs.setting("steps", steps, "caption_steps", of_model)


def text_options(default: SamplingConfig, order: Any, choices: Mapping[str, Any]) -> TextOptions:
    """The options of a call's text sampler.

    Args:
        default: of the model, for what is None.
        order: a name in ``TEXT_SAMPLERS``, or None.
        choices: the other fields of ``TextOptions``, by name.

    Raises:
        UserError: there is no such choice, a value is out of range, or two choices do not go together.
    """
    inputs.check_names(choices, FIELDS)
    order = text_order(default, order)
    given = {name: inputs.text_option(name, value) for name, value in choices.items() if value is not None}
    defaults: dict[str, Any] = {"threshold": default.text_threshold, "entropy_bound": default.text_entropy_bound}
    given = {name: value for name, value in defaults.items() if name in OWN_OPTIONS[order]} | given
    scale = given.pop("guidance_scale", default.text_guidance_scale)
    return TextOptions(order=order, guidance_scale=scale if scale > inputs.NO_GUIDANCE else None, **given)


def stops_early(
    value: bool | None,
    prompts: Sequence[np.ndarray],
    mask_token_id: int,
    options: Mapping[str, Any],
    *,
    like_original: bool = False,
) -> bool:
    """Whether a call that returns decoded texts stops early: wherever that changes none of them, unless it may not.

    Args:
        value: of the caller's ``early_stop``; None for yes where the texts stay the same.
        prompts: token ids in front of each text; a mask among them is sampled, and not decoded.
        mask_token_id: the absorbing state.
        options: of the caller, such as ``remask`` and ``rules``.
        like_original: whether all tokens are decoded, those behind an end too.

    Raises:
        UserError: the caller asks for what would change a text.
    """
    is_changed = like_original or any(options.get(name) is not None for name in ("remask", "rules"))
    is_exact = not is_changed and not any(mask_token_id in prompt for prompt in prompts)
    if inputs.yes_or_no("early_stop", value, is_exact) and not is_exact:
        raise UserError(
            "early_stop would change the texts of this call (like_original, remask, rules or a mask in a prompt); "
            "leave it out"
        )
    return is_exact and value is not False


def check_texts(options: TextOptions, token_ids: np.ndarray, mask_token_id: int, rules: TokenRules | None) -> None:
    """Raises ``UserError`` where options or rules do not go with the texts (n, l).

    Guidance leads away from a prompt, and a text has none in front; an early stop would write ``</s>`` where rules
    may not allow it; or rules are of other texts, or leave no token for a mask.
    """
    if rules is not None:
        if options.early_stop:
            raise UserError("early_stop writes </s>, which blanks and rules may not allow; leave early_stop out")
        _check_rules(rules, token_ids, mask_token_id)
    if options.guidance_null != "text":
        return
    for index in np.flatnonzero(token_ids[:, 0] == mask_token_id):
        raise UserError(
            f"guidance_null is 'text', but text {index} begins with a mask, so nothing in front of it can be masked; "
            "use guidance_null='image'"
        )


def _check_rules(rules: TokenRules, token_ids: np.ndarray, mask_token_id: int) -> None:
    """Raises ``UserError`` unless rules fit the texts and leave a token for every mask, the vocabulary's last token."""
    kinds, ruled_out = np.asarray(rules.kinds), np.asarray(rules.ruled_out)
    for name, array, shape in (("kinds", kinds, (mask_token_id + 1,)), ("ruled_out", ruled_out, token_ids.shape)):
        if array.dtype != np.uint8 or array.shape != shape:
            raise UserError(f"rules.{name} is {array.dtype} of {array.shape}; give uint8 of {shape}")
    is_closed = ((ruled_out[..., None] & np.unique(kinds[:mask_token_id])) != 0).all(axis=-1)
    for row, place in np.argwhere(is_closed & (token_ids == mask_token_id)):
        raise UserError(f"rules rule out every token at position {place} of text {row}; allow one there")
