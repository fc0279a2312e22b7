"""Recordings over HTTP: OpenAI's `/v1/audio/transcriptions`, and Wyoming's HTTP bridge.

Turns a form into settings, an upload into a session of the engine, and its events into one of the
six forms or a stream of events. Knows nothing of how forms come in or who may send them.

Source: INTERFACES of OpenAI's audio API as its Python client 3.x types it.
"""

from __future__ import annotations

import asyncio
import json
import math
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from earshot.core.captions import srt, vtt
from earshot.core.errors import AudioError, MissingExtraError
from earshot.core.events import Final, Partial
from earshot.core.transcript import Word
from earshot.serve import uploads
from earshot.serve.engine import Done, Engine, Problem, RefusedError, Session
from earshot.serve.languages import LanguageError, check_language
from earshot.serve.logs import log
from earshot.serve.problems import ApiError

FORMATS = ("json", "text", "srt", "verbose_json", "vtt", "diarized_json")
STREAMED_FORMATS = ("json", "text", "diarized_json")
GRANULARITIES = ("word", "segment")
MAX_FIELD_CHARS = 100_000
_MIN_CONFIDENCE = 1e-10  # whose logarithm is still a number
UNKNOWN_SPEAKER = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionRequest:
    """What a form asks for, checked.

    Args:
        form: One of `FORMATS`.
        granularities: Of `GRANULARITIES`.
        stream: Send events while the recording is heard.
        logprobs: Give every word's log-probability.
        keywords: Phrases that are likely.
        temperature: As sent; there is nothing that it changes.
        ignored: Fields that were sent and have no effect.
    """

    form: str = "json"
    granularities: tuple[str, ...] = ()
    stream: bool = False
    logprobs: bool = False
    keywords: tuple[str, ...] = ()
    temperature: float = 0.0
    ignored: tuple[str, ...] = ()


@dataclass(slots=True)
class Heard:
    """A recording's final results.

    Args:
        finals: In order of time.
        duration_s: Length of the recording.
    """

    finals: list[Final] = field(default_factory=list)
    duration_s: float = 0.0

    @property
    def text(self) -> str:
        """All of it, utterances separated by a space."""
        return " ".join(final.text for final in self.finals if final.text)

    @property
    def words(self) -> list[Word]:
        """All words with their times in the recording."""
        return [word for final in self.finals for word in final.words]


def parse_form(values: Sequence[tuple[str, str]], *, language: str) -> TranscriptionRequest:
    """Check the text fields of a form.

    Args:
        values: Names and values, as often as they were sent; lists are `name[]` or repeated.
        language: The language of the model.

    Returns:
        What they ask for.

    Raises:
        ApiError: 400, with the field that is to blame.
    """
    fields: dict[str, list[str]] = {}
    for name, value in values:
        if len(value) > MAX_FIELD_CHARS:
            raise ApiError(
                400,
                f"{name[:100]}: it has {len(value)} characters; the most is {MAX_FIELD_CHARS}.",
                code="string_above_max_length",
                param=name[:100],
            )
        fields.setdefault(name.removesuffix("[]"), []).append(value)

    if not fields.get("model", [""])[0].strip():
        raise ApiError(
            400,
            "model: it is missing. Send the name of a model, such as the one that /v1/models "
            "lists; any name is taken, as there is one model.",
            code="missing_required_parameter",
            param="model",
        )
    form = _choice(fields, "response_format", FORMATS, "json")
    for value in (*fields.get("language", []), *fields.get("languages", [])):
        try:
            check_language(value, language)
        except LanguageError as err:
            raise ApiError(400, str(err), code="unsupported_language", param="language") from None
    stream = _flag(fields, "stream")
    if stream and form not in STREAMED_FORMATS:
        raise ApiError(
            400,
            f"response_format: {form} cannot be streamed. Use json, text or diarized_json with "
            "stream, or leave stream out.",
            code="unsupported_value",
            param="response_format",
        )
    granularities = tuple(dict.fromkeys(fields.get("timestamp_granularities", [])))
    for granularity in granularities:
        if granularity not in GRANULARITIES:
            raise _unknown("timestamp_granularities", granularity, GRANULARITIES)
    if granularities and form != "verbose_json":
        raise ApiError(
            400,
            f"timestamp_granularities: {form} has no timestamps. Use response_format "
            "verbose_json with it.",
            code="unsupported_value",
            param="timestamp_granularities",
        )
    include = fields.get("include", [])
    for value in include:
        if value != "logprobs":
            raise _unknown("include", value, ("logprobs",))
    if include and form != "json":
        raise ApiError(
            400,
            f"include: {form} has no place for logprobs. Use response_format json with it.",
            code="unsupported_value",
            param="include",
        )
    if fields.get("known_speaker_names") or fields.get("known_speaker_references"):
        raise ApiError(
            400,
            "known_speaker_names: this model does not tell speakers apart. Leave them out.",
            code="unsupported_value",
            param="known_speaker_names",
        )
    _check_chunking(fields.get("chunking_strategy", []))
    ignored = [name for name in ("prompt",) if any(fields.get(name, []))]
    return TranscriptionRequest(
        form=form,
        granularities=granularities,
        stream=stream,
        logprobs=bool(include),
        keywords=tuple(k.strip() for k in fields.get("keywords", []) if k.strip()),
        temperature=_temperature(fields),
        ignored=tuple(ignored),
    )


