"""The C library: built as a device would build it, used by the C example and through ctypes."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import ear_builder as eb
import numpy as np
import pytest

from earshot import _native
from earshot.data.audio import read_audio

JOBS = 2


@pytest.fixture(scope="session")
def library(repository: Path) -> Path:
    """libearshot, built in build/c_api without Python; a later run builds only what changed."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    for tool, found in (("a C compiler", compiler), ("cmake", shutil.which("cmake"))):
        if found is None:
            pytest.skip(f"no {tool} on this machine; the C library cannot be built")
    folder = repository / "build" / "c_api"
    configure = ["cmake", "-S", str(repository), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release"]
    configure += ["-DEARSHOT_PYTHON=OFF", "-DEARSHOT_BUILD_C_API=ON"]
    if shutil.which("ninja") and not (folder / "Makefile").exists():
        configure += ["-G", "Ninja"]
    build = ["cmake", "--build", str(folder), "--target", "earshot", "-j", str(JOBS)]
    for command in (configure, build):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return next(
        path for path in folder.iterdir() if path.name in {"libearshot.so", "libearshot.dylib"}
    )


@pytest.fixture(scope="session")
def transcribe_wav(
    library: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., subprocess.CompletedProcess[str]]:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    program = tmp_path_factory.mktemp("c") / "transcribe_wav"
    command = [str(compiler), "-std=c99", "-Wall", "-Wextra", "-Werror"]
    command += [str(repository / "native/examples/transcribe_wav.c"), "-o", str(program)]
    command += ["-I", str(repository / "native/include"), "-L", str(library.parent), "-learshot"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    paths = {"LD_LIBRARY_PATH": str(library.parent), "DYLD_LIBRARY_PATH": str(library.parent)}

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(program), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **paths, **environment},
            timeout=60,
        )

    return run


def wav(path: Path, samples: np.ndarray, *, rate: int = 16000, extra: bytes = b"") -> Path:
    pcm = (samples * 32767).astype("<i2").tobytes()
    body = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16) + extra
    body += b"data" + struct.pack("<I", len(pcm)) + pcm
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body)
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.ear"
    path.write_bytes(eb.recogniser(matrix_codec="i8_r16x4", blank_bias=2).bytes())
    return path


def noise(seconds: float, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    samples = (0.1 * rng.standard_normal(int(16000 * seconds))).clip(-1, 1)
    return (samples * 32767).astype("<i2") / np.float32(32768)


def in_python(model: Path, samples: np.ndarray, *, method: str = "modified_beam_search") -> dict:
    recogniser = _native.Recognizer(_native.Model(str(model)), method)
    stream = recogniser.create_stream()
    stream.accept_waveform(samples)
    stream.input_finished()
    recogniser.decode_streams([stream])
    return stream.result()


def test_the_example_prints_what_python_gets(
    transcribe_wav: Callable[..., subprocess.CompletedProcess[str]], model: Path, tmp_path: Path
) -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal(40001)
    pcm = (samples.clip(-1, 1) * 32767).astype("<i2")
    file = wav(
        tmp_path / "a.wav", samples.clip(-1, 1), extra=b"LIST" + struct.pack("<I", 3) + b"abc\0"
    )
    expected = in_python(model, (pcm / np.float32(32768)).astype(np.float32))
    assert expected["text"]
    done = transcribe_wav(model, file)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected["text"] + "\n", "")
    result = json.loads(transcribe_wav(model, file, "--json").stdout)
    assert result["tokens"] == expected["tokens"]
    assert result["frames"] == expected["frames"]
    assert result["num_frames"] == expected["num_frames"] == 63
    assert result["score"] == pytest.approx(expected["score"], rel=1e-8)
    assert [word["word"] for word in result["words"]] == [w["word"] for w in expected["words"]]


