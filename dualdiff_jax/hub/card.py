"""The page of a model on the hub, made from what is known of it: nothing on it is made up."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualdiff_jax.config.resolve import to_dict
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path
from dualdiff_jax.json_files import checked, read_object
from dualdiff_jax.weights import load_config, load_networks

SUBMISSION = ".submission.json"
HEADER = """\
---
library_name: dualdiff_jax
pipeline_tag: any-to-any
license: {licence}
tags:
- text-to-image
- image-to-text
- visual-question-answering
- diffusion
- jax
---

# {name}

A Dual Diffusion model (D-DiT, arXiv 2501.00289): one transformer that draws images from text by flow matching and reads
images into text by masked diffusion.

```python
from dualdiff_jax import DualDiffusionPipeline

pipe = DualDiffusionPipeline.from_pretrained("{name}")
images = pipe.text_to_image(["..."], seed=0)
texts = pipe.image_to_text(images, seed=0)
```
"""


def model_card(
    folder: str | Path, name: str, licence: str, scores: str | Path | None = None, samples: Sequence[str] = ()
) -> str:
    """The text of README.md.

    Args:
        folder: the model folder. Where it lies in a run's workdir, the card shows the run's config too.
        name: ORGANISATION/NAME.
        licence: of the weights, as the hub names it; the base model's binds what is trained from it.
        scores: the ``--output`` of ``--mode=evaluate``, whose results are listed.
        samples: names of images in the repository.

    Raises:
        UserError: the folder or a file of scores is damaged.
    """
    folder, config = as_path(folder), load_config(folder)
    parts = [HEADER.format(name=name, licence=licence)]
    parts += [f"![{html.escape(sample)}]({sample})" for sample in samples]
    rows = [(network, _sizes(getattr(config, network))) for network in load_networks(folder)]
    parts.append("## Model\n\n" + _table(("network", "sizes"), rows))
    parts.append(_details("Defaults of sampling", to_dict(config.sampling)))
    run = folder.parent / "config.json"
    if folder.name == "model" and run.is_file():
        parts.append(_training(read_object(run), str(run)))
    if scores is not None:
        parts.append(_scores(as_path(scores)))
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _sizes(network: Any) -> str:
    sizes = {key: value for key, value in to_dict(network).items() if isinstance(value, int)}
    return ", ".join(f"{key} {value}" for key, value in sizes.items())


def _training(run: Mapping[str, Any], file: str) -> str:
    train, data = (checked(run.get(name, {}), dict, f"{file}: {name}") for name in ("train", "data"))
    sources = checked(data.get("sources", []), list, f"{file}: data.sources")
    rows = [(key, str(train[key])) for key in ("steps", "global_batch_size") if key in train]
    rows += [("seed", str(run["seed"]))] if "seed" in run else []
    rows += [("init_from", str(run["init_from"]))] if run.get("init_from") else []
    rows += [
        (f"source {source.get('name')}", f"{source.get('format')}, {source.get('task')}")
        for source in (checked(each, dict, f"{file}: a source") for each in sources)
    ]
    return "## Training\n\n" + _table(("setting", "value"), rows) + "\n" + _details("The whole config", run)


def _scores(folder: Path) -> str:
    rows, settings = [], {}
    for file in sorted(folder.glob("*.json")):
        if file.name.endswith(SUBMISSION):
            continue  # a list of answers for a server
        result = read_object(file)
        if _is_number(result.get("score")) and "task" in result:
            error = result.get("standard_error")
            given = f" ± {error:.4g}" if _is_number(error) else ""
            rows.append((str(result["task"]), f"{result['score']:.6g}{given}", _asked(result)))
            settings[str(result["task"])] = result.get("settings")
    if not rows:
        raise UserError(f"{folder}: has no results of --mode=evaluate; name its --output")
    return (
        "## Scores\n\n" + _table(("task", "score", "questions or images"), rows) + "\n" + _details("Settings", settings)
    )


def _asked(result: Mapping[str, Any]) -> str:
    """How many questions were asked, or images judged; "" where the record does not say."""
    questions = result.get("questions")
    asked = questions.get("asked") if isinstance(questions, Mapping) else result.get("count")
    return "" if asked is None else str(asked)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return html.escape(text, quote=False).replace("|", r"\|").replace("\n", " ")


def _details(title: str, content: Any) -> str:
    text = html.escape(json.dumps(content, indent=2, ensure_ascii=False), quote=False)
    return f"<details><summary>{title}</summary>\n\n<pre>{text}</pre>\n\n</details>\n"
