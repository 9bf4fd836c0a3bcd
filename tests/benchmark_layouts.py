"""A few questions in the official layout of each benchmark that the tasks evaluate, on images of a few pixels."""

import base64
import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

QUESTIONS = 5  # of each benchmark, on three images
COLOURS = ("red", "blue", "green", "white", "black")


def picture(seed: int) -> bytes:
    """A JPEG of 12 x 10 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 12, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def _image(root: Path, name: str, seed: int) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(picture(seed))


def _json(root: Path, name: str, content: object) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content))


def _ten(word: str) -> list[dict]:
    return [{"answer": word if index else "other", "answer_id": index + 1} for index in range(10)]


def _vqa(prefix: str) -> Callable[[Path], None]:
    def write(root: Path, split: str = "val", questions: int = QUESTIONS) -> None:
        folder = "test2015" if split.startswith("test") else f"{split}2014"
        asked = [
            {"image_id": n % 3, "question": f"what colour is digit {n}?", "question_id": 10 * n}
            for n in range(questions)
        ]
        for number in range(3):
            _image(root, f"{folder}/COCO_{folder}_{number:012d}.jpg", number)
        year = "2015" if split.startswith("test") else "2014"
        _json(root, f"{prefix}OpenEnded_mscoco_{split}{year}_questions.json", {"questions": asked})
        if year == "2014":
            found = [
                {
                    "question_id": each["question_id"],
                    "multiple_choice_answer": COLOURS[n % 5],
                    "answers": _ten(COLOURS[n % 5]),
                    "answer_type": ("yes/no", "other")[n % 2],
                    "question_type": "what",
                }
                for n, each in reversed(list(enumerate(asked)))
            ]
            _json(root, f"{prefix}mscoco_{split}2014_annotations.json", {"annotations": found})

    return write


def write_textvqa(root: Path) -> None:
    data = [
        {"question_id": n, "image_id": f"a{n % 3}", "question": "what is written?", "answers": ["stop"] * 9 + ["s"]}
        for n in range(QUESTIONS)
    ]
    _json(root, "TextVQA_0.5.1_val.json", {"data": data})
    for number in range(3):
        _image(root, f"train_images/a{number}.jpg", number)


def write_vizwiz(root: Path) -> None:
    rows = [
        {
            "image": f"VizWiz_val_{n:08d}.jpg",
            "question": "what is this?",
            "answers": _ten("unanswerable"),
            "answer_type": "unanswerable",
        }
        for n in range(QUESTIONS)
    ]
    _json(root, "Annotations/val.json", rows)
    for row in rows:
        _image(root, f"val/{row['image']}", int(row["image"][-6]))


def write_gqa(root: Path) -> None:
    found = {
        f"0{n}": {"imageId": f"n{n % 3}", "question": "is it red?", "answer": "yes", "types": {"structural": "verify"}}
        for n in range(QUESTIONS)
    }
    _json(root, "testdev_balanced_questions.json", found)
    for number in range(3):
        _image(root, f"images/n{number}.jpg", number)


def write_pope(root: Path) -> None:
    for split in ("random", "popular", "adversarial"):
        lines = [
            {"question_id": n, "image": f"COCO_val2014_{n % 2:012d}.jpg", "text": "Is there a car in the image?"}
            | {"label": ("yes", "no")[n % 2]}
            for n in range(4)
        ]
        (root / f"coco_pope_{split}.json").write_text("\n".join(map(json.dumps, lines)))
    for number in range(2):
        _image(root, f"val2014/COCO_val2014_{number:012d}.jpg", number)


PERCEPTION = ["existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"]
COGNITION = ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]
IN_FOLDERS = ("artwork", "celebrity", "landmark", "posters", "scene")


def write_mme(root: Path) -> None:
    for number, category in enumerate((*PERCEPTION, *COGNITION)):
        asked, shown = (f"{category}/questions_answers_YN", f"{category}/images")
        asked, shown = (asked, shown) if category in IN_FOLDERS else (category, category)
        _image(root, f"{shown}/0001.{'png' if category == 'OCR' else 'jpg'}", number)
        (root / asked).mkdir(parents=True, exist_ok=True)
        lines = [f"Is it {word}? Please answer yes or no.\t{answer}" for word, answer in (("a", "Yes"), ("b", "No"))]
        (root / asked / "0001.txt").write_text("\n".join(lines) + "\n")


def write_coco_captions(root: Path) -> None:
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "height": 10, "width": 12} for n in range(QUESTIONS)]
    captions = [
        {"image_id": image["id"], "id": 10 * image["id"] + n, "caption": f"A photo of digit {COLOURS[n]}."}
        for image in images
        for n in range(5)
    ]
    _json(root, "annotations/captions_val2017.json", {"images": images, "annotations": captions})
    for image in images:
        _image(root, f"val2017/{image['file_name']}", image["id"])


def write_karpathy(root: Path) -> None:
    images = [
        {"cocoid": n, "filepath": "val2014", "filename": f"COCO_val2014_{n:012d}.jpg", "split": ("test", "val")[n % 2]}
        | {"sentences": [{"raw": "A red digit."}, {"raw": "One."}]}
        for n in range(4)
    ]
    _json(root, "dataset_coco.json", {"images": images})
    for image in images:
        _image(root, f"val2014/{image['filename']}", image["cocoid"])


def write_mmmu(root: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    for subject in ("Art", "Basic_Medical_Science"):
        rows = [
            {
                "id": f"validation_{subject}_{n}",
                "question": "What is in <image 2>?" if n else "How many are in <image 1>?",
                "options": "['one', 'two', 'three']" if n else "[]",
                "answer": "B" if n else "['3', 'three']",
                "question_type": "multiple-choice" if n else "open",
                "image_1": {"bytes": picture(n), "path": "1.png"},
                "image_2": {"bytes": picture(n + 7), "path": "2.png"},
            }
            for n in range(3)
        ]
        (root / subject).mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(rows), root / subject / "validation-00000-of-00001.parquet"
        )


def write_mmbench(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with (root / "MMBench_DEV_EN.tsv").open("w", newline="") as stream:
        names = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category"]
        writer = csv.writer(stream, delimiter="\t")
        writer.writerow(names)
        for n in range(3):
            pixels = base64.b64encode(picture(n)).decode() if n < 2 else "1"
            options = ["one", "two", "three", "four" if n else ""]
            writer.writerow([n, "which\nnumber?", "", *options, "ABC"[n], ("ocr", "count")[n % 2], pixels, "fine"])


LAYOUTS: Mapping[str, Callable[[Path], None]] = {
    "vqav2": _vqa("v2_"),
    "okvqa": _vqa(""),
    "textvqa": write_textvqa,
    "vizwiz": write_vizwiz,
    "gqa": write_gqa,
    "pope": write_pope,
    "mme": write_mme,
    "mme_cognition": write_mme,
    "coco_captions": write_coco_captions,
    "mmmu": write_mmmu,
    "mmbench": write_mmbench,
}


def write_layouts(root: Path) -> None:
    """Every benchmark in the folder of its task's name."""
    for name, write in LAYOUTS.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        write(root / name)
