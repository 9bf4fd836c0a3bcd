"""What every tab shows of a result: pictures or a text, a fault's sentence, the call that makes it again, and files."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from dualdiff_jax.app.door import gr
from dualdiff_jax.app.faults import in_sentences
from dualdiff_jax.app.results import Result
from dualdiff_jax.app.studio import Studio

MODEL = "model"  # the queue of all calls that use the model: one at a time


class Outcome(NamedTuple):
    """The components of a tab's result."""

    fault: Any
    html: Any
    gallery: Any | None
    python: Any
    command: Any
    files: Any

    @classmethod
    def shown(cls, name: str, *, has_images: bool) -> "Outcome":
        """Makes the components, where the page is being built."""
        fault = gr.HTML(elem_id=f"{name}-fault", elem_classes="message", js_on_load=None)
        gallery = None
        if has_images:
            gallery = gr.Gallery(
                label="Pictures",
                format="png",
                object_fit="contain",
                columns=4,
                height=360,
                interactive=False,
                elem_id=f"{name}-pictures",
                elem_classes="pictures",
                buttons=["download", "fullscreen"],
            )
        html = gr.HTML(elem_id=f"{name}-text", elem_classes="result", js_on_load=None)
        files = gr.Files(label="Files, with their settings inside", interactive=False, elem_id=f"{name}-files")
        with gr.Accordion("Make it again", open=True):
            python = gr.Code(language="python", label="Python", interactive=False, elem_id=f"{name}-python")
            command = gr.Code(language="shell", label="Command line", interactive=False, elem_id=f"{name}-command")
        return cls(fault, html, gallery, python, command, files)

    @property
    def outputs(self) -> list[Any]:
        """All of them but the fault, as ``_values`` fills them."""
        return [self.html, *([self.gallery] if self.gallery else []), self.python, self.command, self.files]

    def runs(
        self, button: Any, studio: Studio, work: Callable[..., Iterator[Result]], fields: Sequence[Any], name: str
    ) -> Any:
        """Lets ``button`` call ``work(studio, *values of fields)`` and show what it yields; ``name`` is the API's."""

        def call(*values: Any) -> Iterator[tuple]:
            for result in work(studio, *values):
                yield self._values(result)

        return button.click(
            in_sentences(call, (gr.skip(),) * len(self.outputs)),
            list(fields),
            [self.fault, *self.outputs],
            api_name=name,
            concurrency_limit=1,
            concurrency_id=MODEL,
            show_progress_on=[self.html],
            trigger_mode="once",
        )

    def _values(self, result: Result) -> tuple:
        images = [list(result.images)] if self.gallery else []
        return result.html, *images, result.python, result.command, list(result.files) or None
