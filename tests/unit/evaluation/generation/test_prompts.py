"""Prompts from the publishers' files, and faults of these."""

import json

import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.generation import coco30k, geneval
from dualdiff_jax.evaluation.generation.prompts import Prompt, chosen
from dualdiff_jax.evaluation.generation.registry import IMAGE_TASKS
from tests.image_benchmarks import write_coco, write_layouts


def prompts(root, task):
    return IMAGE_TASKS[task].prompts(root)


@pytest.fixture
def root(tmp_path):
    write_layouts(tmp_path)
    return tmp_path


def test_geneval_is_read_from_its_checkout_or_its_folder(root):
    found = prompts(root / "geneval", "geneval")
    assert found == prompts(root / "geneval/prompts", "geneval")
    assert found[1].text == "a photo of the digit two" and found[1].metadata["tag"] == "counting"
    assert found[4].images(2) == ["00004/samples/0000.png", "00004/samples/0001.png"]


def test_coco_has_one_caption_of_each_image_and_the_same_images_for_all(tmp_path, monkeypatch):
    write_coco(tmp_path, images=50)
    assert len(everyone := prompts(tmp_path, "coco30k")) == 50
    monkeypatch.setattr(coco30k, "PROMPTS", 20)
    some = prompts(tmp_path, "coco30k")
    assert len(some) == 20 and set(some) < set(everyone)
    assert [int(prompt.prompt_id) for prompt in some] == sorted(int(prompt.prompt_id) for prompt in some)
    assert [prompt.prompt_id for prompt in some] != [prompt.prompt_id for prompt in everyone[:20]]
    assert {prompt.text for prompt in some} == {"a handwritten two"}


def test_a_choice_has_all_of_a_smaller_one_in_the_files_order():
    everyone = [Prompt(f"{number:03d}", "a", "") for number in range(100)]
    choices = [chosen(everyone, limit) for limit in (None, 1000, 60, 7)]
    assert [len(each) for each in choices] == [100, 100, 60, 7]
    assert set(choices[3]) < set(choices[2])
    assert all(each == sorted(each) for each in choices)
    assert choices[3] != everyone[:7]


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text if isinstance(text, str) else json.dumps(text))


@pytest.mark.parametrize(
    "task, file, content, fault",
    [
        ("geneval", geneval.FILE, "", "has no prompts"),
        ("geneval", geneval.FILE, "{", "prompt 0: is no JSON"),
        ("geneval", geneval.FILE, '{"tag": "a", "include": []}', "prompt 0: lacks 'prompt'"),
        ("geneval", geneval.FILE, '{"prompt": "a", "include": []}', "prompt 0: lacks 'tag'"),
        ("geneval", geneval.FILE, '{"tag": "a", "include": [], "prompt": " "}', "prompt '00000' is empty"),
        ("coco30k", coco30k.FILE, {"annotations": []}, "has no prompts"),
        ("coco30k", coco30k.FILE, {"images": []}, "lacks 'annotations'"),
        ("coco30k", coco30k.FILE, {"annotations": [{"image_id": 1, "id": 2}]}, "annotation 0: lacks 'caption'"),
        ("coco30k", coco30k.FILE, {"annotations": [{"image_id": -1, "id": 2, "caption": "a"}]}, "a negative id"),
        ("mjhq30k", "meta_data.json", {}, "has no prompts"),
        ("mjhq30k", "meta_data.json", [], "expected an object"),
        ("mjhq30k", "meta_data.json", {"a": {"prompt": "x"}}, "a: lacks 'category'"),
        ("mjhq30k", "meta_data.json", {"a": {"prompt": "x", "category": "../up"}}, "expected a name that a file can"),
        ("mjhq30k", "meta_data.json", {"a/b": {"prompt": "x", "category": "c"}}, "found 'a/b', expected a name"),
        ("mjhq30k", "meta_data.json", {"": {"prompt": "x", "category": "c"}}, "found '', expected a name"),
    ],
)
def test_damaged_files_are_named_with_the_fault_and_the_layout(tmp_path, task, file, content, fault):
    write(tmp_path / file, content)
    with pytest.raises(UserError) as raised:
        prompts(tmp_path, task)
    message = str(raised.value)
    assert fault in message and str(tmp_path / file) in message
    assert message.startswith(f"task {task}: ") and f"; expected {IMAGE_TASKS[task].layout}" in message
