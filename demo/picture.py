"""One picture of the demo's samples, for a README."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from demo.digits import CAPTIONS, WORDS
from demo.figures import shown
from demo.samples import Drawings, Readings, Samples

WIDTH, MARGIN, GAP = 900, 28, 6
PAPER, INK, FAINT, MASK, NEW = "#fcfcfb", "#1c2024", "#6b7280", "#c5c9d0", "#ffe08a"
TEXT, HEADING = ImageFont.load_default(15), ImageFont.load_default(18)
FRAMES = 12  # of the filmstrip
TALLEST = 2000  # pixels; the empty rest is cut off


def picture(samples: Samples) -> Image.Image:
    """Drawn digits and unseen pairs with their captions, a filmstrip, and a caption as it appears."""
    canvas = Canvas()
    canvas.heading("Digits drawn from captions")
    digits = samples.digits
    for number in range(5):
        for column, digit in enumerate((number, number + 5)):
            caption = CAPTIONS[digit % len(CAPTIONS)].format(WORDS[digit])
            chosen = [i for i, c in enumerate(digits.captions) if c == caption][:4]
            canvas.row(caption, digits.images[chosen], 40, left=MARGIN + column * 430, label=236)
        canvas.down(40 + GAP)
    canvas.heading("Pairs never seen in training")
    for first in (0, 4, 8):
        for column, index in enumerate(range(first, first + 4)):
            canvas.under(samples.unseen_pairs, index, 64, left=MARGIN + column * 215)
        canvas.down(64 + 34)
    canvas.heading("From noise to a pair: the model's estimate of the finished picture, step by step")
    film = samples.unseen_pairs.estimates
    steps = np.linspace(0, len(film) - 1, FRAMES).round().astype(int)
    canvas.row("", film[steps, 1], 32, left=MARGIN, label=0)
    canvas.down(32 + GAP)
    canvas.heading("A held-out digit turned into words: masks become tokens, the most confident first")
    canvas.reveal(samples.captions, 0)
    return canvas.finish()


class Canvas:
    """A sheet that is filled from top to bottom."""

    def __init__(self):
        self._sheet = Image.new("RGB", (WIDTH, TALLEST), PAPER)
        self._draw = ImageDraw.Draw(self._sheet)
        self._y = MARGIN - 14

    def down(self, pixels: int) -> None:
        self._y += pixels

    def heading(self, text: str) -> None:
        self._draw.text((MARGIN, self._y + 14), text, INK, HEADING)
        self._y += 48

    def row(self, caption: str, images: Sequence[np.ndarray], height: int, *, left: int, label: int) -> None:
        """A caption and, ``label`` pixels to its right, images side by side."""
        self._draw.text((left, self._y + height // 2), caption, INK, TEXT, anchor="lm")
        x = left + label
        for image in images:
            x += self._image(image, x, self._y, height) + GAP

    def under(self, drawings: Drawings, index: int, height: int, *, left: int) -> None:
        """An image with its caption under it."""
        self._image(drawings.images[index], left, self._y, height)
        self._draw.text((left, self._y + height + 4), drawings.captions[index], INK, TEXT)

    def reveal(self, readings: Readings, index: int) -> None:
        """An image and, beside it, its text after each evaluation."""
        self._image(readings.images[index], MARGIN, self._y, 96)
        left, step = MARGIN + 120, 22
        widths = [int(self._draw.textlength(shown(token), TEXT)) + 12 for token in readings.tokens[index]]
        bottom = self._y + 96
        for row in readings.reveal(index):
            x = left
            for (token, state), width in zip(row, widths, strict=True):
                self._token(token, state, (x, self._y, x + width, self._y + step - 4))
                x += width + 4
            self._y += step
        self._y = max(self._y, bottom)

    def finish(self) -> Image.Image:
        return self._sheet.crop((0, 0, WIDTH, self._y + MARGIN))

    def _token(self, token: str, state: str, box: tuple[int, int, int, int]) -> None:
        if state == "masked":
            self._draw.rounded_rectangle(box, 3, MASK)
            return
        if state == "new":
            self._draw.rounded_rectangle(box, 3, NEW)
        color = FAINT if token == "</s>" or state == "given" else INK
        self._draw.text(((box[0] + box[2]) // 2, (box[1] + box[3]) // 2), shown(token), color, TEXT, anchor="mm")

    def _image(self, image: np.ndarray, x: int, y: int, height: int) -> int:
        """Pastes an image enlarged without smoothing; returns its width."""
        width = height * image.shape[1] // image.shape[0]
        self._sheet.paste(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST), (x, y))
        return width
