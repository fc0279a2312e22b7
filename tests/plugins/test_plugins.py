"""Earshot in pipecat and LiveKit: their own pipelines and streams, against a real server.

The frameworks are in [peers]; their tests skip without them.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from earshot.core.errors import ConfigError
from earshot.plugins.client import StreamRefusedError, open_stream, stream_url
from tests.serve.conftest import (  # noqa: F401 - fixtures
    LIGHTS,
    LIGHTS_TEXT,
    RunningServer,
    command_model,
    command_server,
    int16_of,
    model,
    pieces,
    server,
    serving,
)

WAIT_S = 30.0


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, WAIT_S))


async def _paced(samples: Any, send: Callable[[bytes], Any]) -> None:
    for piece in pieces(samples, 1600):
        await send(piece.tobytes())
        await asyncio.sleep(0.005)


def test_the_client_by_itself(command_server: RunningServer) -> None:  # noqa: F811
    async def work() -> list[dict[str, Any]]:
        async with open_stream(command_server.ws) as stream:
            assert stream.model == "assistant-en"
            await _paced(int16_of(LIGHTS, silence_s=2.0), stream.send)
            await stream.end()
            return [event async for event in stream.events()]

    events = run(work())
    assert [e["intent"] for e in events if e["type"] == "final"] == ["TurnOn"]
    assert events[-1]["type"] == "closed"


def test_what_the_client_says_of_servers_that_refuse(
    serving: Callable[..., RunningServer],  # noqa: F811
    tmp_path: Path,
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-some-length")
    guarded = serving(token_file=tokens)

    async def work(url: str, **options: Any) -> None:
        async with open_stream(url, **options):
            pass

    run(work(guarded.ws, token="a-token-of-some-length"))
    for url, options, code, is_retryable in (
        (guarded.ws, {}, "refused", False),
        (guarded.ws, {"token": "a-token-of-some-length", "language": "de"},
         "unsupported_language", False),
        ("ws://127.0.0.1:1", {}, "unreachable", True),
    ):  # fmt: skip
        with pytest.raises(StreamRefusedError) as caught:
            run(work(url, **options))
        assert (caught.value.code, caught.value.is_retryable) == (code, is_retryable)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://h:1", "ws://h:1/v1/stream"),
        ("http://h/", "ws://h/v1/stream"),
        ("https://h/other?x=1", "wss://h/other?x=1"),
    ],
)
def test_addresses(url: str, expected: str) -> None:
    assert stream_url(url) == expected
    for bad in ("h:1", "ftp://h", "ws://"):
        with pytest.raises(ConfigError):
            stream_url(bad)


def test_modules_load_without_the_frameworks_and_say_what_is_missing() -> None:
    code = (
        "import sys\n"
        "sys.modules['pipecat'] = sys.modules['livekit'] = None\n"
        "import earshot.plugins.pipecat as p, earshot.plugins.livekit as l\n"
        "for module, name in ((p, 'EarshotSTTService'), (l, 'STT')):\n"
        "    try: getattr(module, name)\n"
        "    except Exception as err: print(type(err).__name__, 'peers' in str(err))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["MissingExtraError", "True"] * 2, done.stderr


@pytest.mark.filterwarnings("default")  # of the framework's own making
def test_a_pipecat_pipeline(command_server: RunningServer) -> None:  # noqa: F811
    pytest.importorskip("pipecat", reason="pipecat-ai is not installed ([peers])")
    from pipecat.frames.frames import (
        EagerTranscriptionFrame,
        EndFrame,
        Frame,
        InputAudioRawFrame,
        InterimTranscriptionFrame,
        ProposedUserStartedSpeakingFrame,
        ProposedUserStoppedSpeakingFrame,
        TranscriptionFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

    from earshot.plugins.pipecat import EarshotSTTService

    seen: list[Frame] = []

    class Witness(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            seen.append(frame)
            await self.push_frame(frame, direction)

    async def work() -> None:
        service = EarshotSTTService(url=command_server.ws, sample_rate=16_000)
        pipeline = Pipeline([service, Witness()])
        runner, task = _pipecat_runner(pipeline)
        running = asyncio.create_task(runner(task))
        for piece in pieces(int16_of(LIGHTS, silence_s=3.0), 1600):
            await task.queue_frame(InputAudioRawFrame(piece.tobytes(), 16_000, 1))
            await asyncio.sleep(0.005)
        for _ in range(200):
            if any(isinstance(frame, TranscriptionFrame) for frame in seen):
                break
            await asyncio.sleep(0.05)
        await task.queue_frame(EndFrame())
        await running

    run(work())
    kinds = (ProposedUserStartedSpeakingFrame, InterimTranscriptionFrame, EagerTranscriptionFrame,
             TranscriptionFrame, ProposedUserStoppedSpeakingFrame)  # fmt: skip
    ours = [type(frame) for frame in seen if isinstance(frame, kinds)]
    assert ours[0] is ProposedUserStartedSpeakingFrame
    assert InterimTranscriptionFrame in ours
    assert ours.index(EagerTranscriptionFrame) < ours.index(TranscriptionFrame)
    assert ours[-1] is ProposedUserStoppedSpeakingFrame
    (final,) = [frame for frame in seen if isinstance(frame, TranscriptionFrame)]
    assert final.text == LIGHTS_TEXT
    assert final.finalized
    assert final.result["intent"] == "TurnOn"


def _pipecat_runner(pipeline: Any) -> tuple[Any, Any]:
    """What runs a pipeline; its names have moved between versions."""
    try:
        from pipecat.pipeline.worker import PipelineWorker as Worker
        from pipecat.workers.runner import WorkerRunner

        task = Worker(pipeline)
        runner = WorkerRunner(handle_sigint=False)

        async def run_worker(worker: Any) -> None:
            await runner.add_workers(worker)
            await runner.run()

        return run_worker, task
    except ImportError:
        from pipecat.pipeline.runner import PipelineRunner
        from pipecat.pipeline.task import PipelineTask

        return PipelineRunner(handle_sigint=False).run, PipelineTask(pipeline)


@pytest.mark.filterwarnings("default")
def test_a_livekit_stream(command_server: RunningServer) -> None:  # noqa: F811
    pytest.importorskip("livekit.agents", reason="livekit-agents is not installed ([peers])")
    from livekit import rtc
    from livekit.agents.stt import SpeechEventType as Kind

    from earshot.plugins.livekit import STT

    def frame(samples: Any) -> Any:
        return rtc.AudioFrame(samples.tobytes(), 16_000, 1, len(samples))

    async def work() -> list[Any]:
        plugin = STT(url=command_server.ws)
        events = []
        async with plugin.stream() as stream:

            async def speak() -> None:
                for piece in pieces(int16_of(LIGHTS, silence_s=3.0), 1600):
                    stream.push_frame(frame(piece))
                    await asyncio.sleep(0.005)
                stream.end_input()

            speaking = asyncio.create_task(speak())
            async for event in stream:
                events.append(event)
            await speaking
        whole = await plugin.recognize(frame(int16_of(LIGHTS)))
        assert whole.alternatives[0].text == LIGHTS_TEXT
        return events

    events = run(work())
    kinds = [event.type for event in events]
    assert kinds[0] == Kind.START_OF_SPEECH
    assert kinds.index(Kind.PREFLIGHT_TRANSCRIPT) < kinds.index(Kind.FINAL_TRANSCRIPT)
    assert kinds[-2:] == [Kind.END_OF_SPEECH, Kind.RECOGNITION_USAGE]
    (final,) = [event for event in events if event.type == Kind.FINAL_TRANSCRIPT]
    said = final.alternatives[0]
    assert said.text == LIGHTS_TEXT
    assert [str(word) for word in said.words] == LIGHTS_TEXT.split()
    assert said.metadata["intent"] == "TurnOn"
    assert 0 < said.start_time < said.end_time
