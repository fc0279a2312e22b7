"""The measure of memory sees what a child keeps, and not what its parent held."""

from __future__ import annotations

import numpy as np

from tests.child_memory import child_figures

KEEP = """
kept = bytearray(int(sys.argv[1]) << 20)
kept[::1024] = b"x" * len(kept[::1024])  # touch every page
del kept
print(peak_kib())
"""


def test_a_child_is_weighed_alone_and_its_peak_counts() -> None:
    held = np.ones(150 << 18, np.float32)  # 150 MiB that the parent has touched
    (small,) = child_figures(KEEP, 0)
    (large,) = child_figures(KEEP, 64)
    assert held.nbytes > 100 << 20
    assert small < 100 * 1024
    assert 60 * 1024 < large - small < 80 * 1024
