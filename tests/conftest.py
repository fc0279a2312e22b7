"""Fixtures every test folder shares.

Knows where real recordings are looked for; knows nothing of what is tested with them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How busy a machine is says nothing about the code: no test of a property fails for its time.
settings.register_profile("earshot", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("earshot")

# Torch's threads wait for each other by spinning: beside other work two are far slower than one.
# Set before any test imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Whose voices a developer has must not decide what tests make.
os.environ.pop("EARSHOT_VOICES", None)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recordings: EARSHOT_DATA, by default ../shared/data of the repository."""
    named = os.environ.get("EARSHOT_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(
            f"no real recordings at {folder}; set EARSHOT_DATA to the folder that holds "
            "librispeech_dev_clean_half, spoken_digits and the other sets"
        )
    return folder
