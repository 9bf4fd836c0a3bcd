"""``--mode=plan``: what a program needs of devices that are not here."""

import json
from collections.abc import Sequence

from dualdiff_jax.config import RunConfig
from dualdiff_jax.planning import report


def plan(config: RunConfig, topology: str, program: str, *, is_search: bool, as_json: bool) -> None:
    """Prints memory, operations, collectives and roofline of a program compiled for other devices.

    Args:
        config: of the run.
        topology: such as "v5p:4x4x4" or "h100:8".
        program: one of ``planning.programs.PROGRAMS``.
        is_search: reports the largest training batch that fits instead, for each remat policy.
        as_json: prints JSON in place of tables.

    Raises:
        UserError: the topology or the program does not exist, or its compiler is not installed.
    """
    reports = report.search(config, topology) if is_search else [report.plan(config, topology, program)]
    print(json.dumps(reports if is_search else reports[0], indent=2) if as_json else _tables(reports))


def _tables(reports: Sequence[report.Report]) -> str:
    return "\n\n".join(report.table(each) for each in reports)
