"""Laws of the tool that makes mutants: which it makes, which it leaves out, and that its table and list are current."""

import textwrap

import pytest

from tests.mutants.__main__ import PACKAGE, all_mutants, choose, explanation, read_explained
from tests.mutants.belonging import TESTS, belonging_to
from tests.mutants.operators import mutants
from tests.mutants.tree import ROOT

CORE = ("objectives", "models", "sampling", "sharding")  # rooms of which every module is in the table
NO_CODE = {"__init__.py"}


def changed(code: str) -> set[str]:
    """The second line of each mutant of a function whose second line is ``code``."""
    source = f"def f(x, y):\n    {code}\n".encode()
    return {mutant.apply(source).decode().split("\n")[1].strip() for mutant in mutants(source, "f.py")}


@pytest.mark.parametrize(
    "code, expected",
    [
        ("return x < y", {"return x <= y", "return x >= y"}),
        ("return x is not y", {"return x is y"}),
        ("return x + y", {"return x - y", "return (x)"}),
        ("return (x) // (y)", {"return (x) * (y)", "return (x)"}),
        ("return 0", {"return 1"}),
        ("return 3", {"return 4", "return 2"}),
        ("return 0.5", {"return 1.0"}),
        ("return 1e-06", {"return 1e-05"}),
        ("return True", {"return False"}),
        ("return not x", {"return (x)"}),
        ("return -x", {"return (x)"}),
        ("return x and y", {"return x or y", "return (x)", "return (y)"}),
        ("return x if y else f", {"return x if (not (y)) else f"}),
        ("return [a for a in x if a]", {"return [a for a in x if (not (a))]"}),
        ("return min(x, y)", {"return max(x, y)", "return (x)"}),
        ("return jnp.ceil(x)", {"return jnp.floor(x)", "return (x)"}),
        ("return x.astype(y)", {"return x"}),
        ("return jnp.where(x, y, f)", {"return jnp.where(x, f, y)"}),
        ("return f(x, k=y)", {"return f(x)"}),
        ("return f(k=y)", {"return f()"}),
        ("return x[y:x]", {"return x[:x]", "return x[y:]"}),
        ("raise ValueError(f'{x} < {y + 1}')", {"pass"}),
        ("x += y", {"x -= y", "pass"}),
        ("x[y] = f", {"pass"}),
        ("f(x)", {"pass"}),
    ],
)
def test_each_operator_changes_one_point(code, expected):
    assert changed(code) == expected


@pytest.mark.parametrize(
    "code",
    [
        '"""A docstring with 1 < 2."""',
        "log.info('%d of %d', x + 1, y)",
        "warnings.warn(f'{x + 1}')",
        "z: tuple[int, 3] = x",
        "return 'text' + x",
        "return f'{x + 1} of {y}'",
        "return zip(x, y, strict=True)",
        "import jax",
        "return x",
    ],
)
def test_what_no_test_need_notice_is_left_alone(code):
    assert changed(code) == set()


def test_decorators_annotations_and_reprs_are_left_alone():
    source = textwrap.dedent("""
        Pair = tuple[int, 2]
        class A:
            @cached(1)
            def f(self, x: Literal[1]) -> Literal[2]:
                return x
            def __repr__(self):
                return 1 + 1
    """)
    assert mutants(source.encode(), "a.py") == []


def test_a_mutant_knows_its_place_after_letters_of_several_bytes():
    source = 'NAME = "σ" * 2\n\n\nclass A:\n    def f(self):\n        def g():\n            return ("σ", 1)\n'.encode()
    *_, last = mutants(source, "a.py")
    assert (last.before, last.after, last.line, last.function) == ("1", "2", 7, "A.f.<locals>.g")
    assert last.source_line == 'return ("σ", 1)'
    assert last.apply(source).decode() == source.decode().replace("1", "2")


def test_a_seed_chooses_other_mutants_on_lines_of_every_module():
    found = {name: all_mutants([name])[name] for name in ("sampling/guidance.py", "objectives/flow_matching.py")}
    first, again, other = choose(found, 8, 0), choose(found, 8, 0), choose(found, 8, 1)
    assert first == again != other and len(first) == 8
    assert len({(mutant.file, mutant.line) for mutant in first}) == 8
    assert {mutant.file for mutant in choose(found, 4, 0)} == {PACKAGE + name for name in found}


def test_the_table_names_files_that_exist_and_every_module_of_the_core():
    assert [name for name in TESTS if not (ROOT / PACKAGE / name).is_file()] == []
    assert sorted({test for name in TESTS for test in belonging_to(name) if not (ROOT / test).is_file()}) == []
    modules = {file.relative_to(ROOT / PACKAGE) for room in CORE for file in (ROOT / PACKAGE / room).rglob("*.py")}
    assert {str(name) for name in modules if name.name not in NO_CODE} <= TESTS.keys()


def test_every_explained_mutant_can_still_be_made():
    entries = read_explained()
    found = all_mutants({entry["file"].removeprefix(PACKAGE) for entry in entries})
    explained = [mutant for of_module in found.values() for mutant in of_module if explanation(mutant, entries)]
    stale = [entry for entry in entries if not any(explanation(mutant, [entry]) for mutant in explained)]
    assert stale == []
