"""Words of the house: errors, clocks, transcripts, and what `import earshot` gives."""

import pickle
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import earshot
from earshot.core.errors import (
    AudioError,
    EarshotError,
    ManifestError,
    MissingExtraError,
    ModelFileError,
)
from earshot.core.features import ENCODER_CLOCK, FEATURE_CLOCK, Features, FrameClock
from earshot.core.transcript import Transcript, Word


@pytest.mark.parametrize("kind", [ModelFileError, AudioError, ManifestError])
def test_located_errors_read_as_one_sentence_each(kind):
    err = kind("a.ear", "ends at byte 4 but the file has 3", remedy="Copy it again.")
    assert str(err) == "a.ear: ends at byte 4 but the file has 3. Copy it again."
    assert (err.where, err.problem, err.remedy) == (
        "a.ear",
        "ends at byte 4 but the file has 3",
        "Copy it again",
    )
    assert isinstance(err, EarshotError)


def test_errors_cross_a_process_boundary_whole():
    err = pickle.loads(pickle.dumps(ModelFileError("a.ear", "is odd", remedy="Mend it")))
    assert type(err) is ModelFileError
    assert err.path == "a.ear"
    assert str(err) == "a.ear: is odd. Mend it."


def test_a_missing_extra_names_its_installation():
    assert str(MissingExtraError("the microphone", package="sounddevice", extra="mic")) == (
        "the microphone: needs the package 'sounddevice', which is not installed. "
        "Install it with `pip install 'earshot[mic]'`."
    )


def test_clocks_are_the_ones_of_the_format():
    assert FEATURE_CLOCK.start_s(3) == 0.03
    assert ENCODER_CLOCK.start_s(25) == 1.0
    assert ENCODER_CLOCK.shift_samples == 4 * FEATURE_CLOCK.shift_samples


@given(st.integers(0, 10**9), st.integers(1, 10**5))
def test_a_frame_starts_inside_the_signal(samples, shift):
    clock = FrameClock(shift_samples=shift)
    frames = clock.num_frames(samples)
    # The last frame covers at least half of its shift, one more would cover less.
    assert abs(frames * shift - samples) <= shift / 2
    assert clock.start_sample(frames) == frames * shift


@pytest.mark.parametrize(("shift", "rate"), [(0, 16000), (160, 0), (-1, 1)])
def test_a_clock_must_move(shift, rate):
    with pytest.raises(ValueError, match="both must be positive"):
        FrameClock(shift_samples=shift, sample_rate_hz=rate)


def test_features_have_two_axes():
    with pytest.raises(ValueError) as caught:
        Features(np.zeros(80, np.float32))
    assert str(caught.value) == "features: frames has shape (80,); it must be (T, F)."


def test_transcript_text_and_json():
    transcript = Transcript(
        (Word("turn", 0.04, 0.2, 0.912345), Word("on", 0.2, 0.28000001, 1.0)), 1.23456
    )
    assert transcript.text == "turn on"
    assert transcript.as_dict() == {
        "text": "turn on",
        "words": [
            {"word": "turn", "start_s": 0.04, "end_s": 0.2, "confidence": 0.9123},
            {"word": "on", "start_s": 0.2, "end_s": 0.28, "confidence": 1.0},
        ],
        "duration_s": 1.235,
    }
    assert Transcript(()).text == ""


def test_exported_names_are_sorted_and_all_there():
    assert earshot.__all__ == sorted(earshot.__all__)
    assert dir(earshot) == earshot.__all__
    for name in earshot.__all__:
        assert getattr(earshot, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Recogniser'"):
        earshot.Recogniser  # noqa: B018


def test_every_public_name_is_exported():
    defined = {
        name
        for name, value in vars(earshot).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("earshot.")
    }
    assert defined <= set(earshot.__all__)


def test_the_version_is_the_one_of_the_project_file(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert earshot.__version__ == project["version"]


def test_import_is_light():
    """`import earshot` loads neither numpy nor the engine, and takes under 0.3 s of CPU."""
    code = (
        "import sys, time; at = time.process_time(); import earshot; "
        "print(time.process_time() - at, 'numpy' in sys.modules, 'earshot._native' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, numpy_loaded, engine_loaded = out.stdout.split()
    assert (numpy_loaded, engine_loaded) == ("False", "False")
    assert float(seconds) < 0.3
