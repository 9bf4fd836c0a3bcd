"""GenEval's score from its scorer's lines, as its own summary has it."""

import json
import math

import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.generation.geneval_results import geneval_figures

# Tag of each prompt, and which of its two images are correct.
PROMPTS = [("colors", (1, 0)), ("colors", (1, 1)), ("counting", (0, 0)), ("counting", (0, 1)), ("counting", (0, 0))]
NAMES = [f"{prompt:05d}/samples/{image:04d}.png" for prompt in range(len(PROMPTS)) for image in range(2)]


def rows():
    return [
        {"filename": f"/elsewhere/{name}", "tag": tag, "prompt": "", "correct": bool(correct), "reason": ""}
        for name, (tag, correct) in zip(NAMES, [(tag, c) for tag, found in PROMPTS for c in found], strict=True)
    ]


def figures(tmp_path, found, names=NAMES):
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return geneval_figures(tmp_path / "results.jsonl", names)


def test_the_score_is_the_mean_of_the_tags(tmp_path):
    found = figures(tmp_path, rows()[::-1])
    assert found["parts"] == {"counting": pytest.approx(1 / 6), "colors": pytest.approx(3 / 4)}
    assert found["score"] == pytest.approx((1 / 6 + 3 / 4) / 2)
    assert found["count"] == 10
    # Prompts of colors: 0.5, 1; of counting: 0, 0.5, 0.
    colors, counting = math.sqrt(0.125 / 2), math.sqrt((2 / 36 + 1 / 9) / 2 / 3)
    assert found["standard_error"] == pytest.approx(math.hypot(colors, counting) / 2)


@pytest.mark.parametrize(
    "change, fault",
    [
        (lambda found: found[:-1], "lacks 1 of 10 images, such as 00004/samples/0001.png"),
        (lambda found: [*found, found[0]], "00000/samples/0000.png is scored twice"),
        (lambda found: [*found, found[0] | {"filename": "a/00009/samples/0000.png"}], "1 images that were not drawn"),
        (lambda found: [found[0] | {"filename": "0000.png"}], "found the filename '0000.png', expected"),
        (lambda found: [found[0] | {"correct": 1}], "line 1: correct: found 1, expected true or false"),
        (lambda found: [{"filename": found[0]["filename"], "correct": True}], "line 1: lacks 'tag'"),
        (lambda found: [], "is empty"),
    ],
)
def test_results_of_other_images_are_refused(tmp_path, change, fault):
    with pytest.raises(UserError) as raised:
        figures(tmp_path, change(rows()))
    assert fault in str(raised.value)


def test_blank_lines_and_unicode_line_breaks_end_no_row(tmp_path):
    lines = [json.dumps(row | {"prompt": "a\u0085b\u2028c"}, ensure_ascii=False) for row in rows()]
    (tmp_path / "results.jsonl").write_bytes("\n\n".join([*lines, ""]).encode())
    assert geneval_figures(tmp_path / "results.jsonl", NAMES) == figures(tmp_path, rows())
