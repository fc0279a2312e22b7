"""Wyoming, spoken by its own client, by Home Assistant's sequence of events, and by strangers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot.serve.wyoming import samples_of
from earshot.serve.wyoming_frames import MAX_DATA_BYTES, Frame, FrameError, read_frame
from tests.serve.conftest import (
    DIGITS,
    DIGITS_TEXT,
    LIGHTS,
    LIGHTS_TEXT,
    TWO_TEXTS,
    RunningServer,
    int16_of,
    pieces,
    two_utterances,
)

WAIT_S = 20.0
MONO = {"rate": 16_000, "width": 2, "channels": 1}


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, WAIT_S))


async def exchange(server: RunningServer, *frames: bytes, hang_up: bool = True) -> list[Frame]:
    """Send bytes, end the sending side if asked to, and read until the server ends its own."""
    reader, writer = await asyncio.open_connection(*server.wyoming)
    try:
        for frame in frames:
            writer.write(frame)
            await writer.drain()
        if hang_up:
            writer.write_eof()
        found = []
        while (frame := await read_frame(reader, max_payload_bytes=0)) is not None:
            found.append(frame)
        return found
    finally:
        writer.close()
        await writer.wait_closed()


def recording(samples: np.ndarray, *, size: int = 1024) -> list[bytes]:
    chunks = [Frame("audio-chunk", MONO, piece.tobytes()) for piece in pieces(samples, size)]
    frames = [Frame("audio-start", MONO), *chunks, Frame("audio-stop")]
    return [frame.encode() for frame in frames]


def transcript_of(frames: list[Frame]) -> str:
    (found,) = [frame for frame in frames if frame.type == "transcript"]
    return str(found.data["text"])


def test_its_own_client_streams_and_understands_the_answer(server: RunningServer) -> None:
    pytest.importorskip("wyoming", reason="wyoming is not installed (pip install wyoming)")
    from wyoming.asr import (
        Transcribe,
        Transcript,
        TranscriptChunk,
        TranscriptStart,
        TranscriptStop,
    )
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.client import AsyncTcpClient
    from wyoming.info import Describe, Info

    async def talk() -> None:
        async with AsyncTcpClient(*server.wyoming) as client:
            await client.write_event(Describe().event())
            event = await client.read_event()
            assert event is not None
            (program,) = Info.from_event(event).asr
            assert program.installed
            assert program.supports_transcript_streaming
            assert program.models[0].languages == ["en"]

            await client.write_event(Transcribe(language="en-US", context={"turn": 1}).event())
            await client.write_event(AudioStart(16_000, 2, 1).event())
            for piece in pieces(two_utterances(), 1024):
                await client.write_event(AudioChunk(16_000, 2, 1, piece.tobytes()).event())
            await client.write_event(AudioStop().event())
            kinds, text, transcript = [], "", None
            while transcript is None or kinds[-1] != "transcript-stop":
                event = await client.read_event()
                assert event is not None
                kinds.append(event.type)
                if TranscriptChunk.is_type(event.type):
                    text += TranscriptChunk.from_event(event).text
                elif Transcript.is_type(event.type):
                    transcript = Transcript.from_event(event)
            ours = [kind for kind in kinds if kind.startswith("transcript")]
            assert TranscriptStart.is_type(ours[0])
            assert TranscriptStop.is_type(ours[-1])
            assert ours.count("transcript-chunk") > 1
            assert transcript.text == text == TWO_TEXTS
            assert transcript.context == {"turn": 1}

    run(talk())


def test_what_home_assistant_does(server: RunningServer) -> None:
    """Its stt.py: a connection for `describe`, then one an utterance, read up to `transcript`."""

    async def talk(samples: np.ndarray) -> str:
        reader, writer = await asyncio.open_connection(*server.wyoming)
        try:
            writer.write(Frame("transcribe", {"language": "en"}).encode())
            for frame in recording(samples):
                writer.write(frame)
                await writer.drain()
            while True:
                frame = await read_frame(reader, max_payload_bytes=0)
                assert frame is not None, "the connection was lost"
                if frame.type == "transcript":
                    return str(frame.data["text"])
        finally:
            writer.close()
            await writer.wait_closed()

    async def describe() -> Frame:
        reader, writer = await asyncio.open_connection(*server.wyoming)
        writer.write(b'{"type":"describe"}\n')
        frame = await read_frame(reader, max_payload_bytes=0)
        writer.close()
        await writer.wait_closed()
        assert frame is not None
        return frame

    info = run(describe())
    assert info.type == "info"
    assert set(info.data) == {"asr", "tts", "handle", "intent", "wake", "mic", "snd"}
    for part in (info.data["asr"][0], info.data["asr"][0]["models"][0]):
        assert {"name", "attribution", "installed", "description", "version"} <= set(part)
    assert run(talk(int16_of(LIGHTS))) == LIGHTS_TEXT
    assert run(talk(int16_of(DIGITS))) == DIGITS_TEXT


def test_transcribe_may_be_missing_and_a_connection_takes_many(server: RunningServer) -> None:
    frames = run(
        exchange(server, *recording(int16_of(LIGHTS)), *recording(int16_of(DIGITS), size=9999))
    )
    texts = [frame.data["text"] for frame in frames if frame.type == "transcript"]
    assert texts == [LIGHTS_TEXT, DIGITS_TEXT]


def test_silence_is_an_empty_transcript(server: RunningServer) -> None:
    frames = run(exchange(server, *recording(np.zeros(16_000, "<i2"))))
    kinds = [frame.type for frame in frames]
    assert kinds == ["transcript-start", "transcript", "transcript-stop"]
    assert transcript_of(frames) == ""


def test_data_inline_and_apart_and_unknown_events(server: RunningServer) -> None:
    samples = int16_of(LIGHTS).tobytes()
    inline = json.dumps(
        {"type": "audio-chunk", "data": MONO, "payload_length": len(samples)}
    ).encode()
    frames = run(
        exchange(
            server,
            b'{"type":"made-up","data":{"x":[1,2]}}\n',
            b'{"type": "audio-start", "data": {"rate": 16000, "width": 2, "channels": 1, '
            b'"timestamp": null}}\n',
            inline + b"\n" + samples,
            b'{"type":"audio-stop"}\n',
        )
    )
    assert transcript_of(frames) == LIGHTS_TEXT


def test_other_formats_of_sound(server: RunningServer) -> None:
    samples = int16_of(LIGHTS, rate_hz=44_100)
    stereo = np.stack([samples, samples], axis=1).astype("<i4") << 16
    form = {"rate": 44_100, "width": 4, "channels": 2}
    frames = run(
        exchange(
            server,
            Frame("audio-start", form).encode(),
            Frame("audio-chunk", form, stereo.tobytes()).encode(),
            Frame("audio-stop").encode(),
        )
    )
    assert transcript_of(frames) == LIGHTS_TEXT


def test_ping(server: RunningServer) -> None:
    frames = run(exchange(server, Frame("ping", {"text": "there?"}).encode()))
    assert frames == [Frame("pong", {"text": "there?"})]


def test_another_language_is_an_error_and_not_a_wait(server: RunningServer) -> None:
    frames = run(exchange(server, Frame("transcribe", {"language": "de"}).encode()))
    (error,) = frames
    assert error.type == "error"
    assert error.data["code"] == "unsupported_language"


@pytest.mark.parametrize(
    ("frames", "last"),
    [
        ([Frame("audio-start", MONO)], "error"),
        ([Frame("audio-start", MONO), Frame("audio-chunk", MONO, bytes(3200))], "error"),
        ([Frame("audio-start", MONO), Frame("ping")], "error"),
        ([Frame("audio-start", MONO), Frame("audio-stop")], "transcript-stop"),
        ([Frame("ping")], "pong"),
    ],
)
def test_who_falls_silent_without_hanging_up_is_let_go(
    serving: Callable[..., RunningServer], frames: list[Frame], last: str
) -> None:
    server = serving(limits={"idle_timeout_s": 0.4})
    talk = exchange(server, *(frame.encode() for frame in frames), hang_up=False)
    found = run(asyncio.wait_for(talk, 10.0))
    assert found[-1].type == last
    if last == "error":
        assert found[-1].data["code"] == "idle"


def test_with_endpointing_the_answer_comes_before_audio_stop(server: RunningServer) -> None:
    async def talk() -> tuple[str, list[str]]:
        reader, writer = await asyncio.open_connection(*server.wyoming)
        try:
            writer.write(Frame("transcribe", {"vad_sensitivity": "default"}).encode())
            writer.write(Frame("audio-start", MONO).encode())
            for piece in pieces(int16_of(LIGHTS, silence_s=4.0), 1600):
                writer.write(Frame("audio-chunk", MONO, piece.tobytes()).encode())
            await writer.drain()
            kinds, text = [], ""
            while "transcript-stop" not in kinds:
                frame = await read_frame(reader, max_payload_bytes=0)
                assert frame is not None
                kinds.append(frame.type)
                text = frame.data["text"] if frame.type == "transcript" else text
            # Late sound and the late stop are tolerated, and the connection goes on.
            writer.write(Frame("audio-chunk", MONO, bytes(3200)).encode())
            writer.write(Frame("audio-stop").encode())
            writer.write(Frame("ping").encode())
            frame = await read_frame(reader, max_payload_bytes=0)
            assert frame is not None
            assert frame.type == "pong"
            return text, kinds
        finally:
            writer.close()
            await writer.wait_closed()

    text, kinds = run(talk())
    assert text == LIGHTS_TEXT
    assert kinds.index("voice-started") < kinds.index("transcript-chunk")


def test_intents_of_texts(command_server: RunningServer) -> None:
    """`recognize`, and `transcript` as Home Assistant's conversation agent sends it."""
    for kind in ("recognize", "transcript"):
        frames = run(
            exchange(
                command_server,
                Frame("describe").encode(),
                Frame(kind, {"text": "turn on the lights", "context": {"id": 7}}).encode(),
                Frame(kind, {"text": "colourless green ideas"}).encode(),
            )
        )
        info, intent, nothing = frames
        assert [program["name"] for program in info.data["intent"]] == ["earshot"]
        assert intent.type == "intent"
        assert intent.data["name"] == "TurnOn"
        assert {"name": "domain", "value": "light"} in intent.data["entities"]
        assert intent.data["context"] == {"id": 7}
        assert nothing.type == "not-recognized"


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
        b"[]\n",
        b"{}\n",
        b'{"type":7}\n',
        b'{"type":"describe","data":[]}\n',
        b'{"type":"describe","data_length":-1}\n',
        b'{"type":"describe","data_length":1e9}\n',
        b'{"type":"audio-chunk","payload_length":99999999999}\n',
        b'{"type":"describe","data_length":4}\n[1] ',
        b'{"type":"audio-chunk","payload_length":4}\nab',
        b"x" * 100_000,
        b"[" * 60_000 + b"\n",
        Frame("audio-chunk", {"rate": 16_000, "width": 2, "channels": 1}, b"odd").encode(),
        Frame("audio-chunk", {"rate": 0, "width": 2, "channels": 1}, b"").encode(),
        Frame("audio-chunk", {"rate": 16_000, "width": 9, "channels": 1}, b"").encode(),
        Frame("audio-chunk", {"rate": "x", "width": 2, "channels": 1}, b"").encode(),
        Frame("audio-start", {}).encode(),
        Frame("select-program", {"name": "other"}).encode(),
    ],
)
def test_garbage_ends_in_one_error_to_that_client(server: RunningServer, garbage: bytes) -> None:
    frames = run(exchange(server, garbage))
    assert [frame.type for frame in frames] == ["error"]
    assert frames[0].data["text"].endswith(".")
    assert transcript_of(run(exchange(server, *recording(int16_of(LIGHTS))))) == LIGHTS_TEXT


