"""Scores of captions against references: CIDEr-D, BLEU, ROUGE-L and METEOR.

Source: pycocoevalcap 1.2, the COCO evaluation itself, which is loaded when a metric is made and not before. CIDEr is on
its scale, where a caption that is its reference has 10; papers print it times 100. Its word weights come from the
references of all records, so a caption has no score until all are there.
"""

import importlib
import shutil
from collections.abc import Sequence
from typing import Any

from dualdiff_jax.errors import UserError, quoted, reason
from dualdiff_jax.evaluation.metrics.metric import (
    Metric,
    MetricResult,
    check_records,
    check_text,
    standard_error,
)

Texts = dict[int, list[str]]  # record -> captions


class CaptionScores(Metric):
    """CIDEr-D; ``parts`` has BLEU-1 to BLEU-4, ROUGE-L and, if asked for, METEOR.

    The standard error is that of a mean over captions with the word weights as they are.

    Args:
        tokenized: captions come as lower-case words with single spaces, so that the PTB tokenizer (Java) is not needed.
        meteor: METEOR too (Java).

    Raises:
        UserError: the package or Java is missing.
    """

    def __init__(self, *, tokenized: bool = False, meteor: bool = False):
        self.is_tokenized, self._meteor = tokenized, meteor
        _load("cider.cider")
        if (meteor or not tokenized) and shutil.which("java") is None:
            raise UserError(
                "caption scores need Java for the PTB tokenizer and METEOR; install a Java runtime so that `java` is "
                "on PATH, or give tokenized captions and leave METEOR out"
            )
        self.each: list[float] = []  # CIDEr-D of each record, in their order, once there is a result
        self._predictions: list[str] = []
        self._references: list[list[str]] = []

    def update(self, prediction: str, references: Sequence[str]) -> None:
        """Adds a record, which has no score of its own.

        Args:
            prediction: the generated caption.
            references: at least one.

        Raises:
            UserError: no reference, or a caption that is no text.
        """
        check_text(prediction, "the prediction")
        if isinstance(references, str) or not isinstance(references, Sequence) or not references:
            raise UserError(f"the references are {quoted(references)}; give a list with at least one caption")
        for index, reference in enumerate(references):
            check_text(reference, f"reference {index}")
        self._predictions.append(prediction)
        self._references.append(list(references))

    def result(self) -> MetricResult:
        check_records(len(self._predictions), self)
        references = self._words(dict(enumerate(self._references)))
        predictions = self._words({index: [text] for index, text in enumerate(self._predictions)})
        score, each = _load("cider.cider").Cider().compute_score(references, predictions)
        bleu, _ = _load("bleu.bleu").Bleu(4).compute_score(references, predictions, verbose=0)
        parts = {f"BLEU-{size}": float(value) for size, value in enumerate(bleu, start=1)}
        parts["ROUGE-L"] = float(_load("rouge.rouge").Rouge().compute_score(references, predictions)[0])
        if self._meteor:
            parts["METEOR"] = _meteor_score(references, predictions)
        self.each = [float(value) for value in each]
        return MetricResult(float(score), standard_error(self.each), len(each), parts)

    def _words(self, captions: Texts) -> Texts:
        """Captions as words with single spaces, by the PTB tokenizer unless they came so."""
        lines = {index: [" ".join(text.split()) for text in texts] for index, texts in captions.items()}
        if self.is_tokenized:
            return lines
        tokenizer = _load("tokenizer.ptbtokenizer").PTBTokenizer()
        try:
            words = tokenizer.tokenize({index: [{"caption": text} for text in texts] for index, texts in lines.items()})
        except OSError as error:  # it writes a file beside itself
            raise UserError(
                f"the PTB tokenizer cannot run: {reason(error)}; install pycocoevalcap where it may write"
            ) from None
        if {index: len(texts) for index, texts in words.items()} != {
            index: len(texts) for index, texts in lines.items()
        }:
            raise UserError("the PTB tokenizer did not return every caption; check that `java -version` runs")
        return words


def _meteor_score(references: Texts, predictions: Texts) -> float:
    try:
        return float(_load("meteor.meteor").Meteor().compute_score(references, predictions)[0])
    except (OSError, ValueError) as error:  # Java ended, or printed something else than figures
        raise UserError(
            f"METEOR cannot run: {reason(error)}; check that `java -version` runs and has 2 GB of memory"
        ) from None


def _load(module: str) -> Any:
    try:
        return importlib.import_module(f"pycocoevalcap.{module}")
    except ImportError as error:
        raise UserError(
            f"caption scores need pycocoevalcap ({reason(error)}); install it: pip install pycocoevalcap"
        ) from None