def test_the_example_says_what_is_wrong(
    transcribe_wav: Callable[..., subprocess.CompletedProcess[str]], model: Path, tmp_path: Path
) -> None:
    good = wav(tmp_path / "good.wav", np.zeros(100))
    (tmp_path / "not.wav").write_bytes(b"RIFF, but no more")
    (tmp_path / "not.ear").write_bytes(b"nothing")
    for bad in (wav(tmp_path / "8k.wav", np.zeros(100), rate=8000), tmp_path / "not.wav", "absent"):
        done = transcribe_wav(model, bad)
        assert (done.returncode, done.stdout) == (1, "")
        assert "16 kHz" in done.stderr
    done = transcribe_wav(tmp_path / "not.ear", good)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not a model file" in done.stderr
    assert transcribe_wav().returncode == 2
    done = transcribe_wav(model, good, EARSHOT_ISA="sse9")  # fails later, once audio is there
    assert (done.returncode, done.stdout) == (1, "")
    assert "EARSHOT_ISA is 'sse9'" in done.stderr


class Word(ctypes.Structure):
    _fields_ = (
        ("word", ctypes.c_char_p),
        ("start_s", ctypes.c_double),
        ("end_s", ctypes.c_double),
        ("confidence", ctypes.c_float),
    )


class Result(ctypes.Structure):
    _fields_ = (
        ("text", ctypes.c_char_p),
        ("words", ctypes.POINTER(Word)),
        ("num_words", ctypes.c_size_t),
        ("decoded_s", ctypes.c_double),
        ("score", ctypes.c_double),
        ("json", ctypes.c_char_p),
    )


class Config(ctypes.Structure):
    _fields_ = (
        ("max_active_paths", ctypes.c_int32),
        ("max_symbols_per_frame", ctypes.c_int32),
        ("blank_penalty", ctypes.c_float),
        ("without_language_model", ctypes.c_int32),
    )


@pytest.fixture(scope="session")
def c(library: Path) -> ctypes.CDLL:
    lib = ctypes.CDLL(str(library))
    pointer = ctypes.c_void_p
    for name in ("model_open", "recognizer_create", "stream_create"):
        getattr(lib, f"earshot_{name}").restype = pointer
    lib.earshot_last_error.restype = ctypes.c_char_p
    lib.earshot_version.restype = ctypes.c_char_p
    lib.earshot_model_name.restype = ctypes.c_char_p
    lib.earshot_stream_result.restype = ctypes.POINTER(Result)
    lib.earshot_recognizer_create.argtypes = [pointer, ctypes.POINTER(Config)]
    for name in [
        "model_free",
        "model_name",
        "model_sample_rate_hz",
        "recognizer_free",
        "stream_create",
        "stream_free",
        "stream_input_finished",
        "stream_is_ready",
        "stream_decode",
        "stream_result",
        "stream_reset",
    ]:
        getattr(lib, f"earshot_{name}").argtypes = [pointer]
    lib.earshot_stream_accept_waveform.argtypes = [pointer, pointer, ctypes.c_size_t]
    lib.earshot_decode_streams.argtypes = [ctypes.POINTER(pointer), ctypes.c_size_t]
    return lib


def test_every_function(c: ctypes.CDLL, model: Path) -> None:
    assert c.earshot_version().count(b".") >= 1
    opened = c.earshot_model_open(str(model).encode())
    assert c.earshot_model_name(opened) == b"tiny"
    assert c.earshot_model_sample_rate_hz(opened) == 16000
    config = Config()
    c.earshot_config_init(ctypes.byref(config))
    assert (config.max_active_paths, config.max_symbols_per_frame) == (4, 0)
    assert config.without_language_model == 0
    recogniser = c.earshot_recognizer_create(opened, ctypes.byref(config))
    c.earshot_model_free(opened)  # what was made from it keeps it
    streams = [c.earshot_stream_create(recogniser) for _ in range(3)]
    clips = [noise(1, seed=1), noise(0.5, seed=2), noise(0.02, seed=3)]
    for stream, clip in zip(streams, clips, strict=True):
        assert c.earshot_stream_is_ready(stream) == 0
        assert c.earshot_stream_accept_waveform(stream, clip.ctypes.data, len(clip)) == 0
        assert c.earshot_stream_input_finished(stream) == 0
        assert c.earshot_stream_is_ready(stream) == 1
    c.earshot_recognizer_free(recogniser)
    array = (ctypes.c_void_p * 3)(*streams)
    assert c.earshot_decode_streams(array, 3) == 0
    for stream, clip in zip(streams, clips, strict=True):
        expected = in_python(model, clip)
        result = c.earshot_stream_result(stream)
        got = result.contents
        assert got.text.decode() == expected["text"]
        assert got.decoded_s == pytest.approx(0.04 * expected["num_frames"])
        assert got.num_words == len(expected["words"])
        for i, word in enumerate(expected["words"]):
            assert got.words[i].word.decode() == word["word"]
            assert got.words[i].start_s == pytest.approx(0.04 * word["start_frame"])
            assert got.words[i].end_s == pytest.approx(0.04 * word["end_frame"])
            assert got.words[i].confidence == pytest.approx(word["confidence"], rel=1e-5)
        assert json.loads(got.json)["text"] == expected["text"]
        c.earshot_result_free(result)
    assert c.earshot_stream_reset(streams[0]) == 0
    result = c.earshot_stream_result(streams[0])
    assert result.contents.text == b""
    c.earshot_result_free(result)
    for stream in streams:
        c.earshot_stream_free(stream)


