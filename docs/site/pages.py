"""A hook of MkDocs: pages and figures that lie outside docs/ become part of the site, and links to them follow.

A link to any other file of the repository shows its text alone, since the site does not hold the code. A notebook has
outputs where make check-notebooks has run it as it is now.
"""

import json
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
PAGES = {  # file of the repository -> page of the site
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
}
FIGURES = "benchmarks/results"
NOTEBOOKS, EXECUTED, PREPARED = "notebooks", ROOT / "runs" / "notebooks", ROOT / ".cache" / "site"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
PAGE_LINK = re.compile(r"\]\(\.\./docs/([\w/]+)\.md")  # in a notebook
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.DOTALL)


@event_priority(50)  # before the plugin that makes pages of notebooks
def on_files(files: Any, config: Any) -> Any:
    """Adds the pages, the figures and the notebooks."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for figure in sorted((ROOT / FIGURES).rglob("*.json")):
        files.append(File.generated(config, str(figure.relative_to(ROOT)), abs_src_path=str(figure)))
    for notebook in sorted((ROOT / NOTEBOOKS).glob("*.ipynb")):
        prepare(notebook)
        files.append(File(f"{NOTEBOOKS}/{notebook.name}", str(PREPARED), config.site_dir, config.use_directory_urls))
    return files


def prepare(notebook: Path) -> None:
    """Writes the notebook as the site shows it: with outputs, links to pages, and formulas as MathML."""
    content, executed = json.loads(notebook.read_text(encoding="utf-8")), EXECUTED / notebook.name
    if executed.is_file():
        found = json.loads(executed.read_text(encoding="utf-8"))
        content = found if sources(found) == sources(content) else content
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            text = PAGE_LINK.sub(r"](../\1.html", "".join(cell["source"]))
            cell["source"] = FORMULA.sub(mathml, text)
    copy = PREPARED / NOTEBOOKS / notebook.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(json.dumps(content), encoding="utf-8")


def mathml(formula: re.Match[str]) -> str:
    """A formula as MathML, for which a page needs no script of another host."""
    block, inline = formula.groups()
    return convert(block or inline, display="block" if block else "inline")


def sources(notebook: dict[str, Any]) -> list[str]:
    """What stands in the cells."""
    return ["".join(cell["source"]) for cell in notebook["cells"]]


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Points each link at a page or a figure of the site, or leaves its text where the site has neither."""
    source = {target: name for name, target in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    folder = (ROOT / source).parent

    def follow(found: re.Match[str]) -> str:
        mark, text, link = found.groups()
        path, _, anchor = link.partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return found[0]
        file = (folder / path).resolve()
        if not file.exists():
            return found[0]  # MkDocs reports it
        name = file.relative_to(ROOT).as_posix()
        target = PAGES.get(name) or name.removeprefix("docs/")
        is_shown = name in PAGES or name.startswith(("docs/", FIGURES)) or file.suffix == ".ipynb"
        if not is_shown:
            return text
        if file.is_dir():
            return text
        return f"{mark}[{text}]({target}{'#' + anchor if anchor else ''})"

    return LINK.sub(follow, markdown)
