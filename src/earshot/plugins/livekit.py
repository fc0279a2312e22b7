"""Earshot as a speech-to-text plug-in of LiveKit agents (1.8 or newer).

    from earshot.plugins.livekit import STT

    session = AgentSession(stt=STT(url="ws://127.0.0.1:8080"), turn_detection="stt", ...)

| event | speech event |
|---|---|
| `speech_started` | START_OF_SPEECH |
| `partial` | INTERIM_TRANSCRIPT |
| `speculative_endpoint` | PREFLIGHT_TRANSCRIPT: generation may start |
| `speculation_cancelled` | none: LiveKit drops what it began when the transcript changes |
| `final` | FINAL_TRANSCRIPT, END_OF_SPEECH |

Intent and slots are in `alternatives[0].metadata`. livekit-agents is imported when a class is asked
for.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from earshot.core.errors import MissingExtraError
from earshot.plugins.client import DEFAULT_URL, ClientStream, StreamRefusedError, open_stream

if TYPE_CHECKING:
    STT: Any
    SpeechStream: Any

__all__ = ["STT", "SpeechStream"]

BLOCK_S = 0.5  # recordings are sent in such pieces


def __getattr__(name: str) -> Any:
    if name in __all__:
        return _classes()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _classes() -> dict[str, type[Any]]:
    try:
        from livekit import rtc
        from livekit.agents import (
            DEFAULT_API_CONNECT_OPTIONS,
            APIConnectionError,
            APIConnectOptions,
            APIStatusError,
            stt,
            utils,
        )
        from livekit.agents.types import NOT_GIVEN, TimedString
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] != "livekit":
            raise
        raise MissingExtraError(
            "the LiveKit plug-in", package="livekit-agents", extra="peers"
        ) from None

    import asyncio

    kinds = stt.SpeechEventType

    def api_error(error: StreamRefusedError) -> Exception:
        found: Exception = APIConnectionError(str(error))
        if not error.is_retryable:
            found = APIStatusError(str(error), status_code=400, retryable=False)
        return found

    def speech(event: dict[str, Any], offset_s: float) -> stt.SpeechData:
        words = event.get("words") or []
        start_s = event.get("start_s", words[0]["start_s"] if words else 0.0)
        end_s = event.get("end_s", event["t_s"])
        extra = {key: event[key] for key in ("intent", "slots", "spec_id") if key in event}
        return stt.SpeechData(
            language="en",
            text=event["text"],
            start_time=start_s + offset_s,
            end_time=end_s + offset_s,
            confidence=event.get("confidence", 0.0),
            words=[
                TimedString(
                    text=word["word"],
                    start_time=word["start_s"] + offset_s,
                    end_time=word["end_s"] + offset_s,
                    confidence=word["confidence"],
                )
                for word in words
            ]
            or None,
            metadata=extra or None,
        )

    class STT(stt.STT):
        """Speech to text by an Earshot server.

        Args:
            url: The server, such as "ws://127.0.0.1:8080".
            token: API token, if the server wants one.
            hotwords: Phrases to expect.
        """

        def __init__(
            self,
            *,
            url: str = DEFAULT_URL,
            token: str | None = None,
            hotwords: tuple[str, ...] | list[str] = (),
        ) -> None:
            super().__init__(
                capabilities=stt.STTCapabilities(
                    streaming=True,
                    interim_results=True,
                    aligned_transcript="word",
                    offline_recognize=True,
                    manual_flush=True,
                )
            )
            self.url = url
            self.token = token
            self.hotwords = tuple(hotwords)

        @property
        def provider(self) -> str:
            """Who makes it."""
            return "earshot"

        async def _recognize_impl(
            self, buffer: Any, *, language: Any = NOT_GIVEN, conn_options: APIConnectOptions
        ) -> stt.SpeechEvent:
            """Recognise a recording."""
            frame = utils.merge_frames(buffer) if isinstance(buffer, list) else buffer
            finals: list[dict[str, Any]] = []
            try:
                async with open_stream(
                    self.url,
                    sample_rate_hz=frame.sample_rate,
                    token=self.token,
                    hotwords=self.hotwords,
                ) as stream:
                    sender = asyncio.create_task(_send_all(stream, _mono(frame), frame.sample_rate))
                    try:
                        async for event in stream.events():
                            if event["type"] == "final" and event["text"]:
                                finals.append(event)
                    finally:
                        sender.cancel()
                        await asyncio.gather(sender, return_exceptions=True)
            except StreamRefusedError as err:
                raise api_error(err) from None
            whole: dict[str, Any] = {
                "text": " ".join(final["text"] for final in finals),
                "words": [word for final in finals for word in final["words"]],
                "confidence": min((final["confidence"] for final in finals), default=0.0),
                "start_s": finals[0]["start_s"] if finals else 0.0,
                "end_s": finals[-1]["end_s"] if finals else 0.0,
                "t_s": 0.0,
            }
            return stt.SpeechEvent(kinds.FINAL_TRANSCRIPT, alternatives=[speech(whole, 0.0)])

        def stream(
            self,
            *,
            language: Any = NOT_GIVEN,
            conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        ) -> SpeechStream:
            """Open a live stream."""
            return SpeechStream(stt=self, conn_options=conn_options, sample_rate=16_000)

    class SpeechStream(stt.RecognizeStream):
        """One live stream; made by `STT.stream`."""

        async def _run(self) -> None:
            owner = self._stt
            try:
                async with open_stream(
                    owner.url, sample_rate_hz=16_000, token=owner.token, hotwords=owner.hotwords
                ) as stream:
                    sender = asyncio.create_task(self._send(stream))
                    try:
                        async for event in stream.events():
                            self._follow(event)
                    finally:
                        sender.cancel()
                        await asyncio.gather(sender, return_exceptions=True)
            except StreamRefusedError as err:
                raise api_error(err) from None

        async def _send(self, stream: ClientStream) -> None:
            async for item in self._input_ch:
                if isinstance(item, rtc.AudioFrame):
                    await stream.send(_mono(item))
                else:
                    await stream.flush()
            await stream.end()

        def _follow(self, event: dict[str, Any]) -> None:
            kind = event["type"]
            request_id = event.get("utterance", "")
            if kind == "speech_started":
                self._say(kinds.START_OF_SPEECH, request_id)
            elif kind == "partial" and event["text"]:
                self._say(kinds.INTERIM_TRANSCRIPT, request_id, event)
            elif kind == "speculative_endpoint" and event["text"]:
                self._say(kinds.PREFLIGHT_TRANSCRIPT, request_id, event)
            elif kind == "final":
                if event["text"]:
                    self._say(kinds.FINAL_TRANSCRIPT, request_id, event)
                self._say(kinds.END_OF_SPEECH, request_id)
            elif kind == "closed":
                usage = stt.RecognitionUsage(audio_duration=event["audio_s"])
                self._event_ch.send_nowait(
                    stt.SpeechEvent(kinds.RECOGNITION_USAGE, recognition_usage=usage)
                )

        def _say(self, kind: Any, request_id: str, event: dict[str, Any] | None = None) -> None:
            said = [speech(event, self.start_time_offset)] if event is not None else []
            self._event_ch.send_nowait(
                stt.SpeechEvent(kind, request_id=request_id, alternatives=said)
            )

    return {"STT": STT, "SpeechStream": SpeechStream}


async def _send_all(stream: ClientStream, samples: bytes, sample_rate_hz: int) -> None:
    size = 2 * round(BLOCK_S * sample_rate_hz)
    for at in range(0, len(samples), size):
        await stream.send(samples[at : at + size])
    await stream.end()


def _mono(frame: Any) -> bytes:
    """The samples of a frame, channels averaged."""
    import numpy as np

    samples = np.frombuffer(frame.data, np.int16)
    if frame.num_channels > 1:
        samples = samples.reshape(-1, frame.num_channels).mean(axis=1).astype(np.int16)
    return samples.tobytes()
