"""The surveys of all sources as one HTML page, without scripts or further files, for light and dark displays."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from dualdiff_jax.data.images import open_image
from dualdiff_jax.data.records.record import DataError
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.inspection.survey import Shown, Survey, shape_name, summary

TILE = 192  # pixels of the longer side of a picture
BARS = 16  # of a histogram

STYLE = """
:root { color-scheme: light dark; --faint: #8886; --mark: #2a7a; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { margin-top: 3rem; border-bottom: 1px solid var(--faint); }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
.bars { display: inline-flex; align-items: end; height: 3.5rem; gap: 1px; margin-right: 2rem; }
.bars i { width: .7rem; background: currentColor; opacity: .5; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(26rem, 1fr)); gap: 1rem; }
figure { margin: 0; padding: .6rem; border: 1px solid var(--faint); border-radius: .4rem; overflow-wrap: anywhere; }
figure img { margin-right: .5rem; vertical-align: top; } small { opacity: .7; display: block; }
.tokens span { border: 1px solid var(--faint); border-radius: .2rem; padding: 0 .15rem; margin: .05rem;
  display: inline-block; }
.tokens .answer { background: var(--mark); } .tokens .end { opacity: .4; } .bad { color: #c33; }
"""


def page(surveys: Sequence[Survey], tokenizer: Tokenizer) -> str:
    """The page as HTML.

    Args:
        surveys: one for each source.
        tokenizer: gives the strings of tokens.
    """
    sections = "".join(_section(found, tokenizer) for found in surveys)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>What the model will see</title><style>{STYLE}</style></head>\n<body><h1>What the model will see</h1>"
        "<p>Left: the image of the record. Right: the image after resizing and cropping, or the latents of encoded "
        "data, in false colours. Coloured tokens are answer: the text loss may mask them, and the padding after "
        "them.</p>"
        f"{sections}</body></html>\n"
    )


def _section(found: Survey, tokenizer: Tokenizer) -> str:
    rows = "".join(f"<tr><th>{escape(what)}</th><td>{escape(much)}</td></tr>" for what, much in summary(found)[1:])
    messages = "".join(f"<li class=bad>{escape(message)}</li>" for message in found.messages)
    bars = [
        _bars("width / height, from 1/4 to 4", [np.log2(w / h) for h, w in found.sizes], -2.0, 2.0),
        _bars("caption length", found.caption_lengths, 0, max(found.caption_lengths, default=0)),
        _bars("tokens", found.tokens, 0, max(found.tokens, default=0)),
    ]
    cards = "".join(_card(shown, tokenizer) for shown in found.shown)
    title = escape(summary(found)[0][1])
    return (
        f"<section><h2>{title}</h2><table>{rows}</table><ul>{messages}</ul><div>{''.join(bars)}</div>"
        f"<div class=cards>{cards}</div></section>"
    )


def _bars(title: str, values: Sequence[float], low: float, high: float) -> str:
    """A histogram."""
    if not values or high <= low:
        return ""
    counts, _ = np.histogram(np.clip(values, low, high), BARS, (low, high))
    bars = "".join(f'<i style="height:{100 * count / counts.max():.0f}%" title="{count}"></i>' for count in counts)
    return f"<figure style='display:inline-block'><div class=bars>{bars}</div><small>{escape(title)}</small></figure>"


def _card(shown: Shown, tokenizer: Tokenizer) -> str:
    record, example = shown.record, shown.example
    pictures = []
    if record.image is not None:
        pictures.append(_whole(record.image, record.record_id))
    if "image" in example:
        pictures.append(_picture(Image.fromarray(example["image"])))
    if "latent_mean" in example:
        pictures.append(_picture(_false_colours(example["latent_mean"])))
    captions = "".join(
        f"<small>{escape(name)}: {escape(' | '.join(texts))}</small>" for name, texts in record.captions.items()
    )
    turns = "".join(f"<small>{escape(turn.question)} → {escape(turn.answer)}</small>" for turn in record.turns)
    cut = f"<small class=bad>{shown.cut} tokens did not fit</small>" if shown.cut else ""
    size = f"{shown.size[0]} x {shown.size[1]} → " if shown.size else ""
    return (
        f"<figure>{''.join(pictures)}<figcaption><small>{escape(record.record_id)}, {size}{shape_name(shown.shape)}"
        f"</small>{captions}{turns}{cut}<div class=tokens>{_tokens(shown, tokenizer)}</div></figcaption></figure>"
    )


def _tokens(shown: Shown, tokenizer: Tokenizer) -> str:
    """The tokens with one of the padding, and how many more there are."""
    token_ids, is_answer = shown.example["token_ids"], shown.example["is_answer"]
    padding = int((token_ids[::-1] != tokenizer.end_token_id).argmax()) if token_ids.any() else 0
    shown_ids = token_ids[: len(token_ids) - max(padding - 1, 0)]
    spans = []
    for piece, token, is_learnt in zip(tokenizer.pieces(shown_ids), shown_ids, is_answer, strict=False):
        kind = ("answer " if is_learnt else "") + ("end" if token == tokenizer.end_token_id else "")
        spans.append(f'<span class="{kind}">{escape(piece)}</span>')
    return "".join(spans) + (f" <small>and {padding - 1} more of the last</small>" if padding > 1 else "")


def _whole(source: bytes | Path, record_id: str) -> str:
    """The image of a record before cropping, scaled down."""
    try:
        image = open_image(source, record_id)
    except DataError as error:
        return f"<small class=bad>{escape(str(error))}</small>"
    image.thumbnail((TILE, TILE))
    return _picture(image)


def _false_colours(latents: np.ndarray) -> Image.Image:
    """(h, w, c) -> the three strongest principal components as red, green and blue, each over its full range."""
    values = latents.reshape(-1, latents.shape[-1]).astype(np.float32)
    values -= values.mean(axis=0)
    _, directions = np.linalg.eigh(values.T @ values)  # ascending
    colours = values @ directions[:, :-4:-1]
    colours -= colours.min(axis=0)
    colours *= 255.0 / np.maximum(colours.max(axis=0), 1e-6)
    if colours.shape[1] < 3:
        colours = np.repeat(colours[:, :1], 3, axis=1)
    return Image.fromarray(colours.astype(np.uint8).reshape(*latents.shape[:2], 3))


def _picture(image: Image.Image) -> str:
    """An img element: scaled down to the tile's size, or up by a whole factor with sharp pixels."""
    scale = TILE / max(image.size)
    if scale < 1:
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    elif scale >= 2:
        image = image.resize((image.width * int(scale), image.height * int(scale)), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    image.save(stream, "JPEG" if scale < 2 else "PNG", quality=88)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    kind = "jpeg" if scale < 2 else "png"
    return f'<img alt="" width="{image.width}" height="{image.height}" src="data:image/{kind};base64,{data}">'
