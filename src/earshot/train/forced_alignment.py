"""When each phone of a recording is said, from its transcript: pocketsphinx, forced to it.

The networks here are trained by CTC and say that a phone was heard, not where it begins; a hidden
Markov model says both, to 10 ms. Knows nothing of what the times are for.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from earshot.core.features import SAMPLE_RATE_HZ
from earshot.data.phones import PHONES, phone_ids
from earshot.data.pronunciation import Lexicon
from earshot.data.spoken import spoken_form
from earshot.train.corpora import Row, RowReader

if TYPE_CHECKING:
    from pocketsphinx import Decoder

__all__ = ["Aligned", "align"]

_ROWS_A_TASK = 12


@dataclass(frozen=True, slots=True)
class Aligned:
    """The phones of one recording, in order; pauses are left out.

    Args:
        phones: Ids, 1 and up.
        starts: Frames of 10 ms.
        ends: Likewise, the first frame that is not the phone's any more.
    """

    phones: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]


def align(
    rows: Sequence[Row],
    lexicon: Lexicon,
    *,
    processes: int = 1,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Aligned | None]:
    """Phones and their times.

    Args:
        rows: Recordings with transcripts.
        lexicon: How their words are said; the likeliest pronunciation of each that fits is found.
        processes: That align at the same time.
        progress: Called with (rows done, rows).

    Returns:
        One each, in order; None where the transcript does not fit what is heard.
    """
    dictionary = _dictionary({word for row in rows for word in _words(row)}, lexicon)
    tasks = [rows[i : i + _ROWS_A_TASK] for i in range(0, len(rows), _ROWS_A_TASK)]
    done: list[Aligned | None] = []
    pool = ProcessPoolExecutor(processes) if processes > 1 else None
    try:
        found: Iterable[list[Aligned | None]]
        found = (pool.map if pool else map)(_align, tasks, [dictionary] * len(tasks))
        for some in found:
            done += some
            progress(len(done), len(rows))
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    return done


def _words(row: Row) -> list[str]:
    return spoken_form(row.text).split()


def _dictionary(words: Iterable[str], lexicon: Lexicon) -> str:
    """Lines of a dictionary of pocketsphinx; the second pronunciation of "the" is "the(2)"."""
    lines = []
    for word in sorted(words):
        with suppress(ValueError):  # nobody can say it: its rows cannot be aligned
            for n, said in enumerate(lexicon.pronounce(word)):
                name = word if n == 0 else f"{word}({n + 1})"
                lines.append(" ".join([name, *(PHONES[phone - 1] for phone in said)]) + "\n")
    return "".join(lines)


def _align(rows: Sequence[Row], dictionary: str) -> list[Aligned | None]:
    from pocketsphinx import Decoder, get_model_path

    reader = RowReader()
    with tempfile.TemporaryDirectory(prefix="earshot-align-") as folder:
        path = Path(folder) / "words.dict"
        path.write_text(dictionary, encoding="utf-8")
        model = os.path.join(get_model_path(), "en-us", "en-us")
        decoder = Decoder(
            hmm=model,
            dict=str(path),
            lm=None,
            samprate=float(SAMPLE_RATE_HZ),
            loglevel="FATAL",
            # Wider beams fail more often (13 of 60 recordings with the usual ones, 1 with these).
            beam=1e-20,
            pbeam=1e-20,
            wbeam=1e-12,
        )
        found: list[Aligned | None] = []
        for row in rows:
            samples = np.clip(reader.read(row), -1.0, 1.0)
            if samples.size == 0:
                found.append(None)
                continue
            sound = (samples * 32767).astype(np.int16).tobytes()
            try:
                decoder.set_align_text(" ".join(_words(row)))
                _hear(decoder, sound)
                decoder.set_alignment()  # of the words that were found: now their phones
                _hear(decoder, sound)
            except RuntimeError:  # the only one that it raises, for whatever does not fit
                with suppress(RuntimeError):
                    decoder.end_utt()
                found.append(None)
                continue
            said = [
                (phone_ids(phone.name)[0], phone.start, phone.start + phone.duration)
                for word in decoder.get_alignment()
                for phone in word
                if phone.name in PHONES
            ]
            columns = (tuple(column) for column in zip(*said, strict=True))
            found.append(Aligned(*columns) if said else None)
    return found


def _hear(decoder: Decoder, sound: bytes) -> None:
    decoder.reinit_feat()  # what was heard before must not matter
    decoder.start_utt()
    decoder.process_raw(sound, full_utt=True)
    decoder.end_utt()
