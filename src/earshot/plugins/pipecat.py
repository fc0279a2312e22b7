"""Earshot as a speech-to-text service of pipecat (1.14 or newer).

    from earshot.plugins.pipecat import EarshotSTTService

    stt = EarshotSTTService(url="ws://127.0.0.1:8080")

Earshot finds the ends of turns itself, so the service recommends turn strategies that leave them to
it. With eager end of turn (on by default) a speculative end-point becomes an
`EagerTranscriptionFrame`, upon which a response may be started, and a withdrawn one an
`EagerEndOfTurnCancelFrame`.

| event | frames |
|---|---|
| `speech_started` | `ProposedUserStartedSpeakingFrame` |
| `partial` | `InterimTranscriptionFrame` |
| `speculative_endpoint` | `EagerTranscriptionFrame` |
| `speculation_cancelled` | `EagerEndOfTurnCancelFrame` |
| `final` | `EagerEndOfTurnCancelFrame` if the speculation did not hold, `TranscriptionFrame` with `finalized`, `ProposedUserStoppedSpeakingFrame` |

The strategies turn what is proposed into `UserStartedSpeakingFrame` and `UserStoppedSpeakingFrame`.
Intent and slots are in `frame.result`. pipecat is imported when the class is asked for.
"""  # noqa: E501

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from earshot.core.errors import MissingExtraError
from earshot.plugins.client import DEFAULT_URL, ClientStream, StreamRefusedError, open_stream

if TYPE_CHECKING:
    EarshotSTTService: Any

__all__ = ["EarshotSTTService"]

RECONNECT_AFTER_S = 1.0


