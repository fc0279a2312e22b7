"""Earshot's own WebSocket, `/v1/stream`: sound in, events out. See docs/formats/stream.md.

Checks every message; a client that breaks a rule gets what was said so far, one fatal error, and
the end of its own connection.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from starlette.websockets import WebSocket

from earshot import __version__
from earshot.core.events import StreamError
from earshot.data.audio import MAX_RATE_HZ, MIN_RATE_HZ
from earshot.serve import sockets
from earshot.serve.engine import Done, Engine, Problem, RefusedError, Session
from earshot.serve.languages import LanguageError, check_language
from earshot.serve.logs import log
from earshot.serve.sockets import Disconnected, MessageError, json_object, samples_of

SUBPROTOCOL = "earshot.v1"
START_KEYS = (
    "type", "sample_rate", "encoding", "hotwords", "commands", "nbest", "lattice", "language",
)  # fmt: skip
MAX_HOTWORDS = 1000
MAX_PHRASE_CHARS = 200
MAX_BOOST = 100.0
MAX_NBEST = 100
MAX_UNKNOWN = 8  # keys that are complained about


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The first message of a stream, checked.

    Args:
        sample_rate_hz: Of the sound to come.
        encoding: "s16le" or "f32le".
        hotwords: Phrases and boosts.
        commands: Name of the command templates, or None.
        nbest: How many texts a final result is to have.
        lattice: Whether it is to have a lattice.
        language: Of the speech.
        unknown: Keys that were sent and mean nothing.
    """

    sample_rate_hz: int = 16_000
    encoding: str = "s16le"
    hotwords: tuple[tuple[str, float], ...] = ()
    commands: str | None = None
    nbest: int = 1
    lattice: bool = False
    language: str | None = None
    unknown: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """What is asked of the stream beyond the usual."""
        options: dict[str, Any] = {}
        if self.hotwords:
            options["hotwords"] = self.hotwords
        if self.nbest > 1:
            options["nbest"] = self.nbest
        if self.lattice:
            options["lattice"] = True
        return options


@dataclass(slots=True)
class _Numbered:
    """The way out: every message gets the next number."""

    socket: WebSocket
    session: Session | None = None
    seq: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def send(self, message: dict[str, Any]) -> None:
        async with self.lock:
            kind = message.pop("type")
            numbered = {"type": kind, "seq": self.seq, **message}
            self.seq += 1
            await sockets.send(self.socket, sockets.to_json(numbered), self.session)

    async def error(self, code: str, message: str, *, fatal: bool) -> None:
        await self.send(StreamError(code=code, message=message, fatal=fatal).to_json())


async def serve(
    socket: WebSocket, engine: Engine, *, client: str, language: str, commands: tuple[str, ...]
) -> None:
    """Serve one connection until it is closed.

    Args:
        socket: Not accepted yet.
        engine: Decodes.
        client: Who it is.
        language: Of the model.
        commands: Names of the command templates that the model listens for.
    """
    offered = socket.scope.get("subprotocols", [])
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
    out = _Numbered(socket)
    try:
        try:
            first = await asyncio.wait_for(sockets.receive(socket), engine.limits.idle_timeout_s)
            if isinstance(first, bytes):
                raise MessageError(
                    "start_expected", 'start: sound came first. Send {"type":"start"} before it.'
                )
            start = parse_start(json_object(first), language=language, commands=commands)
            opened = engine.open(client, protocol="stream", options=start.options)
        except TimeoutError:
            await _refuse(out, "idle", "start: nothing was received. Send it at once.")
            return
        except MessageError as err:
            await _refuse(out, err.code, str(err))
            return
        except RefusedError as err:
            await _refuse(out, err.code, str(err), code=sockets.TRY_LATER)
            return
        async with opened as session:
            out.session = session
            await _converse(socket, session, out, start, engine)
    except Disconnected:
        pass


async def _refuse(out: _Numbered, name: str, message: str, *, code: int = sockets.POLICY) -> None:
    await out.error(name, message, fatal=True)
    await sockets.close(out.socket, code, name)


async def _converse(
    socket: WebSocket, session: Session, out: _Numbered, start: Start, engine: Engine
) -> None:
    await out.send(
        {
            "type": "ready",
            "model": engine.recognizer.name,
            "sample_rate": start.sample_rate_hz,
            "version": __version__,
        }
    )
    for name in engine.unsupported(start.options):
        await out.error(
            "unsupported", f"{name}: this server does not have it. It is left out.", fatal=False
        )
    for key in start.unknown:
        await out.error(
            "unknown_key",
            f"start: there is no key {key!r}; it is left out. The keys are "
            f"{', '.join(START_KEYS)}.",
            fatal=False,
        )
    await sockets.together(_read(socket, session, out, start, engine), _write(session, out))
    log(
        "stream closed",
        client=session.client,
        protocol=session.protocol,
        audio_s=round(session.audio_s, 3),
        utterances=session.utterances,
    )


