import pytest

from earshot.core.errors import ConfigError
from earshot.core.transcript import Transcript, Word
from earshot.decode.result import to_transcript
from earshot.decode.search import SearchConfig


def test_frames_become_seconds():
    result = {
        "tokens": [3, 4],
        "pieces": ["\u2581turn", "\u2581on"],
        "frames": [5, 9],
        "log_probs": [-0.1, -0.2],
        "text": "turn on",
        "words": [
            {"word": "turn", "start_frame": 5, "end_frame": 6, "confidence": 0.9},
            {"word": "on", "start_frame": 9, "end_frame": 10, "confidence": 0.8},
        ],
        "num_frames": 25,
        "score": -0.3,
    }
    assert to_transcript(result, duration_s=1.0) == Transcript(
        (Word("turn", 0.2, 0.24, 0.9), Word("on", 0.36, 0.4, 0.8)), 1.0
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "viterbi"},
            "search.method is 'viterbi'; it must be greedy_search or modified_beam_search.",
        ),
        ({"max_active_paths": 0}, "search.max_active_paths is 0; it must lie in 1..64."),
        (
            {"max_symbols_per_frame": 101},
            "search.max_symbols_per_frame is 101; it must lie in 0..100.",
        ),
        (
            {"blank_penalty": float("nan")},
            "search.blank_penalty is nan; it must lie in -100.0..100.0.",
        ),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError) as caught:
        SearchConfig(**settings)
    assert str(caught.value) == message
