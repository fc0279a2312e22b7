"""The REST interface, spoken by OpenAI's own client, curl's kind of requests, and strangers."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from earshot.core.events import Final, Partial
from earshot.serve.problems import ApiError
from earshot.serve.transcriptions import DeltaWriter, parse_form
from tests.serve.conftest import (
    DIGITS,
    DIGITS_TEXT,
    LIGHTS,
    LIGHTS_TEXT,
    TWO_TEXTS,
    RunningServer,
    int16_of,
    two_utterances,
)

openai = pytest.importorskip("openai", reason="openai is not installed (pip install openai)")


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.http}/v1", api_key="any", max_retries=0) as made:
        yield made


def post(server: RunningServer, path: Path = LIGHTS, **fields: Any) -> httpx.Response:
    data = {"model": "any", **fields}
    with open(path, "rb") as file:
        return httpx.post(
            f"{server.http}/v1/audio/transcriptions",
            data={k: v for k, v in data.items() if v is not None},
            files={"file": (path.name, file)},
            timeout=30,
        )


def test_json(client: Any) -> None:
    with open(LIGHTS, "rb") as file:
        found = client.audio.transcriptions.create(model="whisper-1", file=file)
    assert found.text == LIGHTS_TEXT
    assert found.usage.type == "duration"
    assert found.usage.seconds == pytest.approx(soundfile.info(LIGHTS).duration, abs=1e-3)
    assert found.logprobs is None


@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
def test_plain_forms_come_as_text(client: Any, form: str) -> None:
    with open(LIGHTS, "rb") as file:
        found = client.audio.transcriptions.create(model="m", file=file, response_format=form)
    assert isinstance(found, str)
    assert LIGHTS_TEXT in found
    assert found.startswith({"text": "turn", "srt": "1\n00:00:00,", "vtt": "WEBVTT\n\n"}[form])


def test_verbose_json_with_words_and_segments(client: Any) -> None:
    with open(DIGITS, "rb") as file:
        found = client.audio.transcriptions.create(
            model="m",
            file=file,
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
    assert found.text == DIGITS_TEXT
    assert [word.word for word in found.words] == DIGITS_TEXT.split()
    assert all(word.start < word.end for word in found.words)
    assert " ".join(segment.text for segment in found.segments) == DIGITS_TEXT
    assert found.segments[0].start <= found.words[0].start
    assert found.language == "en"
    assert found.duration == pytest.approx(soundfile.info(DIGITS).duration, abs=1e-3)


def test_diarized_json_does_not_invent_speakers(client: Any) -> None:
    with open(LIGHTS, "rb") as file:
        found = client.audio.transcriptions.create(
            model="m", file=file, response_format="diarized_json", chunking_strategy="auto"
        )
    assert found.text == LIGHTS_TEXT
    assert [segment.speaker for segment in found.segments] == ["unknown"]


def test_logprobs_concatenate_to_the_text(client: Any) -> None:
    with open(LIGHTS, "rb") as file:
        found = client.audio.transcriptions.create(model="m", file=file, include=["logprobs"])
    assert "".join(token.token for token in found.logprobs) == found.text
    assert all(token.logprob <= 0 for token in found.logprobs)


def test_stream_of_deltas_that_only_append(client: Any) -> None:
    wav = io.BytesIO()
    soundfile.write(wav, two_utterances(), 16_000, format="WAV")
    events = list(
        client.audio.transcriptions.create(model="m", file=("two.wav", wav.getvalue()), stream=True)
    )
    assert [event.type for event in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1)
    assert len(events) > 2
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == TWO_TEXTS
    assert "".join(event.delta for event in events[:-1]) == TWO_TEXTS


def test_stream_on_the_wire_ends_in_done(server: RunningServer) -> None:
    answer = post(server, stream="true", response_format="diarized_json")
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    kinds = [json.loads(line[6:])["type"] for line in lines[:-1]]
    assert kinds[-2:] == ["transcript.text.segment", "transcript.text.done"]


def test_models(client: Any) -> None:
    (model,) = client.models.list().data
    assert model.id == "assistant-en"
    assert client.models.retrieve("assistant-en").created == model.created
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"response_format": "docx"}, "response_format"),
        ({"response_format": "srt", "stream": "true"}, "response_format"),
        ({"language": "de"}, "language"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "7"}, "temperature"),
        ({"stream": "perhaps"}, "stream"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"timestamp_granularities[]": "page", "response_format": "verbose_json"},
         "timestamp_granularities"),
        ({"include[]": "everything"}, "include"),
        ({"include[]": "logprobs", "response_format": "text"}, "include"),
        ({"chunking_strategy": "[" * 2000}, "chunking_strategy"),
        ({"known_speaker_names[]": "ann"}, "known_speaker_names"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_error_that_names_the_field(
    server: RunningServer, fields: dict[str, Any], param: str
) -> None:
    answer = post(server, **fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


@pytest.mark.parametrize("language", ["en", "en-US", "EN_gb", "English", ""])
def test_the_models_language_in_any_writing(server: RunningServer, language: str) -> None:
    assert post(server, language=language).json()["text"] == LIGHTS_TEXT


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "empty.wav"),
        (b"hello", "talk.mp3"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "cut.wav"),
        (b"\0\0\0\x18ftypmp42" + bytes(100), "broken.mp4"),
        (b"\x1a\x45\xdf\xa3" + bytes(100), "broken.webm"),
        (b"\xff\xf1" + bytes(1000), "broken.aac"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "list.m3u8"),
        (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "list.ffconcat"),
    ],
)
def test_what_is_not_sound_is_an_error(server: RunningServer, content: bytes, name: str) -> None:
    answer = httpx.post(
        f"{server.http}/v1/audio/transcriptions",
        data={"model": "m"},
        files={"file": (name, content)},
    )
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_audio", "file")
    assert error["message"].startswith(name)


def encoded(form: str, codec: str, samples: np.ndarray, rate_hz: int) -> bytes:
    """The clip as a browser or a phone would send it."""
    av = pytest.importorskip("av", reason="PyAV is not installed ([serve])")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        stream.time_base = Fraction(1, rate_hz)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate_hz, 0
        resampler = av.AudioResampler(
            format=stream.format.name, layout="mono", rate=rate_hz,
            frame_size=stream.codec_context.frame_size or 1024,
        )  # fmt: skip
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("form", "codec"),
    [("mp4", "aac"), ("webm", "libopus"), ("matroska", "flac"), ("adts", "aac")],
)
def test_containers_of_browsers_and_phones(server: RunningServer, form: str, codec: str) -> None:
    content = encoded(form, codec, int16_of(LIGHTS, silence_s=0.3, rate_hz=48_000), 48_000)
    answer = httpx.post(
        f"{server.http}/v1/audio/transcriptions",
        data={"model": "m"},
        files={"file": ("clip", content)},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"] == LIGHTS_TEXT


def test_an_upload_beyond_the_limits(serving: Any) -> None:
    server = serving(limits={"max_upload_bytes": 60_000, "max_audio_s": 1.0})
    big = io.BytesIO()
    soundfile.write(big, np.zeros(50_000, np.int16), 16_000, format="WAV")
    answer = httpx.post(
        f"{server.http}/v1/audio/transcriptions",
        data={"model": "m"},
        files={"file": ("big.wav", big.getvalue())},
    )
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "content_too_large"

    def endless() -> Iterator[bytes]:  # no content-length to go by
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(100):
            yield bytes(1000)

    answer = httpx.post(
        f"{server.http}/v1/audio/transcriptions",
        content=endless(),
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code == 413

    small = io.BytesIO()  # a second is the most, and FLAC makes much of little
    soundfile.write(small, np.zeros(64_000, np.int16), 16_000, format="FLAC")
    answer = httpx.post(
        f"{server.http}/v1/audio/transcriptions",
        data={"model": "m"},
        files={"file": ("long.flac", small.getvalue())},
    )
    assert answer.status_code == 400
    assert "more than 1 s" in answer.json()["error"]["message"]
    assert post(server, LIGHTS, model=None).json()["error"]["param"] == "model"


@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"--x"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: nonsense"),
        ("multipart/form-data; boundary=x", b"--x\r\n\xff\xfe: \r\n\r\n--x--"),
        ("multipart/form-data; boundary=" + "x" * 5000, b""),
    ],
)
def test_forms_that_are_none(server: RunningServer, content_type: str, content: bytes) -> None:
    answer = httpx.post(
        f"{server.http}/v1/audio/transcriptions",
        content=content,
        headers={"content-type": content_type},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith(".")


def test_the_http_bridge_of_wyoming(server: RunningServer) -> None:
    wav = io.BytesIO()
    soundfile.write(wav, int16_of(LIGHTS), 16_000, format="WAV")
    url = f"{server.http}/api/speech-to-text"
    answer = httpx.post(url, content=wav.getvalue(), params={"language": "en"})
    assert answer.json() == {"text": LIGHTS_TEXT}
    assert httpx.post(url, content=b"no").status_code == 400
    assert httpx.post(url, content=wav.getvalue(), params={"language": "xx"}).status_code == 400


def test_unknown_paths_and_methods_answer_in_the_same_form(server: RunningServer) -> None:
    assert httpx.get(f"{server.http}/v1/nothing").json()["error"]["message"].endswith(".")
    wrong = httpx.get(f"{server.http}/v1/audio/transcriptions")
    assert wrong.status_code == 405
    assert wrong.json()["error"]["type"] == "invalid_request_error"


def test_form_fields_in_both_spellings_of_lists() -> None:
    request = parse_form(
        [
            ("model", "m"),
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "word"),
            ("timestamp_granularities", "segment"),
            ("keywords[]", " tea "),
        ],
        language="en",
    )
    assert request.granularities == ("word", "segment")
    assert request.keywords == ("tea",)
    with pytest.raises(ApiError) as caught:
        parse_form([("model", "m"), ("prompt", "x" * 100_001)], language="en")
    assert caught.value.param == "prompt"


def partial(utterance: str, text: str, stable: int) -> Partial:
    return Partial(utterance=utterance, t_s=0.0, text=text, stable_chars=stable)


def final(utterance: str, text: str) -> Final:
    return Final(
        utterance=utterance, t_s=0.0, spec_id=None, matched=False, text=text, words=(),
        confidence=1.0, start_s=0.0, end_s=1.0, reason="end",
    )  # fmt: skip


def test_deltas_hold_back_what_may_change() -> None:
    writer = DeltaWriter()
    given = [
        writer.push(event)
        for event in (
            partial("u1", "turn of", 4),
            partial("u1", "turn on the", 8),
            final("u1", "turn on the light"),
            partial("u2", "no", 0),
            final("u2", ""),
            final("u3", "please"),
        )
    ]
    assert given == ["turn", " on", " the light", "", "", " please"]
    assert writer.text == "turn on the light please" == "".join(given)
