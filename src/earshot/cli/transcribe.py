"""`earshot transcribe`: recordings in, text, JSON or captions out.

Decides what is heard, in which order, and where results go. One bad recording is reported and
the others are still done. Knows nothing of how audio is read or words are found.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from earshot.cli.console import EXPECTED_FAILURE, Display, note, reported, usage_error
from earshot.cli.destination import file_stem

if TYPE_CHECKING:
    from io import BufferedReader

    from earshot.cli.destination import Destination
    from earshot.core.transcript import Transcript
    from earshot.core.understanding import Understanding
    from earshot.data.audio import AudioFile, Samples
    from earshot.data.pipe import AudioPipe
    from earshot.decode.attention import AttentionMap
    from earshot.decode.lattice import Lattice
    from earshot.decode.rescoring import Rescorer
    from earshot.session.recognizer import Recognizer, Stream

STDIN = "-"
PARTIAL_CHUNK_S = 0.1  # how often --stream looks for new words, in seconds of audio
WORDS_PER_LOOK_S = 10_000  # so many words delay the next look by a second
SHOWN_PROBLEMS = 20  # `earshot hotwords check` shows all
SLOW_TO_COMPILE_S = 1.0  # commands that take longer say so


class Form(StrEnum):
    """How a transcript is written."""

    TEXT = "text"
    JSON = "json"
    SRT = "srt"
    VTT = "vtt"
    CTM = "ctm"


CAPTIONS = (Form.SRT, Form.VTT)


class LatticeForm(StrEnum):
    """How a lattice is written; as `earshot.decode.lattice_formats.LatticeFormat`."""

    SLF = "slf"
    KALDI = "kaldi"
    JSON = "json"
    PROTOBUF = "pb"


class Method(StrEnum):
    """How the best words are searched for."""

    GREEDY = "greedy_search"
    BEAM = "modified_beam_search"


CommandsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE_OR_FOLDER",
        help="Listen for these command templates and say what is asked for; repeatable.",
        show_default=False,
    ),
]
PronunciationsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="How words of the commands are pronounced, in the lines of CMUdict.",
        show_default=False,
    ),
]
CommandThresholdOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Accept a command from this confidence on; default: as calibrated.",
        show_default=False,
    ),
]


HotwordsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Phrases to hear more readily, one a line, each perhaps with ` :SCORE`.",
        show_default=False,
    ),
]
HotwordsScoreOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=20.0,
        help="Nats a word piece for phrases without a score; 0 changes nothing.",
        show_default=False,
    ),
]
LmOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Language model from `earshot lm`; default: the one inside the model, if any.",
        show_default=False,
    ),
]
LmWeightOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=10.0,
        help="How much the language model counts; 0 leaves it out. Default: as its file says.",
        show_default=False,
    ),
]
InternalLmWeightOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=10.0,
        help="How much of the network's own language model is taken off.",
        show_default=False,
    ),
]
LmBonusOption = Annotated[
    float | None,
    typer.Option(
        min=-100.0,
        max=100.0,
        help="Nats for each symbol of the language model.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One stretch of sound to transcribe.

    Args:
        name: What messages and JSON call it: the path as given, or the manifest's id.
        recording: Its name in CTM, and of its file where each gets one.
        source: Path, or "-" for standard input.
        offset_s: Where it starts in the file.
        duration_s: How long it is; None means to the end.
    """

    name: str
    recording: str
    source: Path | str
    offset_s: float = 0.0
    duration_s: float | None = None


