"""End-pointers: what they decide, that more evidence never decides less, and how they are kept."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot import ConfigError, ModelFileError
from earshot.decode.endpoint import (
    METADATA_KEY,
    EndpointConfig,
    EndpointDetector,
    EndpointRule,
    Evidence,
    OperatingPoint,
    Sentence,
    SpeechSignal,
    Verdict,
    as_metadata,
    config_of,
    is_numeric,
    is_over,
    sentence_of,
    stored_endpoint_config,
)

SECONDS = st.integers(0, 60).map(lambda frames: 0.04 * frames)
POINTS = st.builds(
    OperatingPoint,
    pause_s=SECONDS,
    closed_pause_s=SECONDS,
    complete_pause_s=SECONDS,
    open_pause_s=SECONDS,
    number_pause_s=SECONDS,
    min_pause_s=SECONDS,
    end_probability=st.floats(0, 2),
)
EVIDENCE = st.builds(
    Evidence,
    trailing_s=SECONDS,
    expected_s=SECONDS,
    silence_s=st.none() | SECONDS,
    utterance_s=SECONDS,
    nonsilence=st.booleans(),
    changed=st.booleans(),
    speech=st.booleans(),
    sentence=st.sampled_from(list(Sentence)),
    numeric=st.booleans(),
    end_probability=st.none() | st.floats(0, 1),
)
QUIET = Evidence(
    trailing_s=0.0,
    expected_s=0.0,
    silence_s=None,
    utterance_s=1.0,
    nonsilence=True,
    changed=False,
    speech=False,
)


def after(pause_s: float, **more: object) -> Evidence:
    return replace(QUIET, trailing_s=pause_s, expected_s=pause_s, utterance_s=1 + pause_s, **more)


@given(evidence=EVIDENCE, point=POINTS, longer=SECONDS, surer=st.floats(0, 1))
def test_longer_pauses_and_surer_heads_never_keep_an_utterance_open(evidence, point, longer, surer):
    if not is_over(evidence, point):
        return
    longer_s = evidence.expected_s + longer
    silence_s = None if evidence.silence_s is None else evidence.silence_s + longer
    assert is_over(replace(evidence, expected_s=longer_s, silence_s=silence_s), point)
    if evidence.end_probability is not None:
        raised = max(evidence.end_probability, surer)
        assert is_over(replace(evidence, end_probability=raised), point)


def test_the_grammar_waits_for_the_rest_and_is_quick_where_nothing_follows():
    point = EndpointConfig().final
    for sentence, pause_s in (
        (Sentence.CLOSED, point.closed_pause_s),
        (Sentence.COMPLETE, point.complete_pause_s),
        (Sentence.NONE, point.pause_s),
        (Sentence.OPEN, point.open_pause_s),
    ):
        assert is_over(after(pause_s, sentence=sentence), point)
        assert not is_over(after(pause_s - 0.04, sentence=sentence), point)


def test_digits_are_given_time_unless_the_grammar_is_done():
    point = replace(EndpointConfig().final, pause_s=0.2, number_pause_s=0.6)
    assert is_over(after(0.2), point)
    assert not is_over(after(0.56, numeric=True, end_probability=1.0), point)
    assert is_over(after(0.6, numeric=True), point)
    closed = after(point.closed_pause_s, numeric=True, sentence=Sentence.CLOSED)
    assert is_over(closed, point)


@pytest.mark.parametrize(
    ("word", "numeric"),
    [("seven", True), ("7", True), ("b", True), ("oh", True), ("a", False), ("light", False)],
)
def test_words_that_others_of_their_kind_follow(word, numeric):
    assert is_numeric(word) is numeric
    assert is_numeric(word.upper()) is numeric


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (None, Sentence.NONE),
        ((True, 0.0, 0.0, 0.5, 4), Sentence.OPEN),
        ((True, 0.9, 0.1, 0.5, 4), Sentence.COMPLETE),
        ((True, 0.9, 0.9, 0.5, 4), Sentence.CLOSED),
        ((True, 0.9, 0.9, 40.0, 4), Sentence.NONE),  # free speech is far likelier
        ((True, 1.0, 1.0, 0.0, 0), Sentence.NONE),  # nothing was said yet
        ((False, 0.0, 0.0, 0.0, 3), Sentence.NONE),
    ],
)
def test_what_the_grammar_says(end, sentence):
    assert sentence_of(end, EndpointConfig()) is sentence
    assert sentence_of(end, EndpointConfig(use_grammar=False)) is Sentence.NONE


def verdicts(config: EndpointConfig, rows: list[Evidence]) -> list[Verdict]:
    detector = EndpointDetector(config)
    return [detector.update(row) for row in rows]


def silence(config: EndpointConfig, frames: int = 100, **more: object) -> list[Verdict]:
    return verdicts(config, [after(0.04 * n, **more) for n in range(frames)])


def test_the_rules_are_those_of_sherpa_onnx():
    """Its defaults: 2.4 s with nothing decoded, 1.2 s behind something, 20 s at most."""
    config = EndpointConfig(use_rules_only=True, speculation=False)
    assert silence(config).index(Verdict.END) == 30
    assert silence(config, nonsilence=False).index(Verdict.END) == 60
    long = [replace(QUIET, utterance_s=0.04 * n) for n in range(600)]
    assert verdicts(config, long).index(Verdict.TOO_LONG) == 500


def test_both_end_pointers_run_at_once():
    config = EndpointConfig()
    told = silence(config)
    quick, sure = told.index(Verdict.SPECULATE), told.index(Verdict.END)
    assert 0.04 * quick == pytest.approx(config.speculative.pause_s)
    assert 0.04 * sure == pytest.approx(config.final.pause_s)
    assert told.count(Verdict.SPECULATE) == 1


def test_speech_that_goes_on_takes_a_speculation_back():
    config = EndpointConfig()
    row = [after(0.48)] * 3 + [after(0.48, speech=True)] * 5
    told = verdicts(config, row)
    assert Verdict.SPECULATE in told[:3]
    assert told.index(Verdict.SPEECH_RESUMED) == 7  # 0.2 s of it
    # The last word may still sound when the speculation is made: that has not gone on.
    still = [after(0.48, speech=True)] * 9
    assert verdicts(config, still).count(Verdict.SPEECH_RESUMED) == 0


def test_a_speculation_times_out_once():
    point = replace(EndpointConfig().final, pause_s=60.0)
    never = EndpointRule(
        must_contain_nonsilence=True, min_trailing_silence_s=3600, min_utterance_s=0
    )
    config = EndpointConfig(final=point, rule1=never, rule2=never, speculation_timeout_s=1.0)
    told = silence(config, frames=200)
    assert told.count(Verdict.SPECULATE) == told.count(Verdict.TIMEOUT) == 1
    assert told.index(Verdict.TIMEOUT) - told.index(Verdict.SPECULATE) == 25


@given(rows=st.lists(EVIDENCE, max_size=60), speculation=st.booleans())
@settings(max_examples=50)
def test_at_most_one_speculation_is_open(rows, speculation):
    detector = EndpointDetector(EndpointConfig(speculation=speculation))
    is_open = False
    for row in rows:
        verdict = detector.update(row)
        if verdict is Verdict.SPECULATE:
            assert speculation and not is_open
            is_open = True
        elif verdict in (Verdict.SPEECH_RESUMED, Verdict.TIMEOUT):
            assert is_open
            is_open = False
        assert detector.speculating is is_open


def test_blanks_count_little_while_the_head_hears_speech():
    """An unknown word makes no piece and must not end the utterance; babble must, in the end."""
    heard = after(1.2, silence_s=0.0)
    assert heard.pause_s == 0.0
    assert heard.rule_s == pytest.approx(0.4)
    assert after(3.6, silence_s=0.0).rule_s == pytest.approx(1.2)
    assert after(1.2, silence_s=1.1).rule_s == pytest.approx(1.1)
    assert after(1.2).rule_s == 1.2


def test_speech_stands_out_of_a_noise_floor():
    signal = SpeechSignal(EndpointConfig())
    assert [signal.update(-8.0, None)[0] for _ in range(30)] == [False] * 30
    assert signal.update(-5.0, None) == (True, True)
    assert SpeechSignal(EndpointConfig()).update(-15.9, None) == (False, False)  # digital silence
    assert SpeechSignal(EndpointConfig()).update(-8.0, None) == (False, True)  # who knows yet
    head = SpeechSignal(EndpointConfig())
    assert head.update(-5.0, (math.log(0.9), -9, -9, -9)) == (True, True)
    assert head.update(-5.0, (math.log(0.2), -9, -9, -9)) == (False, True)
    assert head.update(-5.0, (math.log(0.01), -9, -9, -9)) == (False, False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: EndpointConfig(speech_probability=1.5),
            "endpoint.speech_probability is 1.5; it must lie in 0.0..1.0.",
        ),
        (
            lambda: replace(EndpointConfig().final, pause_s=float("nan")),
            "endpoint.pause_s is nan; it must lie in 0.0..60.0.",
        ),
        (
            lambda: EndpointConfig().with_max_utterance_s(0.0),
            "endpoint.rule3.min_utterance_s is 0.0; it must be at least 0.04, or no utterance "
            "could have a word.",
        ),
        (
            lambda: config_of({"rule4": {}}),
            "endpoint: unknown key 'rule4'; known are "
            + ", ".join(sorted(each.name for each in fields(EndpointConfig)))
            + ".",
        ),
        (
            lambda: config_of({"final": {"pause_s": True}}),
            "endpoint.final.pause_s is True; it must be a number.",
        ),
        (
            lambda: config_of({"use_head": 1}),
            "endpoint.use_head is 1; it must be true or false.",
        ),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == message


@given(speculative=POINTS, final=POINTS, idle_s=st.floats(0.04, 60), use_head=st.booleans())
def test_settings_survive_a_model_file(speculative, final, idle_s, use_head):
    config = EndpointConfig(speculative=speculative, final=final, idle_s=idle_s, use_head=use_head)
    header = {"metadata": as_metadata(config)}
    assert stored_endpoint_config(header, where="x.ear") == config


def test_a_model_without_settings_or_with_bad_ones():
    assert stored_endpoint_config({}, where="x.ear") is None
    assert stored_endpoint_config({"metadata": {METADATA_KEY: "{}"}}, where="x.ear") == (
        EndpointConfig()
    )
    for text in ("{", "[]", '{"final": 3}', '{"idle_s": -1}'):
        with pytest.raises(ModelFileError, match="earshot endpoint tune"):
            stored_endpoint_config({"metadata": {METADATA_KEY: text}}, where="x.ear")
