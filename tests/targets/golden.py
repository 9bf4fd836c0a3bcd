"""What plans of the narrow model say of its compiled programs, as recorded.

python -m tests.targets.golden [NAME ...]     records the figures of these plans, by default of all of them
"""

import json
import sys
from pathlib import Path

from dualdiff_jax.config import RunConfig
from dualdiff_jax.planning import report
from tests.targets.compiled import small_config

FILE = Path(__file__).parent / "golden.json"
TOLERANCE = 0.03

# Name -> topology, program, pairs or images of all devices, and fields of the config.
PLANS: dict[str, tuple[str, str, int, dict]] = {
    "train on h100:1": ("h100:1", "train", 12, {}),
    "train on h100:8": ("h100:8", "train", 24, {}),
    "train on v5e:2x2": ("v5e:2x2", "train", 12, {}),
    "train on v5p:2x2x1": ("v5p:2x2x1", "train", 12, {}),
    "text to image on h100:1": ("h100:1", "text_to_image", 4, {}),
}


def figures(name: str) -> dict[str, float]:
    """The figures of a plan: time and bytes of a call as compiled, and how long its collectives are alone."""
    topology, program, size, sections = PLANS[name]
    config: RunConfig = small_config(batch=size, **sections)
    found = report.plan(config, topology, program)
    read = found["as_compiled"]
    kinds = {f"{kind} ms": 1e3 * sums["seconds"] for kind, sums in read["kinds"].items()}
    alone = sum(row["alone"] for row in found["waiting"].values())
    return {"total ms": 1e3 * read["seconds"], **kinds, "GB": read["bytes"] / 1e9, "collectives alone ms": 1e3 * alone}


def changes(recorded: dict[str, float], found: dict[str, float]) -> list[str]:
    """The figures that differ by more than ``TOLERANCE``, in words; small ones by that share of the total."""
    total = {"GB": recorded["GB"]}
    allowed = {
        key: TOLERANCE * max(value, total.get(key, recorded["total ms"]) / 10) for key, value in recorded.items()
    }
    return [
        f"{key} {recorded[key]:.4g} -> {found[key]:.4g}"
        for key in recorded
        if abs(found[key] - recorded[key]) > allowed[key]
    ]


def main(names: list[str]) -> None:
    for name in names or PLANS:
        recorded = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
        recorded[name] = {key: float(f"{value:.5g}") for key, value in figures(name).items()}
        ordered = {known: recorded[known] for known in PLANS if known in recorded}
        FILE.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
        print(name, recorded[name], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