def transcribe(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE", help="Audio files; - reads standard input.", show_default=False
        ),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Transcribe the rows of a JSONL manifest instead.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", help="Write here, all at once at the end; a folder gets a file each."
        ),
    ] = None,
    form: Annotated[
        Form | None,
        typer.Option(
            "--format", "-f", help="Default: text, and json for a manifest.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="A .ear file; without it, the embedded model."),
    ] = None,
    commands: CommandsOption = None,
    command_threshold: CommandThresholdOption = None,
    pronunciations: PronunciationsOption = None,
    hotwords: HotwordsOption = None,
    hotwords_score: HotwordsScoreOption = None,
    lm: LmOption = None,
    lm_weight: LmWeightOption = None,
    internal_lm_weight: InternalLmWeightOption = None,
    lm_bonus: LmBonusOption = None,
    written: Annotated[
        bool, typer.Option("--written", help="Write numbers, times and amounts in figures.")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Show the words while they are being recognised.")
    ] = False,
    method: Annotated[
        Method, typer.Option(help="How to search; the beam is slower and a little better.")
    ] = Method.BEAM,
    max_active_paths: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="Width of the beam; default 4, 8 with a language model, 16 with hotwords.",
            show_default=False,
        ),
    ] = None,
    nbest: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Also say the N likeliest hypotheses (text, json)."),
    ] = None,
    lattice: Annotated[
        str | None,
        typer.Option(
            metavar="FILE_OR_FOLDER",
            help="Write what else may have been said, as a graph: .slf, .lat, .json or .pb.",
            show_default=False,
        ),
    ] = None,
    lattice_format: Annotated[
        LatticeForm | None,
        typer.Option(help="slf, kaldi, json or pb; default: by the file's ending."),
    ] = None,
    lattice_paths: Annotated[
        int, typer.Option(min=1, max=64, help="Width of the beam with --nbest or --lattice.")
    ] = 32,
    rescorer: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Let `earshot serve rescore` rank what may have been said; no sound is sent.",
            show_default=False,
        ),
    ] = None,
    rescorer_token_file: Annotated[
        Path | None, typer.Option(help="Its first line is the token for --rescorer.")
    ] = None,
    rescorer_deadline_ms: Annotated[
        float, typer.Option(min=1, max=600_000, help="How long --rescorer may take.")
    ] = 300,
    lattice_beam: Annotated[
        float, typer.Option(min=0.0, max=1000.0, help="How far a lattice reaches, in nats.")
    ] = 16.0,
    attention_weight: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=10.0,
            help="What attention to hotwords adds, with trained biasing; default: 0.5.",
        ),
    ] = None,
    attention_map: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write a page that shows which hotword each frame attends to.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Turn recordings into text, JSON, captions (srt, vtt) or ctm.

    Reads WAV, FLAC, MP3, Ogg and whatever else libsndfile knows, at any rate and channel count.
    With --commands, text lines end in the intent and its slots, and JSON objects carry them.
    Results go to stdout (or --output), everything else to stderr.
    """
    if as_json and form not in (None, Form.JSON):
        raise usage_error(f"--json with --format {form.value if form else ''}: choose one of them.")
    if bool(files) == (manifest is not None):
        raise usage_error(
            "transcribe: needs audio files or --manifest, one of the two. "
            "See `earshot transcribe --help`."
        )
    check_command_options(commands, command_threshold, pronunciations, hotwords)
    if rescorer is None and rescorer_token_file is not None:
        raise usage_error("--rescorer-token-file: needs --rescorer, which the token is for.")
    check_hotwords_options(hotwords, hotwords_score)
    if attention_map is not None and hotwords is None:
        raise usage_error("--attention-map: needs --hotwords, the phrases that it shows.")
    if files and files.count(STDIN) > 1:
        raise usage_error("transcribe: - stands for standard input and can be given only once.")
    if form is None:
        form = Form.JSON if as_json or manifest else Form.TEXT
    if nbest is not None and form not in (Form.TEXT, Form.JSON):
        raise usage_error(
            f"--nbest with --format {form.value}: only text and json have a place for it."
        )
    if lattice_format is not None and lattice is None:
        raise usage_error("--lattice-format: needs --lattice, which it is the format of.")

    with reported():
        jobs = _manifest_jobs(manifest) if manifest else _file_jobs(files or [])
    # Asked of the text: a Path forgets a closing slash.
    into_folder = output is not None and (output.endswith("/") or Path(output).is_dir())
    jobs = _told_apart(jobs, written_as=file_stem if into_folder else str)
    if form in CAPTIONS and len(jobs) > 1 and not into_folder:
        raise usage_error(
            f"--format {form.value}: a caption file belongs to one recording and there are "
            f"{len(jobs)}. Name a folder, such as --output captions/"
        )

    with reported():
        from earshot.cli.destination import opened

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
            max_active_paths=max_active_paths,
            attention_weight=attention_weight,
            lattice_paths=lattice_paths,
            lattice_beam=lattice_beam,
            rescorer=_rescorer(rescorer, rescorer_token_file, rescorer_deadline_ms),
        )
        maps = None if attention_map is None else _AttentionMaps(attention_map, recognizer)
        tally = _Tally()
        with (
            Display(len(jobs), bar=not stream) as display,
            opened(
                Path(output) if output else None,
                into_folder=into_folder,
                form=form.value,
                display=display,
            ) as place,
        ):
            label = _label(manifest, jobs)
            if form is Form.TEXT and into_folder:
                label = None  # the file's name says it
            writer = _Writer(
                form,
                place,
                label=label,
                model=recognizer.name,
                nbest=nbest,
                lattices=_lattice_place(lattice, lattice_format, len(jobs)),
            )
            for job in jobs:
                _do(
                    job,
                    recognizer,
                    writer,
                    tally,
                    display,
                    stream=stream,
                    written=written,
                    maps=maps,
                )
            if not tally.done:
                # Leaves through `opened`, so that an output file keeps what it held.
                display.close()
                raise _failed(tally, len(jobs))
        if maps is not None:
            maps.write()
    if tally.failed:
        raise _failed(tally, len(jobs))
    note(tally.summary(len(jobs)))


def _rescorer(url: str | None, token_file: Path | None, deadline_ms: float) -> Rescorer | None:
    """The client that options ask for.

    Raises:
        ConfigError: The address or the token cannot be used.
    """
    if url is None:
        return None
    from earshot.core.errors import ConfigError
    from earshot.decode.rescoring_client import ClientConfig, RescoringClient

    token = None
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8").strip().partition("\n")[0].strip()
        except (OSError, UnicodeDecodeError) as err:
            raise ConfigError(f"{token_file}: cannot be read ({err}). Check the path.") from None
        if not token:
            raise ConfigError(f"{token_file}: its first line is empty. Write the token there.")
    return RescoringClient(url, token=token, config=ClientConfig(deadline_ms=deadline_ms))


def check_command_options(
    commands: Sequence[str] | None,
    threshold: float | None,
    pronunciations: Path | None,
    hotwords: Path | None = None,
) -> None:
    """Refuse what is of no use without commands, or without commands and hotwords.

    Raises:
        typer.Exit: With code 2, after a line on stderr.
    """
    if threshold is not None and not commands:
        raise usage_error("--command-threshold: needs --commands, which it is the threshold of.")
    if pronunciations is not None and not commands and hotwords is None:
        raise usage_error(
            "--pronunciations: needs --commands or --hotwords, whose words they are of."
        )


def check_hotwords_options(hotwords: Path | None, score: float | None) -> None:
    """Refuse a score of nothing.

    Raises:
        typer.Exit: With code 2, after a line on stderr.
    """
    if score is not None and hotwords is None:
        raise usage_error("--hotwords-score: needs --hotwords, which it is the score of.")


def loaded(
    model: Path | None,
    *,
    commands: Sequence[str] | None,
    command_threshold: float | None,
    pronunciations: Path | None,
    **search: Any,
) -> Recognizer:
    """The recogniser that options ask for; says once on stderr how much it listens for.

    Args:
        model: A `.ear` file; None takes the embedded model.
        commands: Files or folders of command templates.
        command_threshold: Confidence from which on a command is accepted; None: as calibrated.
        pronunciations: File of the user's own.
        **search: Other arguments of `Recognizer.load`.
    """
    from earshot.session.recognizer import Recognizer

    if not commands:
        with _silent_biasing():
            recognizer = Recognizer.load(model, pronunciations=pronunciations, **search)
        if search.get("hotwords") is not None:
            _say_hotwords(recognizer)
        return recognizer
    from earshot.understand.templates import load_commands

    started = time.perf_counter()
    templates = load_commands(commands)
    with _silent_biasing():
        recognizer = Recognizer.load(
            model,
            commands=templates,
            command_threshold=command_threshold,
            pronunciations=pronunciations,
            **search,
        )
    if pronunciations is not None and not recognizer.phones:
        note(f"warning: {recognizer.name} hears no phones; --pronunciations changes nothing")
    seconds = time.perf_counter() - started
    ready = f", ready after {seconds:.1f} s" if seconds > SLOW_TO_COMPILE_S else ""
    count = templates.count_sentences()
    note(f"commands: {count:,} sentence{'' if count == 1 else 's'}{ready}")
    if search.get("hotwords") is not None:
        _say_hotwords(recognizer)
    return recognizer


@contextmanager
def _silent_biasing() -> Iterator[None]:
    """What the library would log of each hotword is said by `_say_hotwords`, once."""
    logger = logging.getLogger("earshot.decode.biasing")
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def _say_hotwords(recognizer: Recognizer) -> None:
    hotwords = recognizer.hotwords
    if hotwords is None:
        return
    for problem in hotwords.problems[:SHOWN_PROBLEMS]:
        note(f"warning: {problem}")
    more = len(hotwords.problems) - SHOWN_PROBLEMS
    if more > 0:
        note(f"warning: {more:,} more; `earshot hotwords check` names them all")
    note(f"hotwords: {len(hotwords):,} phrase{'' if len(hotwords) == 1 else 's'}")


def _failed(tally: _Tally, total: int) -> typer.Exit:
    note(tally.summary(total))
    return typer.Exit(EXPECTED_FAILURE)


class _Tally:
    """What was done so far, and how fast."""

    def __init__(self) -> None:
        self.done = self.failed = 0
        self.audio_s = self.wall_s = 0.0
        self.rescoring: Counter[str] = Counter()  # by reason; "" where it was rescored

    @property
    def real_time_factor(self) -> float:
        return self.wall_s / self.audio_s if self.audio_s else 0.0

    def summary(self, total: int) -> str:
        text = f"{self.done} of {total} done"
        if self.done:
            text += (
                f": {self.audio_s:.1f} s of audio in {self.wall_s:.2f} s, "
                f"real-time factor {self.real_time_factor:.4f}"
            )
        if self.rescoring:
            text += f"; {self.rescoring['']} rescored"
            kept = [f"{n} {why}" for why, n in sorted(self.rescoring.items()) if why]
            text += f" (first pass kept: {', '.join(kept)})" if kept else ""
        return f"{text}; {self.failed} failed" if self.failed else text


class _AttentionMaps:
    """What the recordings attended to, on one page.

    Args:
        path: The page to make or replace.
        recognizer: Must have trained biasing.

    Raises:
        ConfigError: It has none.
    """

    def __init__(self, path: Path, recognizer: Recognizer) -> None:
        from earshot.core.errors import ConfigError

        if not recognizer.attends:
            raise ConfigError(
                f"--attention-map: the model '{recognizer.name}' has no trained biasing, so it "
                "attends to no list. Take one that has (docs/guides/trained-biasing.md)."
            )
        self._path = path
        self._recordings: list[tuple[str, Transcript, AttentionMap | None]] = []

    def add(self, name: str, transcript: Transcript, stream: Stream) -> None:
        """Take what a recording attended to."""
        self._recordings.append((name, transcript, stream.attention()))

    def write(self) -> None:
        """Write the page, whole or not at all."""
        from earshot.cli.attention_page import attention_page
        from earshot.data.atomic import replaced_file

        with replaced_file(self._path) as out:
            out.write(attention_page(self._recordings).encode())
        note(f"attention of {len(self._recordings)} recordings: {self._path}")


class _Writer:
    """Puts a transcript into its form and sends it where it goes."""

    def __init__(
        self,
        form: Form,
        place: Destination,
        *,
        label: str | None,
        model: str,
        nbest: int | None = None,
        lattices: _LatticePlace | None = None,
    ) -> None:
        self._form, self._place, self._label, self._model = form, place, label, model
        self._nbest, self._lattices = nbest, lattices

    @property
    def wants_lattice(self) -> bool:
        return self._nbest is not None or self._lattices is not None

    def write(
        self,
        job: Job,
        transcript: Transcript,
        understanding: Understanding | None,
        *,
        processing_s: float,
        lattice: Lattice | None = None,
    ) -> None:
        if lattice is not None and self._lattices is not None:
            self._lattices.write(job.recording, lattice)
        rendered = self._rendered(job, transcript, understanding, processing_s, lattice)
        self._place.write(job.recording, rendered)

    def partial(self, job: Job, text: str, *, t_s: float) -> None:
        """Only JSON has partial results: any other form is a document."""
        if self._form is Form.JSON:
            value = {"type": "partial", "t_s": round(t_s, 3), "text": text}
            self._place.write_partial(self._json(job, value))

    def _rendered(
        self,
        job: Job,
        transcript: Transcript,
        understanding: Understanding | None,
        processing_s: float,
        lattice: Lattice | None,
    ) -> str:
        from earshot.cli import formats

        if self._form is Form.SRT:
            return formats.srt(transcript.words)
        if self._form is Form.VTT:
            return formats.vtt(transcript.words)
        if self._form is Form.CTM:
            return formats.ctm(transcript.words, recording=job.recording)
        if self._form is Form.TEXT:
            text = f"{job.name}: {transcript.text}" if self._label else transcript.text
            more = ""
            if lattice is not None and self._nbest is not None:
                more = formats.nbest_lines(lattice, self._nbest)
            return formats.text_line(text, understanding) + more
        value = formats.transcript_object(
            transcript,
            processing_s=processing_s,
            model=self._model,
            understanding=understanding,
        )
        if lattice is not None and self._nbest is not None:
            value["nbest"] = formats.nbest_objects(lattice, self._nbest)
        return self._json(job, value)

    def _json(self, job: Job, value: dict[str, object]) -> str:
        from earshot.cli import formats

        return formats.json_line({self._label: job.name, **value} if self._label else value)


@dataclass(frozen=True, slots=True)
class _LatticePlace:
    """Where lattices go: one file, or a file each in a folder."""

    path: Path
    form: LatticeForm
    into_folder: bool

    def write(self, recording: str, lattice: Lattice) -> None:
        from earshot.data.atomic import replaced_file
        from earshot.decode.lattice_formats import LatticeFormat, render_lattice

        path = self.path
        if self.into_folder:
            path = path / f"{file_stem(recording)}.{_LATTICE_ENDINGS[self.form]}"
        data = render_lattice(lattice, LatticeFormat(self.form.value), utterance=recording)
        with replaced_file(path) as file:
            file.write(data)


_LATTICE_ENDINGS = {
    LatticeForm.SLF: "slf",
    LatticeForm.KALDI: "lat",
    LatticeForm.JSON: "json",
    LatticeForm.PROTOBUF: "pb",
}


def _lattice_place(
    lattice: str | None, form: LatticeForm | None, recordings: int
) -> _LatticePlace | None:
    if lattice is None:
        return None
    from earshot.core.errors import ConfigError
    from earshot.decode.lattice_formats import format_of

    path = Path(lattice)
    into_folder = lattice.endswith("/") or path.is_dir()
    if into_folder:
        path.mkdir(parents=True, exist_ok=True)
        return _LatticePlace(path, form or LatticeForm.SLF, into_folder=True)
    if recordings > 1:
        raise usage_error(
            f"--lattice {lattice}: a file holds one lattice and there are {recordings} recordings. "
            "Name a folder, such as --lattice lattices/"
        )
    if form is None:
        try:
            form = LatticeForm(format_of(path).value)
        except ConfigError as err:
            raise usage_error(str(err)) from None
    return _LatticePlace(path, form, into_folder=False)


def _do(
    job: Job,
    recognizer: Recognizer,
    writer: _Writer,
    tally: _Tally,
    display: Display,
    *,
    stream: bool,
    written: bool,
    maps: _AttentionMaps | None,
) -> None:
    """Transcribe one recording; a recording that cannot be used is reported and counted."""
    from earshot.core.errors import EarshotError

    def words_of(stream: Stream) -> Transcript:
        from earshot.cli.formats import in_figures

        return in_figures(stream.result()) if written else stream.result()

    started = time.perf_counter()
    shown, next_look_s = "", 0.0
    try:
        for heard in _heard(
            job,
            recognizer,
            chunk_s=PARTIAL_CHUNK_S if stream else None,
            lattice=writer.wants_lattice,
            keep_attention=maps is not None,
        ):
            audio_s = tally.audio_s + heard.audio_s
            wall_s = tally.wall_s + time.perf_counter() - started
            display.advance(
                job.name,
                finished=tally.done + tally.failed + heard.share,
                real_time_factor=wall_s / audio_s if audio_s else 0.0,
            )
            if stream and heard.audio_s >= next_look_s:
                so_far = words_of(heard.stream)
                # A result holds all words since the start: look at a long one less often, so
                # that the work stays in proportion to the audio.
                next_look_s = heard.audio_s + len(so_far.words) / WORDS_PER_LOOK_S
                if so_far.text != shown:
                    shown = so_far.text
                    display.partial(heard.audio_s, shown)
                    writer.partial(job, shown, t_s=heard.audio_s)
        transcript = words_of(heard.stream)
        understanding = heard.stream.understanding()
        if maps is not None:
            maps.add(job.name, transcript, heard.stream)
        lattice = heard.stream.lattice() if writer.wants_lattice else None
        processing_s = time.perf_counter() - started
        writer.write(job, transcript, understanding, processing_s=processing_s, lattice=lattice)
    except EarshotError as err:
        tally.failed += 1
        display.error(err)
        return
    tally.done += 1
    if transcript.rescoring is not None:
        tally.rescoring[transcript.rescoring.reason] += 1
    tally.audio_s += transcript.duration_s
    tally.wall_s += processing_s


@dataclass(frozen=True, slots=True)
class _Heard:
    """A stream after one more piece of a recording, and how far it has come."""

    stream: Stream
    audio_s: float
    share: float


def _heard(
    job: Job,
    recognizer: Recognizer,
    *,
    chunk_s: float | None,
    lattice: bool = False,
    keep_attention: bool = False,
) -> Iterator[_Heard]:
    """Feed a recording piece by piece; after the last item the stream holds all of it.

    Args:
        job: What to hear.
        recognizer: Makes the stream.
        chunk_s: Size of a piece; None takes blocks as they are read.
        lattice: The stream is to record one.
        keep_attention: The stream remembers what its frames attend to.

    Yields:
        The one stream, again and again, and once more when the input is finished.
    """
    wanted: dict[str, Any] = {}  # what was not asked for is not named
    if lattice:
        wanted["lattice"] = True
    if keep_attention:
        wanted["keep_attention"] = True
    stream = recognizer.create_stream(**wanted)
    with _opened(job.source) as audio:
        rate = audio.sample_rate_hz
        total_s = job.duration_s or max(0.0, (audio.duration_s or 0.0) - job.offset_s)
        fed = 0
        blocks = audio.blocks(offset_s=job.offset_s, duration_s=job.duration_s)
        for block in _until_interrupted(blocks) if job.source == STDIN else blocks:
            step = len(block) if chunk_s is None else round(chunk_s * rate)
            for start in range(0, len(block), step):
                chunk = block[start : start + step]
                stream.accept_waveform(rate, chunk)
                stream.decode()
                fed += len(chunk)
                yield _Heard(stream, fed / rate, min(1.0, fed / rate / total_s) if total_s else 0.0)
    stream.input_finished()
    stream.decode()
    yield _Heard(stream, fed / rate, 1.0)


def _until_interrupted(blocks: Iterator[Samples]) -> Iterator[Samples]:
    """Ctrl-C ends what a pipe brings, as it ends the program that writes it; nothing is lost.

    It must wake a read that waits for more, but not break off the search of what has come.
    """
    asked = reading = False

    def ask(_signal: int, _frame: object) -> None:
        nonlocal asked
        asked = True
        if reading:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, ask)
    try:
        while not asked:
            reading = True
            block = next(blocks, None)
            reading = False
            if block is None:
                return
            yield block
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGINT, before)


def _opened(source: Path | str) -> AudioFile | AudioPipe:
    from earshot.data.audio import AudioFile
    from earshot.data.pipe import AudioPipe

    if source == STDIN:
        return AudioPipe(cast("BufferedReader", sys.stdin.buffer))
    return AudioFile(source)


def _file_jobs(files: Sequence[str]) -> list[Job]:
    stems = Counter(Path(file).stem for file in files)
    return [
        Job(
            name=file,
            recording=_recording_name(file, unique=stems[Path(file).stem] == 1),
            source=file,
        )
        for file in files
    ]


def _told_apart(jobs: Sequence[Job], *, written_as: Callable[[str], str]) -> list[Job]:
    """Jobs whose recordings differ as written: where one comes up again, it ends in -2, -3..."""
    taken = {written_as(job.recording) for job in jobs}
    seen: set[str] = set()
    apart = []
    for job in jobs:
        recording = job.recording
        number = 1
        while written_as(recording) in (seen if number == 1 else taken):
            number += 1
            recording = f"{job.recording}-{number}"
        seen.add(written_as(recording))
        taken.add(written_as(recording))
        apart.append(replace(job, recording=recording))
    return apart


def _recording_name(file: str, *, unique: bool) -> str:
    if file == STDIN:
        return "stdin"
    path = Path(file)
    return path.stem if unique else "_".join(part for part in path.parts if part not in "/..")


def _manifest_jobs(manifest: Path) -> list[Job]:
    from earshot.data.manifest import read_manifest

    return [
        Job(
            name=utterance.id,
            recording=utterance.id,
            source=utterance.audio,
            offset_s=utterance.offset_s,
            duration_s=utterance.duration_s,
        )
        for utterance in read_manifest(manifest)
    ]


def _label(manifest: Path | None, jobs: Sequence[Job]) -> str | None:
    """The JSON key that says which recording an object is about; one file needs none."""
    if manifest is not None:
        return "id"
    return "file" if len(jobs) > 1 else None
