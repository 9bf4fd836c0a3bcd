"""A few prompts in the layout of each benchmark of images, in words that the demo's tokenizer knows."""

import json
from pathlib import Path

TAGS = ("single_object", "counting", "colors")


def write_geneval(folder: Path, prompts: int = 5) -> None:
    rows = [
        {
            "tag": TAGS[number % len(TAGS)],
            "include": [{"class": "dog", "count": 1}],
            "prompt": f"a photo of the digit {('one', 'two', 'three')[number % 3]}",
        }
        for number in range(prompts)
    ]
    (folder / "prompts").mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "prompts/evaluation_metadata.jsonl").write_text(text)


def write_coco(folder: Path, images: int = 5) -> None:
    """Two captions of each image, the one with the smaller id second."""
    annotations = [
        {"image_id": 40 + image, "id": 100 * image + caption, "caption": f"a handwritten {word}\n"}
        for image in range(images)
        for caption, word in ((9, "nine"), (2, "two"))
    ]
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations/captions_val2014.json").write_text(json.dumps({"images": [], "annotations": annotations}))


def write_mjhq(folder: Path, prompts: int = 5) -> None:
    folder.mkdir(parents=True)
    rows = {
        f"{number:04x}ab": {"category": ("animals", "food")[number % 2], "prompt": f"a handwritten {word}"}
        for number, word in enumerate(("one", "two", "three", "four", "five")[:prompts])
    }
    (folder / "meta_data.json").write_text(json.dumps(rows))


def write_layouts(root: Path) -> None:
    """``root``/TASK of each task."""
    write_geneval(root / "geneval")
    write_coco(root / "coco30k")
    write_mjhq(root / "mjhq30k")
