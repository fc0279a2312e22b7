"""`earshot listen`: the microphone in, words as they are spoken.

Knows how a microphone is opened (package sounddevice, extra [mic]) and where events are shown;
knows nothing of how words and ends are found.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from earshot.cli.console import LiveLine, note, reported, say
from earshot.cli.transcribe import (
    CommandsOption,
    CommandThresholdOption,
    HotwordsOption,
    HotwordsScoreOption,
    InternalLmWeightOption,
    LmBonusOption,
    LmOption,
    LmWeightOption,
    Method,
    PronunciationsOption,
    check_command_options,
    check_hotwords_options,
    loaded,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from earshot.core.events import Event
    from earshot.session.recognizer import Recognizer

    Block = npt.NDArray[np.float32]

BLOCK_S = 0.04  # an encoder frame: longer blocks would delay the end-points
_PROBABLY_OVER = "\u2026"  # shown behind a line that is probably finished


def listen(
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="A .ear file; without it, the embedded model."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Input device: number or part of its name; see --list-devices."),
    ] = None,
    list_devices: Annotated[
        bool, typer.Option("--list-devices", help="Print the input devices and exit.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for every event.")
    ] = False,
    commands: CommandsOption = None,
    command_threshold: CommandThresholdOption = None,
    pronunciations: PronunciationsOption = None,
    hotwords: HotwordsOption = None,
    hotwords_score: HotwordsScoreOption = None,
    lm: LmOption = None,
    lm_weight: LmWeightOption = None,
    internal_lm_weight: InternalLmWeightOption = None,
    lm_bonus: LmBonusOption = None,
    method: Annotated[Method, typer.Option(help="How to search.")] = Method.BEAM,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Stop after this much audio; else at Ctrl-C.")
    ] = None,
) -> None:
    """Recognise what the microphone hears, with words as they are spoken. Ctrl-C ends it."""
    check_command_options(commands, command_threshold, pronunciations, hotwords)
    check_hotwords_options(hotwords, hotwords_score)
    with reported():
        if list_devices:
            for line in _input_devices():
                say(line)
            return
        recognizer = loaded(
            model,
            commands=commands,
            command_threshold=command_threshold,
            pronunciations=pronunciations,
            hotwords=hotwords,
            hotwords_score=hotwords_score,
            lm=lm,
            lm_weight=lm_weight,
            internal_lm_weight=internal_lm_weight,
            lm_bonus=lm_bonus,
            method=method.value,
        )
        with _microphone(device) as (rate, blocks):
            note(f"listening with {recognizer.name} at {rate} Hz; Ctrl-C ends it")
            _show(recognizer, rate, blocks, as_json=as_json, seconds=seconds)


def _show(
    recognizer: Recognizer,
    rate_hz: int,
    blocks: Iterator[Block],
    *,
    as_json: bool,
    seconds: float | None,
) -> None:
    """Print finished lines, or all events, on stdout, and the line in the making on stderr."""
    live = LiveLine()
    stream = recognizer.create_event_stream()
    fed = 0
    try:
        for block in blocks:
            stream.accept_waveform(rate_hz, block)
            _tell(stream.decode(), live, as_json=as_json, with_intents=recognizer.hears_commands)
            fed += len(block)
            if seconds is not None and fed >= seconds * rate_hz:
                break
    except KeyboardInterrupt:
        pass
    stream.input_finished()
    _tell(stream.decode(), live, as_json=as_json, with_intents=recognizer.hears_commands)


def _tell(events: list[Event], live: LiveLine, *, as_json: bool, with_intents: bool) -> None:
    from earshot.cli.formats import json_line, text_line
    from earshot.core.events import Final, Partial, SpeculativeEndpoint
    from earshot.core.understanding import Understanding

    for event in events:
        if as_json:
            say(json_line(event.to_json()).rstrip())
        elif isinstance(event, Partial):
            live.show(event.text)
        elif isinstance(event, SpeculativeEndpoint):
            live.show(f"{event.text} {_PROBABLY_OVER}")
        elif isinstance(event, Final):
            live.clear()
            meaning = Understanding(event.intent, event.slots, event.confidence)
            if event.text:
                say(text_line(event.text, meaning if with_intents else None).rstrip("\n"))


def _sounddevice() -> Any:
    from earshot.core.errors import AudioError, MissingExtraError

    try:
        import sounddevice
    except ModuleNotFoundError:
        raise MissingExtraError("earshot listen", package="sounddevice", extra="mic") from None
    except OSError as err:  # the package is there, the library that it wraps is not
        raise AudioError(
            "microphone", str(err), remedy="Install PortAudio: `apt-get install libportaudio2`"
        ) from None
    return sounddevice


def _input_devices() -> list[str]:
    sounddevice = _sounddevice()
    try:
        devices = sounddevice.query_devices()
    except sounddevice.PortAudioError as err:
        raise _no_microphone(str(err)) from None
    lines = [
        f"{number}: {device['name']} ({device['max_input_channels']} channels, "
        f"{device['default_samplerate']:.0f} Hz)"
        for number, device in enumerate(devices)
        if device["max_input_channels"] > 0
    ]
    if not lines:
        raise _no_microphone("the system offers no input device")
    return lines


@contextmanager
def _microphone(device: str | None) -> Iterator[tuple[int, Iterator[Block]]]:
    """Open an input device at its own rate; resampling is the stream's work.

    Yields:
        The sample rate, and mono float32 blocks of `BLOCK_S` as they are recorded.

    Raises:
        MissingExtraError: The package sounddevice is not installed.
        AudioError: There is no such device, or it cannot be opened or started.
    """
    sounddevice = _sounddevice()
    blocks: queue.SimpleQueue[Block] = queue.SimpleQueue()

    def keep(recorded: Block, _frames: int, _time: object, status: object) -> None:
        if status:
            note(f"microphone: {status}")
        blocks.put(recorded[:, 0].copy())  # PortAudio uses its buffer again

    chosen: int | str | None = int(device) if device and device.isdecimal() else device
    try:
        rate = int(sounddevice.query_devices(chosen, "input")["default_samplerate"])
        recording = sounddevice.InputStream(
            device=chosen,
            samplerate=rate,
            channels=1,
            dtype="float32",
            blocksize=round(BLOCK_S * rate),
            callback=keep,
        )
    except (sounddevice.PortAudioError, ValueError) as err:
        raise _no_microphone(str(err)) from None
    with closing(recording):
        try:
            recording.start()
        except sounddevice.PortAudioError as err:
            raise _no_microphone(str(err)) from None
        yield rate, _forever(blocks)


def _forever(blocks: queue.SimpleQueue[Block]) -> Iterator[Block]:
    while True:
        yield blocks.get()


def _no_microphone(reason: str) -> Exception:
    from earshot.core.errors import AudioError

    return AudioError(
        "microphone",
        f"there is none that can be opened ({' '.join(reason.split())})",
        remedy="Connect one and look at `earshot listen --list-devices`, or pipe audio into "
        "`earshot transcribe --stream -`",
    )
