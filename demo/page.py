"""The report as one HTML page: no script, no other files, light and dark."""

from collections.abc import Sequence
from html import escape

import numpy as np

from demo.digits import CAPTIONS, QUESTION, UNSEEN_PAIRS, WORDS
from demo.figures import STYLE, curve, reveal, tile
from demo.samples import GUIDANCE_SCALES, Drawings, Readings, Samples
from demo.scores import MEASURES

SHOWN = 8  # drawings a caption
FRAMES = 10  # of a filmstrip
READINGS = 16  # held-out images with caption and answer
MISTAKES = 8  # at most, of a kind


def page(figures: dict, samples: Samples, verdicts: dict[str, np.ndarray], metrics: Sequence[dict]) -> str:
    """The page.

    Args:
        figures: as in report.json.
        samples: all samples of the run.
        verdicts: as ``scores.judge`` returns them.
        metrics: the records of metrics.jsonl.
    """
    sections = [
        _opening(figures),
        _section("Scores", _scores(figures, verdicts)),
        _section("Digits from words", _digits(samples.digits)),
        _section("Pairs from words", _pairs(samples)),
        _section("From noise to a digit", _films(samples)),
        _section("Guidance", _guidance(samples.guidance)),
        _section("Words from digits", _readings(samples)),
        _section("Token by token", _reveals(samples)),
        _section("Mistakes", _mistakes(samples, verdicts)),
        _section("Training", _curves(metrics)),
        _footer(figures),
    ]
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>One model, both ways</title><style>{STYLE}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _opening(figures: dict) -> str:
    minutes = figures["train_seconds"] / 60
    return (
        "<header><h1>One model, both ways</h1><p>One small transformer of "
        f"{figures['parameters']:,} parameters, trained in {minutes:.1f} minutes, draws handwritten digits from "
        "captions by flow matching and reads digits into captions and answers by masked diffusion "
        "(Dual Diffusion, arXiv 2501.00289). Everything below was sampled with its weights and one seed; nothing "
        "was hand-picked.</p></header>"
    )


def _scores(figures: dict, verdicts: dict[str, np.ndarray]) -> str:
    rows = []
    for name, measure in MEASURES.items():
        is_missed = name in figures["missed"]
        verdict = "" if measure.bound is None else "✗ missed" if is_missed else "✓ met"
        bound = "" if measure.bound is None else f"{measure.bound:.0%}"
        rows.append(
            f"<tr><th scope=row>{measure.title}<small>{measure.meaning}</small></th>"
            f"<td class=number><b>{figures[name]:.1%}</b></td>"
            f"<td class=number>{int(verdicts[name].sum())} of {len(verdicts[name])}</td>"
            f"<td class=number>{bound}</td><td class={'bad' if is_missed else 'good'}>{verdict}</td></tr>"
        )
    head = "<tr><th>Measure</th><th>Score</th><th>Right</th><th>At least</th><th></th></tr>"
    return f"<div class=wide><table class=scores><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"


def _digits(drawings: Drawings) -> str:
    rows = []
    for digit, word in enumerate(WORDS):
        caption = CAPTIONS[digit % len(CAPTIONS)].format(word)
        chosen = [i for i, c in enumerate(drawings.captions) if c == caption][:SHOWN]
        rows.append(_row(caption, [tile(drawings.images[i], 44) for i in chosen]))
    return "<p>Each row shows one caption and its first drawings.</p>" + _grid(rows)


def _pairs(samples: Samples) -> str:
    blocks = []
    for title, drawings, rows in (
        ("Pairs that occur in training, every sixth", samples.pairs, range(0, 6 * UNSEEN_PAIRS, 6)),
        (f"All {UNSEEN_PAIRS} pairs that never occur in training", samples.unseen_pairs, range(UNSEEN_PAIRS)),
    ):
        blocks.append(f"<div><h3>{title}</h3>{_cards(drawings, rows, 48)}</div>")
    return f"<div class=two>{''.join(blocks)}</div>"


def _films(samples: Samples) -> str:
    rows = []
    steps = np.linspace(0, len(samples.digits.estimates) - 1, FRAMES).round().astype(int)
    for drawings, count, height in ((samples.digits, 4, 56), (samples.unseen_pairs, 2, 34)):
        for index in range(count):
            frames = [tile(drawings.estimates[step, index], height) for step in steps]
            rows.append(_row(drawings.captions[index], frames))
    head = "".join(f"<td class=faint>{step + 1}</td>" for step in steps)
    note = (
        f"<p>The model's estimate of the finished picture, at {FRAMES} of the {len(samples.digits.estimates)} "
        "steps from pure noise; the numbers are the steps.</p>"
    )
    return note + _grid([f"<tr><td></td>{head}</tr>", *rows])


