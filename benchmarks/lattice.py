"""What a lattice holds beyond the best hypothesis, and what it costs to send.

    python benchmarks/lattice.py
    python benchmarks/lattice.py --manifest a.jsonl --manifest b.jsonl
    python benchmarks/lattice.py --part 1/2 --records 1.jsonl  # and 2/2, then
    python benchmarks/lattice.py --merge 1.jsonl 2.jsonl

Every utterance is decoded three times: as `earshot transcribe` does it, recording a lattice, and
by a search as wide that merges equal histories only, for the list of its ten best. The lattice is
then written for the wire within a budget, read back, and the oracle is taken from what was read.
Prints a table and, as the last line, one JSON object. Sets are those of `speech_sets.py`: the
test rows of all real sets, and the synthetic test. Knows nothing of how lattices are made.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scored_text import scored_text
from speech_sets import (
    REAL_SETS,
    SAMPLE_RATE_HZ,
    Clip,
    SetMissing,
    Speech,
    data_folder,
    load_set,
    read_clip,
)
from systems import default_model
from wer import figure, print_aligned, progress

from earshot.data.manifest import read_manifest
from earshot.data.scoring import WordCounts, count_words, relative_change, word_error_rate
from earshot.decode.language_model import language_model_of
from earshot.decode.lattice import Lattice, best_path, nbest, oracle
from earshot.decode.lattice_wire import decode_lattice, encode_lattice
from earshot.decode.search import SearchConfig
from earshot.runtime.session import open_model
from earshot.session.recognizer import Recognizer, usual_paths

ROOT = Path(__file__).resolve().parents[1]
SETS = (*REAL_SETS, "synthetic")
BYTES_PER_S = 200.0
AIM_WIRE_OVER_PCM = 0.01
AIM_ORACLE_OVER_BEST = 0.6
NBEST = 10
CHUNK_SAMPLES = 1600
PCM_BYTES = 2 * SAMPLE_RATE_HZ  # a second at 16 bits

Samples = npt.NDArray[np.float32]
# What a rescoring service makes of the bytes of a lattice: the words it ranks first.
Rescorer = Callable[[bytes], str]
SYSTEMS = ("transcribe", "best", "sent_best", "oracle", "whole_oracle", "nbest", "plain_nbest")


@dataclass(slots=True)
class Record:
    """One utterance: word errors of every system, and what its lattice costs."""

    set: str
    id: str
    speaker: str | None
    words: int
    samples: int
    errors: dict[str, int]
    wire_bytes: int
    arcs_sent: int
    arcs: int
    same_best: bool  # the first pass, the lattice and what was sent agree on the words
    cpu_s: dict[str, float] = field(default_factory=dict)


def relabelled(lattice: Lattice, *, rules: str, group: str) -> Lattice:
    """The lattice with its words as they are scored, as far as that can be done word by word."""
    texts = [scored_text(word, rules=rules, group=group) if word else "" for word in lattice.words]
    texts = [new or old for new, old in zip(texts, lattice.words, strict=True)]
    table = tuple(dict.fromkeys(texts))
    index = np.array([table.index(text) for text in texts], np.int32)
    return replace(lattice, word=index[lattice.word], words=table)


class Measurement:
    """Runs everything on one utterance at a time.

    Args:
        model: A `.ear` file.
        lattice_paths: Width of the search that records, and of the plain one beside it.
        lattice_beam: Nats.
        bytes_per_s: What may be sent of a second of audio; an utterance has at least 60 bytes.
        rescorer: Asked for words where given.
    """

    def __init__(
        self,
        model: Path,
        *,
        lattice_paths: int,
        lattice_beam: float,
        bytes_per_s: float,
        rescorer: Rescorer | None = None,
    ) -> None:
        opened = open_model(model)
        usual = usual_paths(language_model=language_model_of(opened) is not None, hotwords=False)
        config = SearchConfig(
            max_active_paths=usual, lattice_paths=lattice_paths, lattice_beam=lattice_beam
        )
        self._recording = Recognizer(opened, config)
        # Histories that differ in any of their last 8 pieces stay apart: a plain beam search.
        self._plain = Recognizer(opened, replace(config, lattice_context=8))
        self._bytes_per_s = bytes_per_s
        self._rescorer = rescorer

    def __call__(self, speech: Speech, clip: Clip) -> Record:
        samples = clip.read()

        def scored(text: str) -> str:
            return scored_text(text, rules=speech.rules, group=clip.group)

        reference = scored(clip.text)

        def errors(text: str) -> int:
            return count_words(reference, scored(text)).errors

        def fewest(lattice: Lattice) -> int:
            local = relabelled(lattice, rules=speech.rules, group=clip.group)
            path = oracle(local, reference.split()).path
            said = " ".join(lattice.word_at(arc) for arc in path.arcs)
            return min(errors(said), errors(best_path(lattice).text))

        cpu_s: dict[str, float] = {}
        first, _ = self._decoded(self._recording, samples, "transcribe", cpu_s)
        best, lattice = self._decoded(self._recording, samples, "lattice", cpu_s)
        _, plain = self._decoded(self._plain, samples, "plain", cpu_s)
        assert lattice is not None and plain is not None
        started = time.process_time()
        budget = max(60, int(self._bytes_per_s * len(samples) / SAMPLE_RATE_HZ))
        wire = encode_lattice(lattice, max_bytes=budget)
        cpu_s["encode"] = time.process_time() - started
        sent = decode_lattice(wire)
        found = {
            "transcribe": errors(first),
            "best": errors(best),
            "sent_best": errors(best_path(sent).text),
            "oracle": fewest(sent),
            "whole_oracle": fewest(lattice),
            "nbest": min(errors(path.text) for path in nbest(lattice, NBEST)),
            "plain_nbest": min(errors(path.text) for path in nbest(plain, NBEST)),
        }
        if self._rescorer is not None:
            found["rescored"] = errors(self._rescorer(wire))
        return Record(
            speech.name,
            clip.id,
            clip.speaker,
            len(reference.split()),
            len(samples),
            found,
            len(wire),
            sent.num_arcs,
            lattice.num_arcs,
            best == best_path(lattice).text == best_path(sent).text,
            cpu_s,
        )

    def _decoded(
        self, recognizer: Recognizer, samples: Samples, what: str, cpu_s: dict[str, float]
    ) -> tuple[str, Lattice | None]:
        started = time.process_time()
        stream = recognizer.create_stream(lattice=what != "transcribe")
        for start in range(0, len(samples), CHUNK_SAMPLES):
            stream.accept_waveform(SAMPLE_RATE_HZ, samples[start : start + CHUNK_SAMPLES])
            stream.decode()
        stream.input_finished()
        stream.decode()
        text = stream.result().text
        lattice = None if what == "transcribe" else stream.lattice()
        cpu_s[what] = time.process_time() - started
        return text, lattice


def counts(records: Sequence[Record], system: str) -> list[WordCounts]:
    """Word counts with the errors of one system; how they split does not matter here."""
    return [
        WordCounts(
            record.words - (e := min(record.errors[system], record.words)),
            e,
            0,
            record.errors[system] - e,
        )
        for record in records
    ]


def row(name: str, records: Sequence[Record]) -> dict[str, Any]:
    """One line of the table."""
    speakers = [record.speaker for record in records]
    audio_s = sum(record.samples for record in records) / SAMPLE_RATE_HZ
    wire = sum(record.wire_bytes for record in records)
    by_system = {system: counts(records, system) for system in records[0].errors}
    rates = {
        system: figure(word_error_rate(found, speakers)) for system, found in by_system.items()
    }
    out: dict[str, Any] = {
        "set": name,
        "utterances": len(records),
        "words": sum(record.words for record in records),
        "audio_s": round(audio_s, 1),
        "rates": rates,
        "wire_bytes_per_s": wire / audio_s,
        "wire_over_pcm": wire / (PCM_BYTES * audio_s),
        "utterances_over_1_percent": sum(
            record.wire_bytes > AIM_WIRE_OVER_PCM * 2 * record.samples for record in records
        ),
        "arcs_per_s": sum(record.arcs for record in records) / audio_s,
        "arcs_sent_per_s": sum(record.arcs_sent for record in records) / audio_s,
        "best_paths_that_differ": sum(not record.same_best for record in records),
        "cpu_real_time_factor": {
            what: sum(record.cpu_s[what] for record in records) / audio_s
            for what in records[0].cpu_s
        },
    }
    for name_, base, system in (
        ("oracle_over_best", "best", "oracle"),
        ("oracle_over_nbest", "nbest", "oracle"),
        ("best_over_transcribe", "transcribe", "best"),
    ):
        if sum(c.errors for c in by_system[base]):
            change = figure(relative_change(by_system[base], by_system[system], speakers))
            for key in ("value", "ci95_low", "ci95_high"):
                change[key] = float(change[key]) + 1.0
            out[name_] = change
    return out


def report(records: Sequence[Record]) -> dict[str, Any]:
    """The JSON object: figures of everything pooled under the names that the project asks for."""
    names = list(dict.fromkeys(record.set for record in records))
    rows = [row(name, [r for r in records if r.set == name]) for name in names]
    real = [r for r in records if r.set in REAL_SETS]
    if real and len(real) < len(records):
        rows.append(row("real sets pooled", real))
    total = row("all pooled", records)
    rows.append(total)
    rates = total["rates"]
    return {
        "rows": rows,
        "wer": rates["best"]["value"],
        "oracle_wer": rates["oracle"]["value"],
        "nbest10_oracle_wer": rates["nbest"]["value"],
        "plain_nbest10_oracle_wer": rates["plain_nbest"]["value"],
        "transcribe_wer": rates["transcribe"]["value"],
        "wire_over_pcm": total["wire_over_pcm"],
        "wire_bytes_per_s": total["wire_bytes_per_s"],
        "rescored_wer": rates["rescored"]["value"] if "rescored" in rates else None,
        "intervals": {
            name: [rates[system]["ci95_low"], rates[system]["ci95_high"]]
            for name, system in (
                ("wer", "best"),
                ("oracle_wer", "oracle"),
                ("nbest10_oracle_wer", "nbest"),
                ("plain_nbest10_oracle_wer", "plain_nbest"),
            )
        },
        "oracle_over_best": total.get("oracle_over_best"),
        "aims": [
            {
                "what": f"{line['set']}: {what}",
                "figure": value,
                "aim": aim,
                "met": value <= aim,
            }
            for line in rows
            for what, value, aim in (
                (
                    "oracle over 1-best",
                    line.get("oracle_over_best", {"value": 0.0})["value"],
                    AIM_ORACLE_OVER_BEST,
                ),
                (
                    "oracle over 10-best oracle",
                    line.get("oracle_over_nbest", {"value": 0.0})["value"],
                    1.0,
                ),
                ("bytes over PCM", line["wire_over_pcm"], AIM_WIRE_OVER_PCM),
                ("bytes a second", line["wire_bytes_per_s"], BYTES_PER_S),
            )
        ],
    }


def print_report(found: dict[str, Any]) -> None:
    """The table for people."""

    def percent(line: dict[str, Any], system: str) -> str:
        value, low, high = (
            100 * line["rates"][system][key] for key in ("value", "ci95_low", "ci95_high")
        )
        return f"{value:.1f} [{low:.1f}, {high:.1f}]"

    header = (
        "set",
        "utts",
        "words",
        "transcribe",
        "1-best",
        "10-best",
        "plain 10-best",
        "oracle sent",
        "oracle whole",
        "of 1-best",
        "B/s",
        "% PCM",
        "arcs/s sent",
    )
    lines: list[tuple[str, ...]] = [header]
    for line in found["rows"]:
        over = line.get("oracle_over_best")
        lines.append(
            (
                line["set"],
                str(line["utterances"]),
                str(line["words"]),
                percent(line, "transcribe"),
                percent(line, "best"),
                percent(line, "nbest"),
                percent(line, "plain_nbest"),
                percent(line, "oracle"),
                percent(line, "whole_oracle"),
                f"{over['value']:.2f} [{over['ci95_low']:.2f}, {over['ci95_high']:.2f}]"
                if over
                else "-",
                f"{line['wire_bytes_per_s']:.0f}",
                f"{100 * line['wire_over_pcm']:.2f}",
                f"{line['arcs_sent_per_s']:.0f}",
            )
        )
    print_aligned(lines)
    factor = found["rows"][-1]["cpu_real_time_factor"]
    print("CPU seconds a second: " + ", ".join(f"{what} {f:.4f}" for what, f in factor.items()))
    print()
    for aim in found["aims"]:
        verdict = "met" if aim["met"] else "MISSED"
        print(f"{verdict}: {aim['what']} {aim['figure']:.3f} (aim: at most {aim['aim']:g})")


def manifest_set(path: Path) -> Speech:
    """The rows of a manifest that have text."""
    clips = []
    for utterance in read_manifest(path):
        if not utterance.text:
            continue

        def read(utterance: Any = utterance) -> Samples:
            return read_clip(
                Path(utterance.audio),
                offset_s=utterance.offset_s,
                duration_s=utterance.duration_s,
            )

        clips.append(Clip(utterance.id, utterance.text, utterance.speaker, read))
    if not clips:
        raise SetMissing(f"{path} has no row with text")
    return Speech(path.stem, str(path), tuple(clips))


def chosen(options: argparse.Namespace) -> Iterator[tuple[Speech, Clip]]:
    """Every utterance that is to be measured."""
    if options.manifest:
        sets = [manifest_set(path) for path in options.manifest]
    else:
        data = data_folder(options.data)
        sets = [
            load_set(name, data=data, synthetic=options.synthetic)
            for name in options.sets.split(",")
        ]
    part, parts = options.part
    number = 0
    for speech in sets:
        for clip in speech.clips[: options.limit]:
            number += 1
            if number % parts == part - 1:
                yield speech, clip


def _part(text: str) -> tuple[int, int]:
    try:
        part, parts = (int(field) for field in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no part such as 1/4") from None
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text!r} is no part such as 1/4")
    return part, parts


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--manifest", type=Path, action="append", help="instead of the sets")
    parser.add_argument("--data", type=Path, help="recordings (default: $EARSHOT_DATA)")
    parser.add_argument(
        "--synthetic",
        type=Path,
        default=ROOT / "exp" / "assistant-en" / "synthetic_test",
        help="folder of the synthetic test; made when absent",
    )
    parser.add_argument("--model", type=Path, help="model file (default: the shipped one)")
    parser.add_argument("--language-model", type=Path, help="rescore what was sent with it")
    parser.add_argument("--sets", default=",".join(SETS), help=f"any of {','.join(SETS)}")
    parser.add_argument("--limit", type=int, help="first utterances of each set, for trying out")
    parser.add_argument("--lattice-paths", type=int, default=32)
    parser.add_argument("--lattice-beam", type=float, default=16.0)
    parser.add_argument("--bytes-per-s", type=float, default=BYTES_PER_S)
    parser.add_argument("--part", type=_part, default=(1, 1), help="every N-th utterance: 1/N")
    parser.add_argument("--records", type=Path, help="write one JSON line an utterance")
    parser.add_argument("--merge", nargs="+", type=Path, help="one table of such files")
    options = parser.parse_args(argv)
    for name in options.sets.split(","):
        if name not in SETS:
            parser.error(f"--sets names {name!r}; it must be among {', '.join(SETS)}")
    return options


def main(argv: Sequence[str] | None = None, *, rescorer: Rescorer | None = None) -> int:
    """Runs the benchmark. Returns the exit status."""
    options = arguments(argv)
    if options.language_model is not None:
        from rescoring import ranker

        rescorer = ranker(options.language_model)
    records: list[Record] = []
    if options.merge:
        for path in options.merge:
            records += [Record(**json.loads(line)) for line in path.read_text().splitlines()]
    else:
        measure = Measurement(
            options.model or default_model(),
            lattice_paths=options.lattice_paths,
            lattice_beam=options.lattice_beam,
            bytes_per_s=options.bytes_per_s,
            rescorer=rescorer,
        )
        try:
            for speech, clip in chosen(options):
                records.append(measure(speech, clip))
                progress(f"{speech.name}: {len(records)}")
        except SetMissing as err:
            print(f"error: {err}", file=sys.stderr)
            return 1
        progress(None)
        if options.records:
            lines = (json.dumps(asdict(record), ensure_ascii=False) for record in records)
            options.records.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    if not records:
        print("error: no utterance was measured. Give a larger part or limit", file=sys.stderr)
        return 1
    order = {name: at for at, name in enumerate(SETS)}
    records.sort(key=lambda record: order.get(record.set, len(order)))
    found = report(records)
    print_report(found)
    settings = ("lattice_paths", "lattice_beam", "bytes_per_s")
    found["settings"] = {name: getattr(options, name) for name in settings}
    print(json.dumps(found, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