async def heard_events(
    engine: Engine,
    file: BinaryIO,
    *,
    client: str,
    name: str,
    protocol: str,
    options: dict[str, Any] | None = None,
) -> AsyncIterator[Partial | Final | Done]:
    """Hear a recording; memory does not grow with its length.

    Args:
        engine: Hears it.
        file: Open for reading, able to seek, at its start.
        client: Who sent it.
        name: What messages call it.
        protocol: How it came, for the metrics.
        options: Settings of the stream.

    Yields:
        Partial and final results, then `Done`.

    Raises:
        ApiError: It is not sound (400), or the server has no room (429, 503).
    """
    try:
        opened = engine.open(client, protocol=protocol, is_bulk=True, options=options)
    except RefusedError as err:
        raise refused(err) from None
    async with opened as session:
        feeder = asyncio.create_task(_feed(session, file, name, engine.limits.max_audio_s))
        try:
            async for event in session.events():
                if isinstance(event, Problem):
                    if feeder.done() and not feeder.cancelled() and feeder.exception():
                        continue  # what the file is to blame for is said below
                    status = 500 if event.code == "internal" else 400
                    raise ApiError(status, event.message, code=event.code, param="file")
                if isinstance(event, Done):
                    await feeder  # raises what was wrong with the file
                    yield event
                elif isinstance(event, Partial | Final):
                    yield event
        except AudioError as err:
            raise ApiError(400, str(err), code="invalid_audio", param="file") from None
        except MissingExtraError as err:
            raise ApiError(400, str(err), code="unsupported_format", param="file") from None
        finally:
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)


def refused(error: RefusedError) -> ApiError:
    """What a client is answered that the engine has no room for."""
    return ApiError(429 if error.code == "too_many_streams" else 503, str(error), code=error.code)


async def _feed(session: Session, file: BinaryIO, name: str, max_s: float) -> None:
    """Decode the file in threads, a block at a time, for as fast as the engine takes it."""
    found = uploads.blocks(file, name=name, max_s=max_s)
    try:
        while True:
            item = await asyncio.to_thread(next, found, None)
            if item is None:
                break
            await session.send(*item)
    finally:
        session.finish()
        # A thread may still be inside the generator when its request is given up.
        await asyncio.shield(asyncio.to_thread(_close, found))


def _close(found: Iterator[Any]) -> None:
    import time

    for _ in range(1000):
        try:
            found.close()  # type: ignore[attr-defined]
            return
        except ValueError:  # generator already executing
            time.sleep(0.01)


