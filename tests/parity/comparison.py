"""The measure of parity: the norm of the difference over the norm of the expected array."""

from collections.abc import Mapping

import numpy as np

OUTPUT_BOUND = 1e-5
GRADIENT_BOUND = 1e-4


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """0 where both vanish; infinite where only ``expected`` vanishes, shapes differ or numbers are not finite."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape or not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return np.inf
    difference, size = np.linalg.norm(found - expected), np.linalg.norm(expected)
    return float(difference / size) if size else float(np.inf if difference else 0.0)


def assert_parity(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], bound: float, *, seed: int
) -> None:
    """Checks that both have the same names and every array is within the bound; the message lists all that are not."""
    assert found.keys() == expected.keys(), f"seed {seed}: names differ: {sorted(found.keys() ^ expected.keys())}"
    errors = {name: relative_error(found[name], expected[name]) for name in expected}
    worst = max(errors, key=errors.get)
    print(f"largest relative error {errors[worst]:.1e} of {worst}, bound {bound:.0e}, {len(errors)} arrays")
    far = {name: error for name, error in errors.items() if not error <= bound}
    lines = [f"  {name}: relative error {error:.3e}, bound {bound:.0e}" for name, error in far.items()]
    assert not far, f"seed {seed}, {len(far)} of {len(errors)} arrays differ:\n" + "\n".join(lines)
