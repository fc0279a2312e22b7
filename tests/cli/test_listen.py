"""`earshot listen` with a microphone that is a list of blocks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from earshot.core.understanding import SlotValue, Understanding

Earshot = Callable[..., Result]
RATE_HZ = 44100


class PortAudioError(Exception):
    pass


def microphone(
    sound: Sequence[np.ndarray], *, devices: Sequence[dict[str, Any]], fails_in: str = ""
) -> ModuleType:
    """A stand-in for the package sounddevice that records the given blocks.

    What `fails_in` names raises, as PortAudio does: "query", "open" or "start".
    """
    module = ModuleType("sounddevice")

    def fail_in(step: str) -> None:
        if step == fails_in:
            raise PortAudioError(f"Error in {step}: Device unavailable [PaErrorCode -9985]")

    class InputStream:
        open_streams = 0

        def __init__(self, **settings: Any) -> None:
            fail_in("open")
            InputStream.open_streams += 1
            self.callback = settings["callback"]
            assert settings["channels"] == 1

        def start(self) -> None:
            fail_in("start")
            for block in sound:
                self.callback(block[:, None], len(block), None, None)

        def close(self) -> None:
            InputStream.open_streams -= 1

    def query_devices(device: int | str | None = None, kind: str | None = None) -> Any:
        fail_in("query")
        if kind is None:
            return devices
        if not devices:
            raise PortAudioError("Error querying device -1")
        return devices[0]

    module.PortAudioError = PortAudioError  # type: ignore[attr-defined]
    module.InputStream = InputStream  # type: ignore[attr-defined]
    module.query_devices = query_devices  # type: ignore[attr-defined]
    return module


DEVICES = (
    {"name": "Front", "max_input_channels": 2, "default_samplerate": float(RATE_HZ)},
    {"name": "HDMI", "max_input_channels": 0, "default_samplerate": 48000.0},
)


def blocks(*seconds_and_levels: tuple[float, float]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    sound = [rng.normal(0, 1, round(s * RATE_HZ)) * level for s, level in seconds_and_levels]
    whole = np.concatenate(sound).astype(np.float32)
    return list(np.array_split(whole, max(1, len(whole) // 4410)))


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType | None], None]:
    return lambda module: monkeypatch.setitem(sys.modules, "sounddevice", module)


@pytest.mark.usefixtures("loaded")
def test_a_pause_ends_a_line(earshot: Earshot, plug_in: Callable[..., None]) -> None:
    plug_in(microphone(blocks((1.0, 0.1), (2.0, 0.0), (0.5, 0.1)), devices=DEVICES))
    result = earshot("listen", "--seconds", 3.5)
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert first == "w0 w1"
    assert second.startswith("w")


@pytest.mark.usefixtures("loaded")
def test_json_events_carry_stream_times(earshot: Earshot, plug_in: Callable[..., None]) -> None:
    plug_in(microphone(blocks((1.0, 0.1), (2.0, 0.0), (1.0, 0.1)), devices=DEVICES))
    result = earshot("listen", "--json", "--seconds", 4)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert {event["type"] for event in events} == {"speech_started", "partial", "final"}
    times = [event["t_s"] for event in events]
    assert times == sorted(times)
    first, last = (event for event in events if event["type"] == "final")
    assert first["words"][0]["start_s"] == 0.0
    # The second line began when the first had ended; its words count from the very start.
    assert last["words"][0]["start_s"] >= first["t_s"]
    assert last["t_s"] == pytest.approx(4.0, abs=0.01)


@pytest.mark.usefixtures("loaded")
def test_commands_are_told_at_the_end_of_a_line(
    earshot: Earshot,
    plug_in: Callable[..., None],
    means: Callable[[Understanding], None],
    tmp_path: Path,
) -> None:
    stop = tmp_path / "stop.yaml"
    stop.write_text("language: en\nintents:\n  Stop:\n    data:\n      - sentences: [stop]\n")
    means(Understanding("Stop", {"where": SlotValue("kitchen", "in the kitchen")}, 0.75))
    plug_in(microphone(blocks((1.0, 0.1)), devices=DEVICES))
    text = earshot("listen", "--seconds", 1, "--commands", stop)
    assert text.stdout == "w0 w1\tStop\twhere=kitchen\n"
    assert "commands: 1 sentence\n" in text.stderr
    plug_in(microphone(blocks((1.0, 0.1)), devices=DEVICES))
    events = earshot("listen", "--json", "--seconds", 1, "--commands", stop).stdout.splitlines()
    final = json.loads(events[-1])
    assert (final["type"], final["intent"], final["confidence"]) == ("final", "Stop", 0.75)
    assert final["slots"] == {"where": {"value": "kitchen", "spoken": "in the kitchen"}}
    assert all("intent" not in json.loads(event) for event in events[:-1])


def test_no_microphone_is_one_line(earshot: Earshot, plug_in: Callable[..., None]) -> None:
    plug_in(microphone([], devices=()))
    for options in ((), ("--list-devices",), ("--device", "nope")):
        result = earshot("listen", *options)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: microphone: ")
        assert result.stderr.count("\n") == 1
        assert "earshot transcribe --stream -" in result.stderr


@pytest.mark.parametrize(
    ("step", "options"),
    [("query", ("--list-devices",)), ("query", ()), ("open", ()), ("start", ())],
)
def test_a_microphone_that_fails_is_one_line_and_is_closed(
    earshot: Earshot, plug_in: Callable[..., None], step: str, options: tuple[str, ...]
) -> None:
    module = microphone(blocks((1.0, 0.1)), devices=DEVICES, fails_in=step)
    plug_in(module)
    result = earshot("listen", *options)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: microphone: ")
    assert f"Error in {step}" in result.stderr
    assert result.stderr.count("\n") == 1
    assert module.InputStream.open_streams == 0


def test_a_missing_package_names_the_extra(earshot: Earshot, plug_in: Callable[..., None]) -> None:
    plug_in(None)
    result = earshot("listen")
    assert result.exit_code == 1
    assert "pip install 'earshot[mic]'" in result.stderr
    assert result.stderr.count("\n") == 1


def test_devices_are_listed(earshot: Earshot, plug_in: Callable[..., None]) -> None:
    plug_in(microphone([], devices=DEVICES))
    result = earshot("listen", "--list-devices")
    assert result.stdout == "0: Front (2 channels, 44100 Hz)\n"