def _guidance(guidance: dict[float, Drawings]) -> str:
    rows = [
        _row(f"guidance {scale:g}", [tile(image, 56) for image in guidance[scale].images[:10]])
        for scale in GUIDANCE_SCALES
    ]
    return (
        "<p>The digits zero to nine from the same noise. Guidance 1 is the model without guidance; with more, drawings "
        "follow the caption more closely and vary less.</p>" + _grid(rows)
    )


def _readings(samples: Samples) -> str:
    cards = [
        _card(tile(samples.captions.images[i], 64), samples.captions.texts[i], f"answer: {samples.answers.texts[i]}")
        for i in range(READINGS)
    ]
    note = f"<p>Held-out real digits, with the model's caption and its answer to “{QUESTION}”</p>"
    return note + f"<div class=cards>{''.join(cards)}</div>"


def _reveals(samples: Samples) -> str:
    note = (
        "<p>A text starts as masks, and its tokens appear in any order. Each row is one evaluation of the model, with "
        "newly revealed tokens marked; “end” fills the positions after the text. The first text appears with the most "
        "confident tokens first, the second in random order; then a pair, and two answers, whose questions are "
        "given.</p>"
    )
    shown = [
        (samples.captions, 0),
        (samples.captions_ancestral, 0),
        (samples.unseen_pair_captions, 0),
        (samples.answers, 1),
        (samples.answers, 2),
    ]
    return note + "".join(
        f"<div class=reveal>{tile(readings.images[index], 72)}{reveal(readings, index)}</div>"
        for readings, index in shown
    )


def _mistakes(samples: Samples, verdicts: dict[str, np.ndarray]) -> str:
    kinds: list[tuple[str, Readings | Drawings]] = [
        ("caption_exact_match", samples.captions),
        ("answer_accuracy", samples.answers),
        ("composed_caption_accuracy", samples.pair_captions),
        ("composed_caption_accuracy_unseen", samples.unseen_pair_captions),
        ("generation_accuracy", samples.digits),
        ("composed_generation_accuracy", samples.pairs),
        ("composed_generation_accuracy_unseen", samples.unseen_pairs),
    ]
    blocks = []
    for name, examples in kinds:
        wrong = np.flatnonzero(~verdicts[name])
        shown = wrong[:MISTAKES]
        count = f"{len(wrong)} of {len(verdicts[name])}"
        body = _cards(examples, shown, 50) if len(wrong) else "<p>None.</p>"
        blocks.append(f"<h3>{MEASURES[name].title}: {count} wrong</h3>{body}")
    note = (
        f"<p>The first {MISTAKES} of each kind. Below a real image are the model's words and, in brackets, the digits "
        "that it shows; below a drawing is its caption, which differs from the classifier's reading.</p>"
    )
    return note + "".join(blocks)


def _curves(metrics: Sequence[dict]) -> str:
    curves = [
        curve(metrics, "image_loss", "Image part: squared error of the velocity"),
        curve(metrics, "text_loss", "Text part: bound on the negative log-likelihood, nats a token"),
    ]
    return f"<div class=two>{''.join(curves)}</div>"


def _footer(figures: dict) -> str:
    machine = figures["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    times = f"training {figures['train_seconds']:.0f} s, sampling {figures['sampling_seconds']:.0f} s"
    if figures["total_seconds"] is not None:
        times += f", in total {figures['total_seconds']:.0f} s"
    facts = (
        f"{machine['platform']}, {machine['cpu_count']} CPUs, computed on {machine['device']}",
        versions,
        f"seed {figures['seed']}, {figures['train_steps']} training steps",
        f"{times}; {figures['date']}",
    )
    return f"<footer>{'<br>'.join(escape(fact) for fact in facts)}</footer>"


def _row(caption: str, cells: Sequence[str]) -> str:
    return f"<tr><th scope=row>{escape(caption)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _grid(rows: Sequence[str]) -> str:
    return f"<div class=wide><table class=grid>{''.join(rows)}</table></div>"


def _cards(examples: Drawings | Readings, rows: Sequence[int], height: int) -> str:
    """Images with words below: the caption of a drawing; the text of a reading, and the digits that it shows."""
    cards = []
    for row in rows:
        if isinstance(examples, Drawings):
            lines = (examples.captions[row],)
        else:
            lines = (
                examples.texts[row] or "(nothing)",
                f"[{', '.join(WORDS[label] for label in examples.labels[row])}]",
            )
        cards.append(_card(tile(examples.images[row], height), *lines))
    return f"<div class=cards>{''.join(cards)}</div>"


def _card(image: str, text: str, note: str = "") -> str:
    return f"<figure>{image}<figcaption>{escape(text)}<small>{escape(note)}</small></figcaption></figure>"
