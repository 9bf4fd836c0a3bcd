"""``report.html``: the scores of a folder beside the paper's, and answers to look at, in one file without scripts.

A section belongs to one task and stands between two comments, so that an evaluation of another task in the same folder
keeps it.
"""

import base64
import io
import random
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from dualdiff_jax.data.benchmarks.question import Question
from dualdiff_jax.data.images import open_image
from dualdiff_jax.data.records.record import DataError
from dualdiff_jax.data.records.unicode import mend_text
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.evaluation.predictions import Prediction
from dualdiff_jax.evaluation.record import Record
from dualdiff_jax.evaluation.runner import OpenedTask
from dualdiff_jax.files import write_text
from dualdiff_jax.inspection.page import STYLE

FILE = "report.html"
SHOWN = 12  # answers of each kind
TILE = 224  # pixels of the longer side of a picture
SECTION = re.compile(r"<!-- task (\w+) -->.*?<!-- end \1 -->", re.DOTALL)
LONGEST = 600  # characters of a text


def write_report(folder: Path, record: Record, opened: OpenedTask) -> None:
    """Writes the report, or puts the section of one task into it.

    Args:
        folder: of the evaluation.
        record: of the task.
        opened: its questions and scored predictions.

    Raises:
        UserError: the file cannot be written.
    """
    file = folder / FILE
    try:
        before = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        sections = {found[1]: found[0] for found in SECTION.finditer(before)}
        sections[record["task"]] = _section(record, opened)
        write_text(file, mend_text(_page(list(sections.values()))))
    except OSError as error:
        raise UserError(
            f"{file}: cannot be written ({reason(error)}); make room, or choose another --output"
        ) from error


def _page(sections: Sequence[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation</title><style>{STYLE}</style></head>\n<body><h1>Evaluation</h1>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def _section(record: Record, opened: OpenedTask) -> str:
    name = record["task"]
    cards = ""
    for title, chosen in _chosen(opened.scorer.predictions):
        shown = "".join(_card(prediction, question) for prediction, question in _with_questions(chosen, opened))
        cards += f"<h3>{title}</h3><div class=cards>{shown}</div>"
    return (
        f"<!-- task {name} --><section><h2>{escape(record['title'])}, {escape(record['split'])}</h2>"
        f"{_scores(record)}{_types(record)}{_settings(record)}{cards}</section><!-- end {name} -->"
    )


def _scores(record: Record) -> str:
    unit = record["unit"]
    rows = [("this model", _figure(record["score"], record["standard_error"]), record["model"]["path"])]
    rows += [(each["what"], f"{each['score']:.1f}", each["source"]) for each in record["reported"]]
    parts = [(name, f"{value:.2f}", "") for name, value in record["parts"].items()]
    state = "" if record["score"] is not None else f"<p class=bad>{escape(record['state'])}</p>"
    asked = record["questions"]
    count = f"<p>{asked['asked']} of {asked['in_split']} questions; {record['too_long']} were too long to be asked</p>"
    return state + count + _table(("", unit, ""), rows) + (_table(("part", unit, ""), parts) if parts else "")


def _types(record: Record) -> str:
    tables = []
    for kind, names in record.get("by_type", {}).items():
        rows = [
            (name, _figure(100 * found["score"], _percent(found["standard_error"])), str(found["count"]))
            for name, found in names.items()
        ]
        tables.append(_table((kind, "mean of the answers' own scores, %", "questions"), rows))
    return "".join(tables)


def _percent(error: float | None) -> float | None:
    return None if error is None else 100 * error


def _settings(record: Record) -> str:
    rows = [(name, str(value), "") for name, value in record["settings"].items()]
    rows += [("model", record["model"]["fingerprint"], record["model"]["path"])]
    rows += [(name, value, "") for name, value in record["versions"].items()]
    rows += [("devices", record["devices"], ""), ("command", " ".join(record["command"]), "")]
    return f"<details><summary>settings</summary>{_table(('', '', ''), rows)}</details>"


def _figure(value: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + ("" if error is None else f" ± {error:.2f}")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _chosen(predictions: Sequence[Prediction]) -> list[tuple[str, Sequence[Prediction]]]:
    """The worst answers, of equal ones some at random, and answers at random; the same ones each time."""
    mixed = random.Random(0).sample(list(predictions), len(predictions))
    scored = [each for each in mixed if each["score"] is not None]
    worst = sorted(scored, key=lambda each: each["score"])[:SHOWN]
    return [(title, chosen) for title, chosen in (("Worst", worst), ("Random", mixed[:SHOWN])) if chosen]


def _with_questions(chosen: Sequence[Prediction], opened: OpenedTask) -> list[tuple[Prediction, Question]]:
    places = dict(zip(opened.chosen.ids, opened.chosen.indexes, strict=True))
    return [(each, opened.questions[places[each["id"]]]) for each in chosen]


def _card(prediction: Prediction, question: Question) -> str:
    score = "" if prediction["score"] is None else f", {prediction['score']:.3g}"
    truths = " | ".join(dict.fromkeys(prediction["truth"]))
    lines = [prediction["question"], f"→ {prediction['answer']}"]
    if prediction["normalised"] != prediction["answer"]:
        lines.append(f"compared as {prediction['normalised']}")
    lines += [f"truth: {truths}"] if truths else []
    lines += [prediction["fault"]] if "fault" in prediction else []
    texts = "".join(f"<div>{escape(line[:LONGEST])}</div>" for line in lines if line)
    return (
        f"<figure>{_picture(question.image, question.question_id)}<figcaption><small>{escape(question.question_id)}"
        f"{score}</small>{texts}</figcaption></figure>"
    )


def _picture(source: Any, name: str) -> str:
    try:
        image = open_image(source, f"the image of question {name}")
    except (DataError, UserError, OSError) as error:
        return f"<small class=bad>{escape(str(error))}</small>"
    image.thumbnail((TILE, TILE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<img alt="" width="{image.width}" height="{image.height}" src="data:image/jpeg;base64,{data}">'