def test_a_client_that_vanishes_leaves_nothing(server: RunningServer) -> None:
    import time

    import httpx

    for _ in range(3):
        with socket.create_connection(server.wyoming) as raw:
            raw.sendall(b"".join(recording(int16_of(LIGHTS))[:5]))
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset
    for _ in range(100):
        if httpx.get(f"{server.http}/healthz").json()["streams"] == 0:
            return
        time.sleep(0.05)
    pytest.fail("streams of clients that are gone stay open")


_data = st.dictionaries(
    st.sampled_from(["text", "rate", "x"]),
    st.none()
    | st.integers(-5, 5)
    | st.sampled_from(["", "ä", "a\nb"])
    | st.lists(st.integers(0, 9)),
    max_size=3,
)
_frames = st.builds(
    Frame, st.sampled_from(["a", "audio-chunk", "é"]), _data, st.binary(max_size=40)
)


def read_all(data: bytes, cuts: list[int]) -> list[Frame]:
    async def read() -> list[Frame]:
        reader = asyncio.StreamReader()
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            reader.feed_data(data[start:end])
        reader.feed_eof()
        found = []
        while (frame := await read_frame(reader, max_payload_bytes=1000)) is not None:
            found.append(frame)
        return found

    return asyncio.run(read())


@settings(max_examples=50)
@given(frames=st.lists(_frames, max_size=4), cuts=st.lists(st.integers(0, 400), max_size=4))
def test_frames_survive_the_wire_however_they_are_cut(frames: list[Frame], cuts: list[int]) -> None:
    data = b"".join(frame.encode() for frame in frames)
    assert read_all(data, sorted(min(cut, len(data)) for cut in cuts)) == frames