def test_the_language_model_can_be_left_out(c: ctypes.CDLL, repository: Path) -> None:
    path = repository / "src/earshot/assets/assistant-en.ear"
    clear = read_audio(repository / "examples/set-a-timer-for-five-minutes.flac")
    clips = [  # in so much noise that a language model has something to say
        (clear + 0.06 * np.random.default_rng(seed).standard_normal(len(clear))).astype(np.float32)
        for seed in range(6)
    ]
    opened = c.earshot_model_open(str(path).encode())
    texts: dict[int, list[str]] = {0: [], 1: []}
    for without, heard in texts.items():
        recogniser = c.earshot_recognizer_create(opened, ctypes.byref(Config(1, 0, 0, without)))
        for clip in clips:
            stream = c.earshot_stream_create(recogniser)
            assert c.earshot_stream_accept_waveform(stream, clip.ctypes.data, len(clip)) == 0
            assert c.earshot_stream_input_finished(stream) == 0
            assert c.earshot_stream_decode(stream) == 0
            result = c.earshot_stream_result(stream)
            heard.append(result.contents.text.decode())
            c.earshot_result_free(result)
            c.earshot_stream_free(stream)
        c.earshot_recognizer_free(recogniser)
    c.earshot_model_free(opened)
    assert texts[1] == [in_python(path, clip, method="greedy_search")["text"] for clip in clips]
    assert texts[0] != texts[1]


def test_errors_are_numbers_with_a_message(c: ctypes.CDLL, model: Path, tmp_path: Path) -> None:
    assert c.earshot_model_open(None) is None
    assert b"NULL" in c.earshot_last_error()
    assert c.earshot_model_open(str(tmp_path / "absent.ear").encode()) is None
    assert b"absent.ear" in c.earshot_last_error()
    opened = c.earshot_model_open(str(model).encode())
    assert c.earshot_recognizer_create(opened, ctypes.byref(Config(100, 0, 0))) is None
    assert b"max_active_paths" in c.earshot_last_error()
    assert c.earshot_recognizer_create(opened, ctypes.byref(Config(-1, 0, 0))) is None
    assert c.earshot_recognizer_create(opened, ctypes.byref(Config(4, 0, 0, 2))) is None
    assert b"without_language_model" in c.earshot_last_error()
    recogniser = c.earshot_recognizer_create(opened, None)
    stream = c.earshot_stream_create(recogniser)
    bad = np.array([0, 0, np.nan], np.float32)
    assert c.earshot_stream_accept_waveform(stream, bad.ctypes.data, 3) == 2
    assert b"sample 2" in c.earshot_last_error()
    assert c.earshot_stream_accept_waveform(stream, None, 3) == 2
    assert c.earshot_stream_accept_waveform(stream, None, 0) == 0
    assert c.earshot_decode_streams((ctypes.c_void_p * 2)(stream, stream), 2) == 2
    assert b"twice" in c.earshot_last_error()
    assert c.earshot_stream_input_finished(stream) == 0
    assert c.earshot_stream_accept_waveform(stream, bad.ctypes.data, 2) == 3
    assert c.earshot_stream_decode(None) == 2
    for free, thing in (("stream", stream), ("recognizer", recogniser), ("model", opened)):
        getattr(c, f"earshot_{free}_free")(None)
        getattr(c, f"earshot_{free}_free")(thing)
