"""A hook of MkDocs: pages and figures that lie outside docs/ become part of the site, and links to them follow.

A link to any other file of the repository shows its text alone, since the site does not hold the code.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
PAGES = {  # file of the repository -> page of the site
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
}
FIGURES = "benchmarks/results"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages and the figures."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for figure in sorted((ROOT / FIGURES).rglob("*.json")):
        files.append(File.generated(config, str(figure.relative_to(ROOT)), abs_src_path=str(figure)))
    return files


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
        if not name.startswith("docs/") and name not in PAGES and not (name.startswith(FIGURES) and file.is_file()):
            return text
        if file.is_dir():
            return text
        return f"{mark}[{text}]({target}{'#' + anchor if anchor else ''})"

    return LINK.sub(follow, markdown)