async def collect(events: AsyncIterator[Partial | Final | Done]) -> Heard:
    """All final results of a recording."""
    heard = Heard()
    async for event in events:
        if isinstance(event, Final):
            heard.finals.append(event)
        elif isinstance(event, Done):
            heard.duration_s = event.audio_s
    return heard


def render(heard: Heard, request: TranscriptionRequest, *, language: str) -> tuple[str, str]:
    """One of the six forms.

    Args:
        heard: The results.
        request: Which form, and what in it.
        language: Of the model.

    Returns:
        Content type and body.
    """
    if request.form == "text":
        return "text/plain; charset=utf-8", heard.text + "\n"
    if request.form == "srt":
        return "text/plain; charset=utf-8", srt(heard.words)
    if request.form == "vtt":
        return "text/vtt; charset=utf-8", vtt(heard.words)
    body: dict[str, Any]
    usage = {"type": "duration", "seconds": round(heard.duration_s, 3)}
    if request.form == "json":
        body = {"text": heard.text, "usage": usage}
        if request.logprobs:
            body["logprobs"] = logprobs(heard.words)
    elif request.form == "diarized_json":
        body = {
            "task": "transcribe",
            "duration": round(heard.duration_s, 3),
            "text": heard.text,
            "segments": [
                diarized_segment(final, number) for number, final in enumerate(_spoken(heard))
            ],
            "usage": usage,
        }
    else:
        body = {
            "task": "transcribe",
            "language": language,
            "duration": round(heard.duration_s, 3),
            "text": heard.text,
            "usage": usage,
        }
        if "word" in request.granularities:
            body["words"] = [
                {"word": word.word, "start": _ms(word.start_s), "end": _ms(word.end_s)}
                for word in heard.words
            ]
        if "segment" in request.granularities or not request.granularities:
            body["segments"] = [
                _segment(final, number, request.temperature)
                for number, final in enumerate(_spoken(heard))
            ]
    return "application/json", json.dumps(body, ensure_ascii=False, allow_nan=False)


class DeltaWriter:
    """Turns partial and final results into text that only grows.

    Words that may still change are held back; what was given out is always a prefix of the whole,
    because the stable part of a partial is a prefix of its final.
    """

    def __init__(self) -> None:
        self._before = ""  # of finished utterances
        self._sent = ""

    @property
    def text(self) -> str:
        """All that was given out."""
        return self._sent

    def push(self, event: Partial | Final) -> str:
        """What can be added to the text now; often nothing."""
        if isinstance(event, Final):
            whole = self._joined(event.text)
            self._before = whole
        else:
            stable = event.text[: event.stable_chars]
            # A space at the end may be followed by nothing, or by what is taken back.
            whole = self._joined(stable.rstrip())
        if not whole.startswith(self._sent):
            return ""
        delta = whole[len(self._sent) :]
        self._sent = whole
        return delta

    def _joined(self, text: str) -> str:
        return " ".join(part for part in (self._before, text) if part)


async def stream_events(
    events: AsyncIterator[Partial | Final | Done], request: TranscriptionRequest
) -> AsyncIterator[dict[str, Any]]:
    """The objects of OpenAI's event stream.

    Args:
        events: From `heard_events`.
        request: What was asked for.

    Yields:
        `transcript.text.delta`, with diarized_json `transcript.text.segment`, and at last
        `transcript.text.done`.
    """
    writer = DeltaWriter()
    words: list[Word] = []
    num_segments = 0
    async for event in events:
        if isinstance(event, Done):
            done: dict[str, Any] = {"type": "transcript.text.done", "text": writer.text}
            if request.logprobs:
                done["logprobs"] = logprobs(words)
            yield done
            return
        delta = writer.push(event)
        if delta:
            yield {"type": "transcript.text.delta", "delta": delta}
        if isinstance(event, Final):
            words += event.words
            if request.form == "diarized_json" and event.text:
                yield diarized_segment(event, num_segments)
                num_segments += 1


