"""``--mode=plan``: what a program needs of devices that are not here."""

import json
from collections.abc import Sequence

from dualdiff_jax.config import RunConfig
from dualdiff_jax.planning import report


def plan(config: RunConfig, topology: str, of: str, *, is_search: bool, as_json: bool) -> None:
    """What ``of`` needs of a topology that is not here; with ``is_search``, the largest batch of each remat policy."""
    reports = report.search(config, topology) if is_search else [report.plan(config, topology, of)]
    print(json.dumps(reports if is_search else reports[0], indent=2) if as_json else _pages(reports))


def _pages(reports: Sequence[report.Report]) -> str:
    return "\n\n".join(report.table(page) for page in reports)
