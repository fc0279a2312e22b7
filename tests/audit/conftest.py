"""The tests share the calibration of benchmarks/audit_calibration.py: one place says what holds."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
