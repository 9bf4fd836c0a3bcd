"""Compiled programs cost what they did when their figures were recorded, so that no pass over memory comes back."""

import json

import pytest

from tests.targets import golden

pytestmark = pytest.mark.targets


@pytest.mark.parametrize("name", golden.PLANS)
def test_a_plan_finds_the_recorded_figures(name):
    recorded = json.loads(golden.FILE.read_text(encoding="utf-8"))[name]
    changed = golden.changes(recorded, golden.figures(name))
    assert not changed, (
        f"{name}: {'; '.join(changed)}; if that is meant, run python -m tests.targets.golden '{name}' and commit "
        f"{golden.FILE.name}"
    )


def test_a_change_of_more_than_three_percent_is_named():
    recorded = {"total ms": 100.0, "products ms": 60.0, "copies ms": 1.0, "GB": 2.0}
    assert not golden.changes(recorded, {"total ms": 102.0, "products ms": 61.0, "copies ms": 1.2, "GB": 2.05})
    found = {"total ms": 104.0, "products ms": 60.0, "copies ms": 1.4, "GB": 2.0}
    assert golden.changes(recorded, found) == ["total ms 100 -> 104", "copies ms 1 -> 1.4"]
