"""``--mode=check``: what a run will need, looked at before it costs anything."""

import json
from collections.abc import Sequence

import jax

from dualdiff_jax.config import RunConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.readiness.finding import Finding
from dualdiff_jax.readiness.report import findings


def check(config: RunConfig, workdir: str, *, as_json: bool) -> None:
    """Prints one row a check; process 0 prints for all.

    Args:
        config: of the run.
        workdir: its folder, which is left as it is.
        as_json: prints a list of objects in place of a table.

    Raises:
        UserError: the run cannot begin; with every fault.
    """
    found = list(findings(config, workdir))
    if jax.process_index() == 0:
        print(json.dumps([row._asdict() for row in found], indent=2) if as_json else _table(found), flush=True)
    faults = [row.sentence for row in found if row.status == "fault"]
    if faults:
        raise UserError("\n".join(faults))


def _table(found: Sequence[Finding]) -> str:
    width = max(len(row.what) for row in found)
    lines = []
    for row in found:
        text = row.found.replace("\n", "\n" + " " * (width + 11))
        lines.append(f"{row.what.ljust(width)}  {row.status.ljust(7)}  {text}")
        lines += [" " * (width + 11) + f"-> {row.advice}"] if row.advice else []
    return "\n".join(lines)