def logprobs(words: Sequence[Word]) -> list[dict[str, Any]]:
    """Words as tokens: a word's log-probability is the mean over its pieces.

    Args:
        words: In order of time.

    Returns:
        `{"token", "logprob", "bytes"}` each; tokens after the first begin with the space that
        separates them, so that they concatenate to the text.
    """
    found = []
    for number, word in enumerate(words):
        token = word.word if number == 0 else f" {word.word}"
        found.append(
            {
                "token": token,
                "logprob": round(math.log(max(word.confidence, _MIN_CONFIDENCE)), 6),
                "bytes": list(token.encode()),
            }
        )
    return found


def diarized_segment(final: Final, number: int) -> dict[str, Any]:
    """One utterance with its speaker, who is "unknown" unless the model tells speakers apart."""
    return {
        "type": "transcript.text.segment",
        "id": f"seg_{number}",
        "start": _ms(final.start_s),
        "end": _ms(final.end_s),
        "text": final.text,
        "speaker": final.speaker or UNKNOWN_SPEAKER,
    }


def log_done(heard_text: str, *, client: str, protocol: str, audio_s: float, took_s: float) -> None:
    """Log that a recording was heard."""
    log(
        "transcribed",
        client=client,
        protocol=protocol,
        audio_s=round(audio_s, 3),
        took_s=round(took_s, 3),
        transcript=heard_text,
    )


def _spoken(heard: Heard) -> list[Final]:
    return [final for final in heard.finals if final.text]


def _segment(final: Final, number: int, temperature: float) -> dict[str, Any]:
    confidences = [max(word.confidence, _MIN_CONFIDENCE) for word in final.words]
    mean = sum(map(math.log, confidences)) / len(confidences) if confidences else 0.0
    raw = final.text.encode()
    return {
        "id": number,
        "seek": 0,  # nothing is cut into windows
        "start": _ms(final.start_s),
        "end": _ms(final.end_s),
        "text": final.text,
        "tokens": [],  # ids mean nothing outside the model file
        "temperature": temperature,
        "avg_logprob": round(mean, 6),
        "compression_ratio": round(len(raw) / len(zlib.compress(raw)), 4),
        "no_speech_prob": 0.0,  # utterances are where speech was found
    }


def _choice(fields: dict[str, list[str]], name: str, choices: Sequence[str], default: str) -> str:
    value = fields.get(name, [default])[-1] or default
    if value not in choices:
        raise _unknown(name, value, choices)
    return value


def _flag(fields: dict[str, list[str]], name: str) -> bool:
    value = fields.get(name, ["false"])[-1].strip().lower()
    if value not in ("true", "false", "1", "0", ""):
        raise _unknown(name, value, ("true", "false"))
    return value in ("true", "1")


def _temperature(fields: dict[str, list[str]]) -> float:
    text = fields.get("temperature", ["0"])[-1].strip() or "0"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ApiError(
            400,
            f"temperature: it is {text[:40]!r}; it must lie in 0..1.",
            code="invalid_value",
            param="temperature",
        )
    return value


def _check_chunking(values: Sequence[str]) -> None:
    for value in values:
        if value in ("auto", ""):
            continue
        try:
            strategy = json.loads(value)
        except (ValueError, RecursionError):
            strategy = None
        if not isinstance(strategy, dict) or strategy.get("type") != "server_vad":
            raise ApiError(
                400,
                f"chunking_strategy: it is {value[:80]!r}; it must be auto or a JSON object of "
                "type server_vad.",
                code="invalid_value",
                param="chunking_strategy",
            )


def _unknown(name: str, value: str, choices: Sequence[str]) -> ApiError:
    return ApiError(
        400,
        f"{name}: it is {value[:80]!r}; it must be {', '.join(choices[:-1])}"
        f"{' or ' if len(choices) > 1 else ''}{choices[-1]}.",
        code="invalid_value",
        param=name,
    )


def _ms(seconds: float) -> float:
    return round(seconds, 3)
