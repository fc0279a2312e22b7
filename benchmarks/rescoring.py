"""What a second pass over lattices gains, on sentences that its language model never saw.

    python benchmarks/rescoring.py --language-model exp/rescoring-lm/rescoring-lm.ear
    python benchmarks/rescoring.py --language-model LM --sets synthetic librispeech
    python benchmarks/rescoring.py --language-model LM --part 1/2 --records 1.json  # and 2/2, then
    python benchmarks/rescoring.py --language-model LM --merge 1.json 2.json

Every utterance is decoded once, recording a lattice; what is rescored is the lattice as the client
sends it, read back. Beside it the same language model with the same weights ranks the ten best of
the same lattice. The weights are those in the model's file, learned on validation speech; nothing
is tuned here. Utterances in which the first pass heard nothing are left alone, as the recogniser
does. Prints a table and, as the last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scored_text import scored_text
from speech_sets import SAMPLE_RATE_HZ, SetMissing, Speech, data_folder, load_set
from systems import default_model
from wer import circumstances, figure, first, print_aligned, progress

from earshot.data.scoring import WordCounts, count_words, relative_change, word_error_rate
from earshot.decode.language import EarScorer, sentence_scores
from earshot.decode.lattice import best_path, nbest, oracle
from earshot.decode.lattice_wire import decode_lattice
from earshot.decode.rescoring import RescoringConfig, rank_paths, rescore, stored_config
from earshot.decode.rescoring_client import ClientConfig
from earshot.session.recognizer import Recognizer

ROOT = Path(__file__).resolve().parents[1]
NBEST = 10
AIM_RELATIVE = -0.08
SYSTEMS = ("first pass", "10-best rescored", "lattice rescored", "oracle of what was sent")


@dataclass(slots=True)
class Totals:
    """Counts of one set: per system one entry an utterance."""

    counts: dict[str, list[WordCounts]]
    speakers: list[str | None]
    wire_bytes: int = 0
    audio_s: float = 0.0
    rescoring_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For `--records`."""
        counts = {name: [asdict(c) for c in rows] for name, rows in self.counts.items()}
        return {**asdict(self), "counts": counts}

    def add(self, part: dict[str, Any]) -> None:
        """Another part of the same set, as `as_json` gave it."""
        for name, rows in part["counts"].items():
            self.counts[name] += [WordCounts(**row) for row in rows]
        self.speakers += part["speakers"]
        self.wire_bytes += part["wire_bytes"]
        self.audio_s += part["audio_s"]
        self.rescoring_s += part["rescoring_s"]


def measure(
    speech: Speech,
    recognizer: Recognizer,
    scorer: EarScorer,
    config: RescoringConfig,
    client: ClientConfig,
    *,
    part: tuple[int, int] = (1, 1),
) -> Totals:
    """Decode and rescore a set, or every n-th utterance of it."""
    totals = Totals({name: [] for name in SYSTEMS}, [])
    for number, clip in enumerate(speech.clips):
        if number % part[1] != part[0] - 1:
            continue
        progress(f"{speech.name}: {number + 1} of {len(speech.clips)}")
        samples = clip.read()
        stream = recognizer.create_stream(lattice=True)
        stream.accept_waveform(SAMPLE_RATE_HZ, samples)
        stream.input_finished()
        stream.decode()
        lattice = stream.lattice()
        data = client.encoded(lattice)
        sent = decode_lattice(data)
        began = time.process_time()
        texts = {"first pass": best_path(sent).text}
        if texts["first pass"]:
            texts["lattice rescored"] = rescore([sent], scorer, config)[0][0].text
            totals.rescoring_s += time.process_time() - began
            listed = nbest(lattice, NBEST)
            scores = sentence_scores(scorer, [path.words for path in listed])
            texts["10-best rescored"] = rank_paths(listed, scores, config)[0].text
        reference = scored_text(clip.text, rules=speech.rules, group=clip.group)
        _, nearest = oracle(sent, reference.split())
        texts["oracle of what was sent"] = nearest.text
        for name in SYSTEMS:
            said = texts.get(name, texts["first pass"])
            said = scored_text(said, rules=speech.rules, group=clip.group)
            totals.counts[name].append(count_words(reference, said))
        totals.speakers.append(clip.speaker)
        totals.wire_bytes += len(data)
        totals.audio_s += len(samples) / SAMPLE_RATE_HZ
    progress(None)
    return totals


def ranker(path: Path) -> Callable[[bytes], str]:
    """What a service makes of a lattice on the wire: the words that it ranks first.

    Args:
        path: The language model.
    """
    scorer = EarScorer(path)
    config = stored_config(path) or RescoringConfig()

    def rank(data: bytes) -> str:
        sent = decode_lattice(data)
        first_pass = best_path(sent).text
        return rescore([sent], scorer, config)[0][0].text if first_pass else first_pass

    return rank


