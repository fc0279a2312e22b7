"""Makes `ear_builder` importable for the tests beside it: pytest imports by path alone here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