def __getattr__(name: str) -> Any:
    if name == "EarshotSTTService":
        return _service_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _service_class() -> type[Any]:
    try:
        from pipecat.frames.frames import (
            CancelFrame,
            EndFrame,
            ErrorFrame,
            InterimTranscriptionFrame,
            ProposedUserStartedSpeakingFrame,
            ProposedUserStoppedSpeakingFrame,
            StartFrame,
            TranscriptionFrame,
        )
        from pipecat.services.settings import STTSettings
        from pipecat.services.stt_service import STTService
        from pipecat.transcriptions.language import Language
        from pipecat.turns.eager_end_of_turn_mixin import EagerEndOfTurnSTTServiceMixin
        from pipecat.utils.time import time_now_iso8601
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] != "pipecat":
            raise
        raise MissingExtraError(
            "the pipecat service", package="pipecat-ai", extra="peers"
        ) from None

    import asyncio
    from contextlib import AsyncExitStack

    class EarshotSTTService(EagerEndOfTurnSTTServiceMixin, STTService):
        """Speech to text by an Earshot server.

        Args:
            url: The server, such as "ws://127.0.0.1:8080".
            token: API token, if the server wants one.
            hotwords: Phrases to expect.
            enable_eager_end_of_turn: Let a response start on the speculative end-point.
            should_interrupt: Whether speech interrupts the bot.
            sample_rate: Of the sound in the pipeline; None takes the pipeline's own.
            kwargs: Passed on to `STTService`.
        """

        def __init__(
            self,
            *,
            url: str = DEFAULT_URL,
            token: str | None = None,
            hotwords: tuple[str, ...] | list[str] = (),
            enable_eager_end_of_turn: bool = True,
            should_interrupt: bool = True,
            sample_rate: int | None = None,
            **kwargs: Any,
        ) -> None:
            kwargs.setdefault("settings", STTSettings(model="earshot", language=Language.EN))
            super().__init__(
                sample_rate=sample_rate,
                enable_eager_end_of_turn=enable_eager_end_of_turn,
                **kwargs,
            )
            self._url = url
            self._token = token
            self._hotwords = tuple(hotwords)
            self._should_interrupt = should_interrupt
            self._stream: ClientStream | None = None
            self._listening: asyncio.Task[None] | None = None
            self._is_speaking = False

        def can_generate_metrics(self) -> bool:
            """Usage and processing times are reported."""
            return True

        @property
        def supports_ttfs(self) -> bool:
            """The server finds the ends of turns, so there is no wait after them to measure."""
            return False

        def service_metadata_frame(self) -> Any:
            """Recommend turn strategies that leave the ends of turns to the server."""
            frame = super().service_metadata_frame()
            frame.user_turn_strategies = self.recommended_user_turn_strategies(
                enable_interruptions=self._should_interrupt
            )
            return frame

        async def start(self, frame: StartFrame) -> None:
            """Connect; the pipeline knows its sample rate from here on."""
            await super().start(frame)
            opened = asyncio.Event()
            self._listening = self.create_task(self._listen(opened))
            await opened.wait()

        async def stop(self, frame: EndFrame) -> None:
            """Finish what was said, then disconnect."""
            await super().stop(frame)
            if self._stream is not None:
                try:
                    await self._stream.end()
                    if self._listening is not None:
                        await asyncio.wait({self._listening}, timeout=5.0)
                except Exception as err:
                    await self.push_error(error_msg=f"earshot: {err}", exception=err)
            await self._disconnect()

        async def cancel(self, frame: CancelFrame) -> None:
            """Disconnect at once."""
            await super().cancel(frame)
            await self._disconnect()

        async def cleanup(self) -> None:
            """Disconnect, however the pipeline ended."""
            await super().cleanup()
            await self._disconnect()

        async def run_stt(self, audio: bytes) -> Any:
            """Send sound; results are pushed as they come.

            Args:
                audio: 16-bit mono at the pipeline's rate.

            Yields:
                None, or an `ErrorFrame` where it could not be sent.
            """
            stream = self._stream
            if stream is not None:
                try:
                    await stream.send(audio)
                except Exception as err:
                    yield ErrorFrame(error=f"earshot: sound cannot be sent ({err})")
                    return
            yield None

        async def _disconnect(self) -> None:
            listening, self._listening = self._listening, None
            if listening is not None:
                await self.cancel_task(listening)
            self._stream = None

        async def _listen(self, opened: asyncio.Event) -> None:
            """Read events, and connect again where the connection is lost."""
            while True:
                try:
                    async with AsyncExitStack() as stack:
                        self._stream = await stack.enter_async_context(
                            open_stream(
                                self._url,
                                sample_rate_hz=self.sample_rate,
                                token=self._token,
                                hotwords=self._hotwords,
                            )
                        )
                        opened.set()
                        async for event in self._stream.events():
                            await self._follow(event)
                        return  # closed by our own end
                except StreamRefusedError as err:
                    self._stream = None
                    opened.set()
                    await self._end_cut_short()
                    await self.push_error(error_msg=f"earshot: {err}", exception=err)
                    if not err.is_retryable:
                        return
                    await asyncio.sleep(RECONNECT_AFTER_S)

        async def _end_cut_short(self) -> None:
            """End a turn that the connection did not live to end."""
            if self._is_speaking:
                self._is_speaking = False
                await self._cancel_eager_end_of_turn()
                await self.broadcast_frame(ProposedUserStoppedSpeakingFrame)

        async def _follow(self, event: dict[str, Any]) -> None:
            kind, text = event["type"], event.get("text", "")
            if kind == "speech_started":
                self._is_speaking = True
                await self.broadcast_frame(ProposedUserStartedSpeakingFrame)
            elif kind == "partial" and text:
                await self.push_frame(
                    InterimTranscriptionFrame(
                        text, self._user_id, time_now_iso8601(), Language.EN, result=event
                    )
                )
            elif kind == "speculative_endpoint":
                await self._push_eager_end_of_turn(
                    text, user_id=self._user_id, language=Language.EN, result=event
                )
            elif kind == "speculation_cancelled":
                await self._cancel_eager_end_of_turn()
            elif kind == "final":
                self._is_speaking = False
                if event["spec_id"] is not None and not event["matched"]:
                    await self._cancel_eager_end_of_turn()
                self._clear_eager_end_of_turn()
                if text:
                    await self.push_frame(
                        TranscriptionFrame(
                            text,
                            self._user_id,
                            time_now_iso8601(),
                            Language.EN,
                            result=event,
                            finalized=True,
                        )
                    )
                await self.broadcast_frame(ProposedUserStoppedSpeakingFrame)
            elif kind == "error":
                await self.push_error(error_msg=f"earshot: {event['message']}")

    return EarshotSTTService
