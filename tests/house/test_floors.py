"""Imports run down the floors of docs/architecture.md, never up and never in a ring."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "dualdiff_jax"

# Room -> floor. A room is a file or a folder; a file that is in none of them has to be given a place here.
FLOORS = {
    "dualdiff_jax.errors": 0,
    "dualdiff_jax.arrays": 0,
    "dualdiff_jax.progress": 0,
    "dualdiff_jax.hardware": 0,
    "dualdiff_jax.runtime": 0,
    "dualdiff_jax.config": 1,
    "dualdiff_jax.distributed": 1,
    "dualdiff_jax.files": 1,
    "dualdiff_jax.json_files": 1,
    "dualdiff_jax.data": 2,
    "dualdiff_jax.data.formats": 2,
    "dualdiff_jax.data.records": 2,
    "dualdiff_jax.objectives": 2,
    "dualdiff_jax.sharding": 2,
    "dualdiff_jax.stored_arrays": 2,
    "dualdiff_jax.inspection": 3,
    "dualdiff_jax.models": 3,
    "dualdiff_jax.sampling": 3,
    "dualdiff_jax.encoding": 4,
    "dualdiff_jax.weights": 4,
    "dualdiff_jax.convert": 5,
    "dualdiff_jax.hub": 5,
    "dualdiff_jax.training": 5,
    "dualdiff_jax.training.telemetry": 5,
    "dualdiff_jax.pipeline": 6,
    "dualdiff_jax": 6,  # the package itself: what a user imports
    "dualdiff_jax.app": 7,
    "dualdiff_jax.evaluation": 7,
    "dualdiff_jax.evaluation.generation": 7,
    "dualdiff_jax.evaluation.metrics": 7,
    "dualdiff_jax.planning": 7,
    "dualdiff_jax.readiness": 7,
    "dualdiff_jax.cli": 8,
    "configs": 9,
    "convert": 9,
    "main": 9,
    "demo": 10,
    "benchmarks": 10,
}
# Room -> rooms that it may not import although they lie below or beside it.
STRANGERS = {
    "dualdiff_jax.pipeline": ("dualdiff_jax.training",),
    "dualdiff_jax.app": ("dualdiff_jax.training",),
    "dualdiff_jax.evaluation": ("dualdiff_jax.training",),
    "dualdiff_jax.evaluation.generation": ("dualdiff_jax.training",),
    "dualdiff_jax.evaluation.metrics": ("dualdiff_jax.training",),
    "dualdiff_jax.objectives": ("dualdiff_jax.models",),
    "dualdiff_jax.sampling": ("dualdiff_jax.models",),
    "configs": tuple(room for room in FLOORS if room != "dualdiff_jax.config"),
}
# Library -> rooms that may import it.
FOREIGN = {
    "torch": ("dualdiff_jax.evaluation.generation", "benchmarks"),  # the first: CLIP score
    "diffusers": ("benchmarks",),
    "sklearn": ("demo", "benchmarks"),
    "pycocoevalcap": ("dualdiff_jax.evaluation.metrics",),
    "lmms_eval": ("dualdiff_jax.evaluation",),
    "gradio": ("dualdiff_jax.app",),
}
VAGUE_NAMES = {"utils", "util", "common", "misc", "helpers", "helper"}

Imports = Mapping[str, set[str]]  # module -> modules, ours and foreign, that it imports


def source_files(root: Path) -> Iterator[Path]:
    for folder in (PACKAGE, "convert", "configs", "demo", "benchmarks"):
        yield from sorted((root / folder).rglob("*.py"))
    yield from sorted(root.glob("*.py"))


def module_name(root: Path, file: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_imports(root: Path) -> Imports:
    """Every import statement, wherever in a file it stands; ``from a import b`` is a.b where that is a module."""
    files = {module_name(root, file): file for file in source_files(root)}
    imports = {}
    for module, file in files.items():
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        found = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                submodules = {f"{base}.{alias.name}" for alias in node.names}
                found |= (submodules & files.keys()) | ({base} if submodules - files.keys() else set())
        imports[module] = found - {module}
    return imports


def room_of(module: str) -> str | None:
    """The innermost room that a module of ours lies in; None for foreign modules and for those without a room."""
    parts = module.split(".")
    rooms = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    found = next((room for room in rooms if room in FLOORS), None)
    return None if found == PACKAGE and module != PACKAGE else found  # its own room holds its __init__ only


def faults(root: Path) -> list[str]:
    """All that is wrong with the tree's imports, one sentence each."""
    imports = read_imports(root)
    found = [f"{module} lies on no floor" for module in imports if room_of(module) is None]
    rooms: dict[str, set[str]] = {}
    for module, others in imports.items():
        room = room_of(module)
        for other in sorted(others):
            other_room, library = room_of(other), other.split(".")[0]
            if room not in FOREIGN.get(library, (room,)):
                found.append(f"{module} imports {library}")
            if room is None or other_room is None or room == other_room:
                continue
            rooms.setdefault(room, set()).add(other_room)
            if FLOORS[other_room] > FLOORS[room]:
                found.append(f"{module} on floor {FLOORS[room]} imports {other} on floor {FLOORS[other_room]}")
            if other_room in STRANGERS.get(room, ()):
                found.append(f"{module} imports {other}, which {room} may not know")
    for graph in (imports, rooms):
        found += [f"ring: {' -> '.join(ring)}" for ring in rings(graph)]
    return found