async def _read(
    socket: WebSocket, session: Session, out: _Numbered, start: Start, engine: Engine
) -> None:
    try:
        while True:
            message = await sockets.receive(socket)
            if isinstance(message, bytes):
                await session.send(start.sample_rate_hz, samples_of(message, start.encoding))
                continue
            request = json_object(message)
            kind = request.get("type")
            if kind == "flush":
                session.flush()
            elif kind == "end":
                session.finish()
                break
            elif kind == "hotwords":
                hotwords = parse_hotwords(request.get("hotwords", []))
                if engine.unsupported({"hotwords": hotwords}):
                    await out.error(
                        "unsupported",
                        "hotwords: this server does not have them. They are left out.",
                        fatal=False,
                    )
                else:
                    session.change("set_hotwords", hotwords=hotwords)
            elif kind == "start":
                raise MessageError("bad_message", "start: it came before. Send it once.")
            else:
                raise MessageError(
                    "bad_message",
                    f"type: it is {str(kind)[:40]!r}; after start it must be hotwords, flush or "
                    "end.",
                )
    except MessageError as err:
        session.fail(Problem(err.code, str(err)))
    # Whatever comes now is of no interest, except that the client is gone.
    while True:
        await sockets.receive(socket)


async def _write(session: Session, out: _Numbered) -> None:
    problem: Problem | None = None
    async for event in session.events():
        if isinstance(event, Problem):
            problem = event
            await out.error(event.code, event.message, fatal=True)
        elif isinstance(event, Done):
            if problem is None:
                await out.send(
                    {
                        "type": "closed",
                        "utterances": event.utterances,
                        "audio_s": round(event.audio_s, 3),
                    }
                )
                await sockets.close(out.socket)
            else:
                code = sockets.INTERNAL if problem.code == "internal" else sockets.POLICY
                await sockets.close(out.socket, code, problem.code)
        else:
            await out.send(event.to_json())


def parse_start(message: dict[str, Any], *, language: str, commands: tuple[str, ...] = ()) -> Start:
    """Check the first message.

    Args:
        message: The JSON object.
        language: Of the model.
        commands: Names of templates that there are.

    Returns:
        What it asks for.

    Raises:
        MessageError: It is no `start`, or one of its values cannot be used.
    """
    if message.get("type") != "start":
        raise MessageError(
            "start_expected",
            f"type: the first message is {str(message.get('type'))[:40]!r}; it must be start.",
        )
    rate = message.get("sample_rate", 16_000)
    if not _is_number(rate) or rate != int(rate) or not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise MessageError(
            "bad_message",
            f"sample_rate: it is {str(rate)[:40]}; it must be a whole number in "
            f"{MIN_RATE_HZ}..{MAX_RATE_HZ}.",
        )
    encoding = message.get("encoding", "s16le")
    if encoding not in ("s16le", "f32le"):
        raise MessageError(
            "bad_message", f"encoding: it is {str(encoding)[:40]!r}; it must be s16le or f32le."
        )
    wanted = message.get("commands")
    if wanted is not None and wanted not in commands:
        known = f"there are {', '.join(commands)}" if commands else "there are none"
        raise MessageError(
            "unknown_commands", f"commands: {str(wanted)[:40]!r} is not known; {known}."
        )
    nbest = message.get("nbest", 1)
    if not _is_number(nbest) or nbest != int(nbest) or not 1 <= nbest <= MAX_NBEST:
        raise MessageError(
            "bad_message", f"nbest: it is {str(nbest)[:40]}; it must lie in 1..{MAX_NBEST}."
        )
    lattice = message.get("lattice", False)
    if not isinstance(lattice, bool):
        raise MessageError(
            "bad_message", f"lattice: it is {str(lattice)[:40]}; it must be true or false."
        )
    spoken = message.get("language")
    if spoken is not None and not isinstance(spoken, str):
        raise MessageError("bad_message", "language: it must be a text such as en, or null.")
    try:
        check_language(spoken, language)
    except LanguageError as err:
        raise MessageError("unsupported_language", str(err)) from None
    return Start(
        sample_rate_hz=int(rate),
        encoding=encoding,
        hotwords=parse_hotwords(message.get("hotwords") or []),
        commands=wanted,
        nbest=int(nbest),
        lattice=lattice,
        language=spoken,
        unknown=tuple(key[:40] for key in message if key not in START_KEYS)[:MAX_UNKNOWN],
    )


def parse_hotwords(value: Any) -> tuple[tuple[str, float], ...]:
    """Check a list of phrases and boosts.

    Args:
        value: `[{"phrase": "...", "boost": 2.0}]`; the boost may be missing.

    Returns:
        Phrase and boost of each.

    Raises:
        MessageError: It is anything else, or too much.
    """
    if not isinstance(value, list) or len(value) > MAX_HOTWORDS:
        what = f"{len(value)} entries" if isinstance(value, list) else "no list"
        raise MessageError(
            "bad_message", f"hotwords: it is {what}; it must be a list of at most {MAX_HOTWORDS}."
        )
    found = []
    for number, entry in enumerate(value):
        phrase = entry.get("phrase") if isinstance(entry, dict) else entry
        boost = entry.get("boost", 2.0) if isinstance(entry, dict) else 2.0
        if (
            not isinstance(phrase, str)
            or not phrase.strip()
            or len(phrase) > MAX_PHRASE_CHARS
            or not _is_number(boost)
            or not 0 < boost <= MAX_BOOST
        ):
            raise MessageError(
                "bad_message",
                f'hotwords[{number}]: it must read {{"phrase": text of at most '
                f'{MAX_PHRASE_CHARS} characters, "boost": a number up to {MAX_BOOST:g}}}.',
            )
        found.append((" ".join(phrase.split()), float(boost)))
    return tuple(found)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
