"""The call that makes a result again, in Python and on the command line."""

import json
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from dualdiff_jax.app.studio import Studio

FLAGS = {"prompts": "prompt", "images": "image", "masks": "mask", "questions": "question", "texts": "text"}
OUTPUT = "out"
SAVE = 'for number, image in enumerate(found):\n    image.save(f"{number:04d}.png")'
SAVE_PAIRS = 'for number, pair in enumerate(found):\n    pair.image.save(f"{number:04d}.png")\n    print(pair.text)'


class _Method(NamedTuple):
    name: str  # of the pipeline
    shows: str  # what follows the call
    has_output: bool = False


METHODS = {  # mode of the command line -> method of the pipeline
    "generate": _Method("text_to_image", SAVE, True),
    "edit": _Method("image_to_image", SAVE, True),
    "inpaint": _Method("inpaint", SAVE, True),
    "joint": _Method("joint", SAVE_PAIRS, True),
    "caption": _Method("image_to_text", "print(found)"),
    "answer": _Method("answer", "print(found)"),
    "infill": _Method("infill", "print(found)"),
    "score": _Method("score", "print(found.nats)"),
}


class Call(NamedTuple):
    """One call of the pipeline; arguments that are None are left out, and images are names of files."""

    mode: str  # of the command line
    arguments: Mapping[str, Any]  # by the pipeline's names

    @property
    def given(self) -> dict[str, Any]:
        """The arguments that are not None."""
        return {name: value for name, value in self.arguments.items() if value is not None}

    def reading(self, **files: Any) -> dict[str, Any]:
        """The arguments with images in place of the names of ``files``."""
        return self.given | files

    def python(self, studio: Studio) -> str:
        """A script, which runs where its files are."""
        loading = "".join(f", {name}={value!r}" for name, value in studio.loading.items())
        method = METHODS[self.mode]
        return "\n".join(
            [
                "from dualdiff_jax import DualDiffusionPipeline\n",
                f"pipe = DualDiffusionPipeline.from_pretrained({studio.model!r}{loading})",
                f"found = pipe.{method.name}(",
                *(f"    {name}={value!r}," for name, value in self.given.items()),
                ")",
                method.shows,
            ]
        )

    def command(self, studio: Studio) -> str:
        """The same for a shell."""
        given = {"mode": self.mode, "model": studio.model, **studio.loading, **self.given}
        if METHODS[self.mode].has_output:
            given["output"] = OUTPUT
        words = [word for name, value in given.items() for word in _words(FLAGS.get(name, name), value)]
        return " \\\n  ".join([studio.program, *map(shlex.quote, words)])

    def settings(self, studio: Studio) -> str:
        """All of it as JSON, for a file's metadata."""
        shown = {"python": self.python(studio), "command": self.command(studio)}
        return json.dumps({"mode": self.mode, "model": studio.model, **studio.loading, **self.given, **shown})


def _words(flag: str, value: Any) -> list[str]:
    """A flag as the command line takes it."""
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no{flag}"]
    return [f"--{flag}={each}" for each in (value if isinstance(value, list) else [value])]
