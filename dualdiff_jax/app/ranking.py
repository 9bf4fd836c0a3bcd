"""Rank: which of several texts fits a picture."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from dualdiff_jax.app import given
from dualdiff_jax.app.calls import Call
from dualdiff_jax.app.markup import element, escaped, table
from dualdiff_jax.app.results import Result, finished, source
from dualdiff_jax.app.studio import Studio
from dualdiff_jax.app.uploads import PICTURE


def rank(
    studio: Studio, picture: Any, texts: Any, question: Any, per_token: Any, samples: Any, seed: Any
) -> Iterator[Result]:
    """Ranks the lines of ``texts``, which answer ``question`` where there is one. Arguments are what the fields hold.

    Args:
        studio: the loaded model.
        picture: the file.
        texts: one on each line.
        question: may be empty.
        per_token: whether scores are divided by the numbers of tokens.
        samples: evaluations for each score; empty for the default.
        seed: of all draws.

    Yields:
        The table and the files.

    Raises:
        UserError: a field holds what cannot be used.
    """
    file, candidates = given.picture(picture), given.lines("texts", texts)
    question = given.text("question", question, may_be_empty=True).strip()
    studio.pipe.tokenizer.check_words(question, *candidates)
    options = {
        "questions": [question] if question else None,
        "per_token": True if per_token else None,
        "samples": given.whole("samples", samples),
        "seed": given.seed(seed),
    }
    call = Call("score", {"images": [PICTURE], "texts": candidates, **options})
    scores = studio.pipe.score(**call.reading(images=[file]))
    order = np.argsort(scores.nats[0], kind="stable")
    rows = [
        [
            escaped(candidates[index]),
            f"{scores.nats[0, index]:.2f} ± {scores.standard_error[0, index]:.2f}",
            _bar(float(scores.behind[0, index])) + f"+{scores.behind[0, index]:.2f}",
        ]
        for index in order
    ]
    shown = table(["text", "nats, less is better", "behind the best"], rows)
    best = element("p", candidates[order[0]], "best")
    yield finished(studio, call, html=best + shown, text=candidates[order[0]], sources=source(file))


def _bar(behind: float) -> str:
    """A bar as long as the likelihood ratio to the best text."""
    return f'<span class=bar style="width: {80 * np.exp(-max(behind, 0.0)):.1f}px"></span>'