@settings(max_examples=50)
@given(frame=_frames)
def test_its_own_reader_and_ours_agree(frame: Frame) -> None:
    """Oracle: the reference implementation reads what we write, and we what it writes."""
    pytest.importorskip("wyoming", reason="wyoming is not installed (pip install wyoming)")
    import io

    from wyoming.event import Event, read_event, write_event

    theirs = read_event(io.BytesIO(frame.encode()))  # type: ignore[arg-type]
    assert theirs is not None
    assert (theirs.type, theirs.data) == (frame.type, dict(frame.data))
    assert (theirs.payload or b"") == frame.payload
    written = io.BytesIO()
    write_event(Event(frame.type, dict(frame.data), frame.payload or None), written)  # type: ignore[arg-type]
    assert read_all(written.getvalue(), []) == [frame]


@settings(max_examples=50)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_frames_or_one_error(data: bytes) -> None:
    with contextlib.suppress(FrameError):
        read_all(data, [])


def test_data_beyond_its_bound_is_refused_before_it_is_read() -> None:
    header = json.dumps({"type": "x", "data_length": MAX_DATA_BYTES + 1}).encode() + b"\n"
    with pytest.raises(FrameError, match="data_length"):
        read_all(header, [])


@given(
    values=st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=8),
    width=st.sampled_from([2, 3, 4]),
    channels=st.integers(1, 3),
)
def test_widths_and_channels_mean_the_same_sound(
    values: list[int], width: int, channels: int
) -> None:
    shift = 8 * (width - 2)
    payload = b"".join(
        (value << shift).to_bytes(width, "little", signed=True) * channels for value in values
    )
    form = {"rate": 16_000, "width": width, "channels": channels}
    _, samples = samples_of(Frame("audio-chunk", form, payload))
    scale = 1 / 32768 if samples.dtype == np.float32 else 1
    np.testing.assert_allclose(samples, np.array(values) * scale, atol=1e-6)