def row_of(speech: Speech, totals: Totals) -> dict[str, Any]:
    """What the table and the JSON say of a set."""
    base = totals.counts["first pass"]
    row: dict[str, Any] = {
        "set": speech.name,
        "title": speech.title,
        "utterances": len(base),
        "words": sum(counts.reference_words for counts in base),
        "wire_bytes_per_s": round(totals.wire_bytes / totals.audio_s, 1),
        "rescoring_real_time_factor": round(totals.rescoring_s / totals.audio_s, 5),
        "systems": {},
    }
    for name in SYSTEMS:
        counts = totals.counts[name]
        entry = {"wer": figure(word_error_rate(counts, totals.speakers))}
        if name != "first pass":
            entry["relative"] = figure(relative_change(base, counts, totals.speakers))
        row["systems"][name] = entry
    return row


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """The table."""
    lines: list[tuple[str, ...]] = [("set", "system", "WER %", "95 %", "relative %", "95 %")]
    for row in rows:
        for name, entry in row["systems"].items():
            wer, change = entry["wer"], entry.get("relative")
            lines.append(
                (
                    row["set"],
                    name,
                    f"{100 * wer['value']:.2f}",
                    f"{100 * wer['ci95_low']:.2f}..{100 * wer['ci95_high']:.2f}",
                    "" if change is None else f"{100 * change['value']:+.1f}",
                    ""
                    if change is None
                    else f"{100 * change['ci95_low']:+.1f}..{100 * change['ci95_high']:+.1f}",
                )
            )
    print_aligned(lines)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--language-model", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=None, help="recogniser; default: embedded")
    parser.add_argument(
        "--sets", nargs="+", default=["synthetic", "librispeech"], help="as in speech_sets.py"
    )
    parser.add_argument("--data", type=Path, default=None, help="folder of the recordings")
    parser.add_argument(
        "--synthetic", type=Path, default=ROOT / "exp" / "assistant-en" / "synthetic_test"
    )
    parser.add_argument("--limit", type=int, default=None, help="first so many clips of each set")
    parser.add_argument("--order", type=int, default=None, help="words that merging looks at + 1")
    parser.add_argument("--part", default="1/1", help="every N-th utterance: 1/N")
    parser.add_argument("--records", type=Path, default=None, help="write what was counted here")
    parser.add_argument("--merge", nargs="+", type=Path, help="one table of such files")
    parser.add_argument("--json", type=Path, default=None, help="write the report here, too")
    options = parser.parse_args(argv)
    try:
        part, parts = (int(field) for field in options.part.split("/"))
    except ValueError:
        part, parts = 0, 0
    if not 1 <= part <= parts:
        parser.error(f"--part is {options.part}; it must read such as 1/4")
    options.part = (part, parts)
    return options


def all_totals(
    options: argparse.Namespace, model: Path, config: RescoringConfig, skipped: dict[str, str]
) -> dict[str, tuple[Speech, Totals]]:
    """Of each set: measured now, or merged of what was."""
    merged: dict[str, Totals] = {}
    for path in options.merge or ():
        for name, part in json.loads(path.read_text(encoding="utf-8")).items():
            merged.setdefault(name, Totals({n: [] for n in SYSTEMS}, [])).add(part)
    out = {}
    for name in merged or options.sets:
        try:
            speech = load_set(name, data=data_folder(options.data), synthetic=options.synthetic)
        except SetMissing as err:
            skipped[name] = str(err)
            continue
        if not merged:
            recognizer, scorer = Recognizer.load(model), EarScorer(options.language_model)
            totals = measure(
                first(speech, options.limit), recognizer, scorer, config, ClientConfig(),
                part=options.part,
            )  # fmt: skip
        out[name] = (speech, merged[name] if merged else totals)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    options = arguments(argv)
    model = options.model or default_model()
    config = stored_config(options.language_model) or RescoringConfig()
    if options.order is not None:
        config = replace(config, order=options.order)
    skipped: dict[str, str] = {}
    found = all_totals(options, model, config, skipped)
    if options.records is not None:
        records = {name: totals.as_json() for name, (_, totals) in found.items()}
        options.records.write_text(json.dumps(records), encoding="utf-8")
    rows = [row_of(speech, totals) for speech, totals in found.values()]
    report = {
        "benchmark": "rescoring",
        **circumstances([model, options.language_model]),
        "weights": asdict(config),
        "rows": rows,
        "skipped": skipped,
    }
    for row in rows:
        if row["set"] == "synthetic":
            relative = row["systems"]["lattice rescored"]["relative"]
            report["aim_held"] = relative["value"] <= AIM_RELATIVE
    print_rows(rows)
    for name, reason in skipped.items():
        print(f"{name}: skipped, {reason}")
    text = json.dumps(report)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