def rings(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Found by depth-first search; each begins and ends with its first name in the alphabet."""
    found, done = [], set()

    def visit(node: str, path: list[str]) -> None:
        if node in path:
            ring = path[path.index(node) :]
            first = ring.index(min(ring))
            found.append([*ring[first:], *ring[: first + 1]])
        elif node not in done:
            for other in sorted(graph.get(node, ())):
                visit(other, [*path, node])
            done.add(node)

    for node in sorted(graph):
        visit(node, [])
    return found


def test_imports_run_down_the_floors():
    assert faults(ROOT) == []


def test_every_source_file_was_read():
    modules = read_imports(ROOT)
    assert {
        "main",
        "dualdiff_jax.models.mmdit",
        "dualdiff_jax.convert.state_dict",
        "configs.demo",
        "demo.data",
    } <= modules.keys()
    assert "dualdiff_jax.models.blocks" in modules["dualdiff_jax.models.mmdit"]
    assert any("torch" in others for others in modules.values())


def test_no_file_has_a_name_that_says_nothing():
    assert [str(file) for file in source_files(ROOT) if file.stem in VAGUE_NAMES] == []


TREE = {
    "dualdiff_jax/__init__.py": "from dualdiff_jax.pipeline.pipeline import Pipeline",
    "dualdiff_jax/config.py": "import dataclasses",
    "dualdiff_jax/sharding.py": "from dualdiff_jax import config",
    "dualdiff_jax/models/__init__.py": "",
    "dualdiff_jax/models/mmdit.py": "from dualdiff_jax.models import blocks\nfrom dualdiff_jax.sharding import RULES",
    "dualdiff_jax/models/blocks.py": "import jax",
    "dualdiff_jax/objectives/joint.py": "from dualdiff_jax.config import RunConfig",
    "dualdiff_jax/pipeline/__init__.py": "",
    "dualdiff_jax/pipeline/pipeline.py": "import dualdiff_jax.models.mmdit",
    "dualdiff_jax/training/loop.py": "from dualdiff_jax.models.mmdit import MMDiT",
    "dualdiff_jax/convert/keys.py": "from dualdiff_jax.models import mmdit",
    "benchmarks/peer.py": "import torch",
    "convert/__main__.py": "from dualdiff_jax.convert import keys",
    "configs/demo.py": "from dualdiff_jax.config import empty_config",
    "demo/data.py": "import sklearn.datasets\nfrom dualdiff_jax import Pipeline",
    "main.py": "from dualdiff_jax import pipeline",
}


def faults_of(tmp_path: Path, **changes: str) -> list[str]:
    """The faults of the small tree above, with some files changed; ``__`` stands for ``/``."""
    for name, text in (TREE | {f"{name.replace('__', '/')}.py": text for name, text in changes.items()}).items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return faults(tmp_path)


def test_a_tree_that_keeps_the_floors_has_no_faults(tmp_path):
    assert faults_of(tmp_path) == []


@pytest.mark.parametrize(
    "file, text, fault",
    [
        ("sharding", "from dualdiff_jax.models.mmdit import MMDiT", "sharding on floor 2 imports"),
        ("sharding", "from dualdiff_jax import models", "sharding on floor 2 imports dualdiff_jax.models on floor 3"),
        ("sharding", "from . import pipeline", "sharding on floor 2 imports dualdiff_jax.pipeline on floor 6"),
        (
            "models__blocks",
            "from ..pipeline import P",
            "blocks on floor 3 imports dualdiff_jax.pipeline on floor 6",
        ),
        ("models__blocks", "from .. import Pipeline", "blocks on floor 3 imports dualdiff_jax on floor 6"),
        ("config", "def f():\n    import dualdiff_jax.sharding", "config on floor 1 imports"),
        ("weights", "import main", "weights on floor 4 imports main on floor 9"),
        ("weights", "from demo.data import write", "weights on floor 4 imports demo.data on floor 10"),
        ("models__blocks", "from .mmdit import MMDiT", "ring: dualdiff_jax.models.blocks -> dualdiff_jax.models.mmdit"),
        ("config", "from dualdiff_jax.config import x\nfrom dualdiff_jax.errors import y", None),
        ("pipeline__pipeline", "from dualdiff_jax.training import loop", "which dualdiff_jax.pipeline may not know"),
        ("evaluation__runner", "import dualdiff_jax.training", "which dualdiff_jax.evaluation may not know"),
        ("sampling__euler", "import dualdiff_jax.models.mmdit", "which dualdiff_jax.sampling may not know"),
        ("objectives__joint", "import dualdiff_jax.models.mmdit", "which dualdiff_jax.objectives may not know"),
        ("models__blocks", "import torch.nn as nn", "blocks imports torch"),
        ("data__sources", "from sklearn.datasets import load_digits", "sources imports sklearn"),
        ("models__vae", "from diffusers import AutoencoderKL", "vae imports diffusers"),
        ("extras", "import jax", "dualdiff_jax.extras lies on no floor"),
        ("training__telemetry__sinks", "from dualdiff_jax.training import loop", None),
        ("data__formats__tar", "import torch", "tar imports torch"),
        ("convert__keys", "import torch", "keys imports torch"),
        ("evaluation__generation__clip_score", "import torch", None),
    ],
)
def test_the_checker_finds_what_is_planted(tmp_path, file, text, fault):
    found = faults_of(tmp_path, **{f"dualdiff_jax__{file}": text})
    if fault is None:
        assert found == []
    else:
        assert any(fault in line for line in found), found


@pytest.mark.parametrize(
    "file, text, fault",
    [
        ("configs__demo", "from dualdiff_jax.sharding import RULES", "which configs may not know"),
        ("configs__demo", "import demo.data", "which configs may not know"),
        ("main", "import torch", "main imports torch"),
        ("demo__data", "import torch", "demo.data imports torch"),
        ("setup", "import jax", "setup lies on no floor"),
    ],
)
def test_the_checker_finds_what_is_planted_outside_the_package(tmp_path, file, text, fault):
    found = faults_of(tmp_path, **{file: text})
    assert any(fault in line for line in found), found


def test_rooms_that_stand_on_each_other_are_a_ring(tmp_path):
    """Even where no two of their files do."""
    found = faults_of(
        tmp_path,
        dualdiff_jax__sampling__a="from dualdiff_jax.models import blocks",
        dualdiff_jax__sampling__b="",
        dualdiff_jax__models__mmdit="from dualdiff_jax.sampling import b",
    )
    assert "ring: dualdiff_jax.models -> dualdiff_jax.sampling -> dualdiff_jax.models" in found
