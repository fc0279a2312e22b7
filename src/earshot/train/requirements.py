"""What making a model from text needs of a machine, found out before any work is done.

Needs nothing of the extra itself, so that it can name what is missing of it. Knows nothing of
what a user wants to train.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["ENGINE_PACKAGES", "missing_engine_packages", "missing_packages"]

# What training imports, in the order in which a user would meet it.
_PACKAGES = (
    "torch", "lightning", "lhotse", "scipy", "pyroomacoustics", "home_assistant_intents",
    "pocketsphinx",
)  # fmt: skip

# Debian's packages, and a file or program of each that shows it is there.
ENGINE_PACKAGES: Mapping[str, str] = {
    "espeak-ng": "espeak-ng",
    "flite": "flite",
    "festival": "festival",
    "festvox-kallpc16k": "/usr/share/festival/voices/english/kal_diphone",
    "festvox-kdlpc16k": "/usr/share/festival/voices/english/ked_diphone",
    "festvox-us-slt-hts": "/usr/share/festival/voices/us/cmu_us_slt_arctic_hts",
    "libttspico-utils": "pico2wave",
    "rhvoice": "RHVoice-test",
    "rhvoice-english": "/usr/share/RHVoice/voices/bdl",
}


def missing_packages() -> list[str]:
    """Python packages of the extra `[train]` that are not installed."""
    return [name for name in _PACKAGES if importlib.util.find_spec(name) is None]


def missing_engine_packages() -> Sequence[str]:
    """Debian packages of speech engines and voices that are not installed."""
    return [
        package
        for package, sign in ENGINE_PACKAGES.items()
        if not (Path(sign).is_dir() if sign.startswith("/") else shutil.which(sign))
    ]
