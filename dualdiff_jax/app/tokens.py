"""A text whose tokens have colours: the hue says when a token was revealed, the strength how probable it was then."""

from typing import NamedTuple

import numpy as np

from dualdiff_jax.app.markup import element
from dualdiff_jax.data.tokenizer import SPACE, Tokenizer

EARLY, LATE = 215, 25  # hues in degrees: blue, orange
FAINT, STRONG = 0.10, 0.75  # opacity at probability 0 and 1


class Reveal(NamedTuple):
    """A text while it is read."""

    token_ids: np.ndarray  # (l,), masks where nothing is revealed
    revealed_in: np.ndarray  # (l,), the pass that revealed each
    probability: np.ndarray  # (l,), of the token when it was revealed
    passes: int  # so far
    is_finished: bool


def as_html(tokenizer: Tokenizer, reveal: Reveal) -> str:
    """The tokens up to the first ``</s>``, and a line that says how to read the colours.

    Special tokens are shown smaller: the text that they come from leaves them out.

    Args:
        tokenizer: of the model.
        reveal: the text while it is read.

    Returns:
        HTML.
    """
    ids = reveal.token_ids.tolist()
    end = ids.index(tokenizer.end_token_id) if tokenizer.end_token_id in ids else len(ids)
    last = max(reveal.passes - 1, 1)
    found = []
    for place, piece in enumerate(tokenizer.pieces(ids[: end + 1])):
        if ids[place] == tokenizer.mask_token_id:
            found.append(element("span", "·", "token hidden"))
            continue
        when, probability = int(reveal.revealed_in[place]), float(reveal.probability[place])
        text = "end" if place == end else piece.replace(SPACE, " ")
        found.append(
            element(
                "span",
                text,
                "token special" if ids[place] in tokenizer.special_token_ids else "token",
                style=colour(when / last, probability),
                title=f"pass {when + 1}, probability {probability:.2f}",
            )
        )
    pace = f"{reveal.passes} passes" + ("" if reveal.is_finished else " so far")
    key = (
        f"<p class=key>{element('span', 'early', 'token', style=colour(0.0, 1.0))} "
        f"{element('span', 'late', 'token', style=colour(1.0, 1.0))} "
        f"{element('span', 'unsure', 'token', style=colour(0.5, 0.1))} "
        f"{element('span', 'sure', 'token', style=colour(0.5, 1.0))} {element('span', pace)}</p>"
    )
    return f'<p class="tokens" aria-live="polite">{"".join(found)}</p>{key}'


def colour(when: float, probability: float) -> str:
    """The style of a token: ``when`` and ``probability`` are in [0, 1]."""
    hue = EARLY + (LATE - EARLY) * min(max(when, 0.0), 1.0)
    opacity = FAINT + (STRONG - FAINT) * min(max(probability, 0.0), 1.0)
    return f"background: hsl({hue:.0f} 85% 55% / {opacity:.2f})"
