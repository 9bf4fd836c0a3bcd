"""Damaged files of every kind: a sentence or a good record, never a traceback, a long wait, much memory or a loss."""

import pytest

from tests.fuzz.runner import fuzz
from tests.fuzz.targets import TARGETS

COUNT = 200


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning")
def test_a_damaged_file_costs_a_sentence(name):
    result = fuzz(name, range(COUNT))
    assert result.findings == []
    assert result.refused + result.read == COUNT
    assert result.refused > 0 or name == "metrics"  # a run starts whatever its old metrics are
