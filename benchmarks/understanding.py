"""Statistical understanding beside scikit-learn and CRFsuite, on Snips and CLINC in one run.

    python benchmarks/understanding.py --json understanding.json
    python benchmarks/understanding.py --corpus clinc --seeds 3

Every system learns from the same rows and is measured on the corpus's own test split, which
nothing was chosen by; what has to be chosen is chosen on validation rows: `val` of CLINC, and of
Snips, which has none, what `understand.training.hold_out` sets aside. The baseline is not
compressed: TF-IDF of words, word pairs and letter n-grams with a linear SVM for intents, and for
slots a CRF with the features that are usual for it. Its confidence is fitted to its scores just
as ours is. Intervals are 95 % bootstraps over test sentences, the same draws for all systems.

Prints one table and, as the last line, one JSON object with every figure. Needs scikit-learn and
python-crfsuite (extra `peers`).
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from earshot.understand.evaluation import Outcome, evaluate, outcome, summary
from earshot.understand.labelled import LabelledSentence, read_labelled, slot_spans
from earshot.understand.network import MAX_GRAM, MIN_GRAM, Weights, feature_key
from earshot.understand.statistical import StatisticalModel
from earshot.understand.training import TrainingConfig, hold_out, train_model

CORPORA = {"snips": "snips_nlu.jsonl.gz", "clinc": "clinc_oos.jsonl.gz"}
SVM_STRENGTHS = (0.3, 1.0)
CRF_STRENGTHS = ((0.1, 0.01),)  # L1, L2; 0.05 and 0.5 were no better on validation rows
OUT_OF_SCOPE = "(out of scope)"
OUT_OF_SCOPE_SHARE = TrainingConfig().out_of_scope_share
TIMED_SENTENCES = 100
RESAMPLES = 2000
MAX_BYTES = 300_000
AIM_POINTS = -0.005
AIM_TIMES_SMALLER = 10


@dataclass(frozen=True, slots=True)
class Corpus:
    """Rows of one corpus by use."""

    name: str
    learned: list[LabelledSentence]
    validation: list[LabelledSentence]
    test: list[LabelledSentence]

    @property
    def has_slots(self) -> bool:
        return any(slot_spans(row.labels) for row in self.test)


@dataclass(slots=True)
class Measured:
    """One system on one corpus; a list of outcomes for every seed."""

    system: str
    num_bytes: list[int] = field(default_factory=list)
    test: list[list[Outcome]] = field(default_factory=list)
    validation: list[list[Outcome]] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    train_cpu_s: list[float] = field(default_factory=list)


def load_corpus(name: str, folder: Path) -> Corpus:
    """Rows of a corpus; nothing of its test split is among the others."""
    rows = read_labelled(folder / "text" / CORPORA[name])
    by_split: dict[str, list[LabelledSentence]] = {"train": [], "val": [], "test": []}
    for row in rows:
        by_split[(row.split or "").removeprefix("oos_")].append(row)
    learned, validation = by_split["train"], by_split["val"]
    if not validation:
        learned, validation = hold_out(learned)
    return Corpus(name, learned, validation, by_split["test"])


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def milliseconds(answer: Callable[[str], object], rows: Sequence[LabelledSentence]) -> float:
    """Processor time for a sentence, one at a time, text in and answer out; median of three."""
    texts = [" ".join(row.words) for row in rows[:TIMED_SENTENCES]]
    answer(texts[0])
    turns = []
    for _ in range(3):
        start = time.process_time()
        for text in texts:
            answer(text)
        turns.append(1000 * (time.process_time() - start) / len(texts))
    return float(np.median(turns))


# ---------------------------------------------------------------- Earshot


def measure_model(
    corpus: Corpus, into: Measured, *, config: TrainingConfig, folder: Path
) -> StatisticalModel:
    """Train one model and add its figures."""
    start = time.process_time()
    model = train_model(corpus.learned, held_out=corpus.validation, config=config)
    into.train_cpu_s.append(time.process_time() - start)
    if config.compressed:
        path = folder / f"{corpus.name}-{config.seed}.ear"
        model.save(path)
        into.num_bytes.append(path.stat().st_size)
        model = StatisticalModel.load(path)
    else:
        into.num_bytes.append(float_bytes(model, corpus.learned))
    into.test.append(evaluate(model, corpus.test))
    into.validation.append(evaluate(model, corpus.validation))
    into.milliseconds.append(milliseconds(model.understand, corpus.test))
    report_progress(corpus, into)
    return model


def float_bytes(model: StatisticalModel, rows: Sequence[LabelledSentence]) -> int:
    """The same network as a usual program keeps it: float32, and the text of every feature."""
    weights = sum(4 * getattr(model.weights, name).size for name in Weights.names())
    known = set(model.vocabulary.keys.tolist())
    texts: set[str] = set()
    for row in rows:
        marked = ["<", *row.words, ">"]
        texts |= {f"p:{left} {right}" for left, right in pairwise(marked)}
        for word in row.words:
            texts.add(f"w:{word}")
            texts |= {
                f"c:<{word}>"[: 2 + size] if at == 0 else f"c:{f'<{word}>'[at : at + size]}"
                for size in range(MIN_GRAM, MAX_GRAM + 1)
                for at in range(len(word) + 3 - size)
            }
    return weights + sum(len(text) + 1 for text in texts if feature_key(text) in known)


def report_progress(corpus: Corpus, measured: Measured) -> None:
    found = summary(measured.validation[-1])
    f1 = "" if found.slot_f1 is None else f", slot F1 {100 * found.slot_f1:.2f}"
    note(
        f"{corpus.name}: {measured.system}: validation {100 * (found.best_accuracy or 0):.2f} % "
        f"best intent{f1}; {measured.num_bytes[-1]:,} bytes"
    )


# ---------------------------------------------------------------- the baseline


class Baseline:
    """A linear SVM over TF-IDF for intents, and a CRF for slots; nothing is compressed.

    Args:
        corpus: What to learn from, and to choose by.
    """

    def __init__(self, corpus: Corpus) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_union

        self._features = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+"),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        )
        texts = [" ".join(row.words) for row in corpus.learned]
        learned = self._features.fit_transform(texts)
        held = self._features.transform([" ".join(row.words) for row in corpus.validation])
        self._fit_intents(corpus, learned, held)
        self.crf_bytes = 0
        self._tagger: Any = None
        if corpus.has_slots:
            self._fit_slots(corpus)

    def _fit_intents(self, corpus: Corpus, learned: Any, held: Any) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.svm import LinearSVC

        targets = [row.intent or OUT_OF_SCOPE for row in corpus.learned]
        wanted = np.array([row.intent or OUT_OF_SCOPE for row in corpus.validation])
        inside = wanted != OUT_OF_SCOPE
        best = -1.0
        for strength in SVM_STRENGTHS:
            svm = LinearSVC(C=strength).fit(learned, targets)
            right = float((svm.predict(held) == wanted)[inside].mean())
            note(f"{corpus.name}: linear SVM, C {strength}: validation {100 * right:.2f} %")
            if right > best:
                best, self._svm = right, svm
        self._intents = [str(name) for name in self._svm.classes_ if name != OUT_OF_SCOPE]
        self._columns = [at for at, name in enumerate(self._svm.classes_) if name != OUT_OF_SCOPE]
        scores = self._svm.decision_function(held)
        rows, right_rows, weights = [], [], []
        outside = ~inside
        own = {name: at for at, name in enumerate(self._intents)}
        for score, name in zip(scores, wanted, strict=True):
            top = self._best(score)
            rows.append(self._evidence(score, top))
            right_rows.append(self._intents[top] == name)
            weights.append(
                OUT_OF_SCOPE_SHARE / max(1, outside.sum())
                if name == OUT_OF_SCOPE
                else (1 - OUT_OF_SCOPE_SHARE) / inside.sum()
            )
        if not outside.any():  # as ours: every sentence once more with its own intent hidden
            for score, name in zip(scores, wanted, strict=True):
                hidden = score.copy()
                hidden[self._columns[own[name]]] = -np.inf
                rows.append(self._evidence(hidden, self._best(hidden)))
                right_rows.append(False)
                weights.append(OUT_OF_SCOPE_SHARE / len(wanted))
        self._confidence = LogisticRegression(C=1.0)
        self._confidence.fit(rows, right_rows, sample_weight=np.array(weights) * len(rows))

    def _best(self, score: npt.NDArray[np.float64]) -> int:
        return int(score[self._columns].argmax())

    def _evidence(self, score: npt.NDArray[np.float64], top: int) -> list[float]:
        own = score[self._columns[top]]
        others = np.delete(score, self._columns[top])
        return [float(own), float(own - others.max())]

    def _fit_slots(self, corpus: Corpus) -> None:
        import pycrfsuite

        features = [crf_features(row.words) for row in corpus.learned]
        best = -1.0
        with tempfile.TemporaryDirectory() as folder:
            for number, (l1, l2) in enumerate(CRF_STRENGTHS):
                path = Path(folder) / f"{number}.crf"
                trainer = pycrfsuite.Trainer(verbose=False)
                for row, found in zip(corpus.learned, features, strict=True):
                    trainer.append(found, row.labels)
                trainer.set_params({"c1": l1, "c2": l2, "max_iterations": 100})
                trainer.train(str(path))
                tagger = pycrfsuite.Tagger()
                tagger.open_inmemory(path.read_bytes())
                outcomes = [
                    outcome(row, intent=None, best=None, spans=tagged(tagger, row.words))
                    for row in corpus.validation
                ]
                f1 = summary(outcomes).slot_f1 or 0.0
                note(f"{corpus.name}: CRF, L1 {l1}, L2 {l2}: validation F1 {100 * f1:.2f}")
                if f1 > best:
                    best, self._tagger, self.crf_bytes = f1, tagger, path.stat().st_size

    @property
    def num_bytes(self) -> int:
        """Vocabularies with their weights, coefficients as float32, and the CRF's own file."""
        parts = [self._svm.coef_.astype(np.float32), self._svm.intercept_.astype(np.float32)]
        parts += [self._svm.classes_, self._features]
        return len(pickle.dumps(parts, protocol=5)) + self.crf_bytes

    def answer(self, text: str) -> tuple[str | None, str, list[tuple[int, int, str]]]:
        """Intent or None, best intent, and slots."""
        words = text.split()
        score = self._svm.decision_function(self._features.transform([text]))[0]
        top = self._best(score)
        sure = self._confidence.predict_proba([self._evidence(score, top)])[0, 1]
        refused = bool((score > score[self._columns[top]]).any())
        spans = tagged(self._tagger, words) if self._tagger is not None else []
        best = self._intents[top]
        return (None if refused or sure < 0.5 else best), best, spans

    def outcomes(self, rows: Sequence[LabelledSentence]) -> list[Outcome]:
        """What becomes of labelled sentences."""
        found = []
        for row in rows:
            intent, best, spans = self.answer(" ".join(row.words))
            found.append(outcome(row, intent=intent, best=best, spans=spans))
        return found


def crf_features(words: Sequence[str]) -> list[list[str]]:
    """Words and word pairs two to each side, and the letters at a word's ends."""
    marked = ["<<", "<", *words, ">", ">>"]
    rows = []
    for at, word in enumerate(words, start=2):
        row = ["bias"]
        row += [f"{shift}:{marked[at + shift]}" for shift in (-2, -1, 0, 1, 2)]
        row += [
            f"{shift}p:{marked[at + shift]} {marked[at + shift + 1]}" for shift in (-2, -1, 0, 1)
        ]
        row += [f"end:{word[-size:]}" for size in (1, 2, 3, 4)]
        row += [f"start:{word[:size]}" for size in (1, 2, 3, 4)]
        rows.append(row)
    return rows


def tagged(tagger: Any, words: Sequence[str]) -> list[tuple[int, int, str]]:
    """The slots that a CRF finds."""
    return slot_spans(tagger.tag(crf_features(words)))


def measure_baseline(corpus: Corpus) -> Measured:
    """Train the baseline once; nothing in it is random enough to matter."""
    start = time.process_time()
    baseline = Baseline(corpus)
    name = "TF-IDF + linear SVM" + (", CRF" if corpus.has_slots else "")
    measured = Measured(name, train_cpu_s=[time.process_time() - start])
    measured.num_bytes.append(baseline.num_bytes)
    measured.validation.append(baseline.outcomes(corpus.validation))
    measured.test.append(baseline.outcomes(corpus.test))
    measured.milliseconds.append(milliseconds(baseline.answer, corpus.test))
    report_progress(corpus, measured)
    return measured


# ---------------------------------------------------------------- figures

# Each figure is a ratio of two sums over sentences.
Ratio = Callable[[Outcome], tuple[float, float]]
FIGURES: dict[str, Ratio] = {
    "best_accuracy": lambda one: (one.best_right, one.in_scope),
    "accuracy": lambda one: (one.right and one.in_scope, one.in_scope),
    "slot_f1": lambda one: (2 * one.slot_hits, one.slots_found + one.slots_expected),
    "all_right": lambda one: (one.all_right, 1),
    "out_of_scope_recall": lambda one: (one.rejected and not one.in_scope, not one.in_scope),
    "out_of_scope_precision": lambda one: (one.rejected and not one.in_scope, one.rejected),
}

OF_OUT_OF_SCOPE = (FIGURES["out_of_scope_recall"], FIGURES["out_of_scope_precision"])


@lru_cache(maxsize=4)
def sentence_draws(count: int) -> npt.NDArray[np.int64]:
    """(RESAMPLES, count): how often each sentence is drawn."""
    return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)


def values_of(seeds: Sequence[Sequence[Outcome]], ratio: Ratio) -> list[float] | None:
    """A figure for each seed; None where there is nothing to count."""
    if ratio in OF_OUT_OF_SCOPE and all(one.in_scope for one in seeds[0]):
        return None
    sums = np.array([[ratio(one) for one in outcomes] for outcomes in seeds], float).sum(axis=1)
    return (sums[:, 0] / sums[:, 1]).tolist() if sums[:, 1].all() else None


def resampled(
    seeds: Sequence[Sequence[Outcome]], ratio: Ratio
) -> tuple[float, npt.NDArray[np.float64]] | None:
    """A figure, the mean over seeds, and its values on resampled sentences."""
    values = values_of(seeds, ratio)
    if values is None:
        return None
    parts = np.array([[ratio(one) for one in outcomes] for outcomes in seeds], float)
    drawn = np.stack([sentence_draws(parts.shape[1]) @ part for part in parts])
    ratios = np.where(drawn[..., 1] > 0, drawn[..., 0] / np.maximum(drawn[..., 1], 1), 0)
    return float(np.mean(values)), ratios.mean(axis=0)


def figures(measured: Measured) -> dict[str, Any]:
    """Every figure of a system with its interval and the values of the seeds."""
    row: dict[str, Any] = {
        "system": measured.system,
        "seeds": len(measured.test),
        "bytes": max(measured.num_bytes),
        "cpu_ms_per_sentence": round(float(np.mean(measured.milliseconds)), 3),
        "train_cpu_s": round(float(np.mean(measured.train_cpu_s)), 1),
    }
    for name, ratio in FIGURES.items():
        held = values_of(measured.validation, ratio)
        if held is not None:
            row.setdefault("validation", {})[name] = float(np.mean(held))
        found = resampled(measured.test, ratio)
        if found is not None:
            low, high = np.percentile(found[1], [2.5, 97.5])
            entry: dict[str, Any] = {"value": found[0], "ci95_low": low, "ci95_high": high}
            if len(measured.test) > 1:
                entry["seeds"] = values_of(measured.test, ratio)
            row.setdefault("test", {})[name] = entry
    return row


def differences(ours: Measured, theirs: Measured) -> dict[str, Any]:
    """Our figure less theirs on the same sentences, with the interval of the difference."""
    found = {}
    for name, ratio in FIGURES.items():
        left, right = resampled(ours.test, ratio), resampled(theirs.test, ratio)
        if left is not None and right is not None:
            low, high = np.percentile(left[1] - right[1], [2.5, 97.5])
            found[name] = {"value": left[0] - right[0], "ci95_low": low, "ci95_high": high}
    return found


def print_corpus(report: dict[str, Any]) -> None:
    """The table of one corpus."""
    test = report["rows"][0]["test"]
    print(f"\n{report['corpus']}: {report['test_sentences']} test sentences")
    for row in report["rows"]:
        print(
            f"  {row['system']} ({row['seeds']} seed{'s' * (row['seeds'] > 1)}): "
            f"{row['bytes']:,} bytes, {row['cpu_ms_per_sentence']:.2f} ms a sentence, "
            f"{row['train_cpu_s']:.0f} s to train"
        )
        for name in test:
            if name in row["test"]:
                one = row["test"][name]
                seeds = " ".join(f"{100 * value:.2f}" for value in one.get("seeds", ()))
                print(
                    f"    {name:<24} {100 * one['value']:6.2f}  "
                    f"[{100 * one['ci95_low']:.2f}, {100 * one['ci95_high']:.2f}]  {seeds}"
                )
    for name, one in report["difference"].items():
        print(
            f"  ours less baseline, {name:<24} {100 * one['value']:+.2f} points  "
            f"[{100 * one['ci95_low']:+.2f}, {100 * one['ci95_high']:+.2f}]"
        )
    for aim in report["aims"]:
        print(f"  {'met' if aim['met'] else 'MISSED'}: {aim['what']} {aim['figure']:.4g}")


def aims(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What the project asks of these figures."""
    found = []
    rows = {row["system"]: row for row in report["rows"]}
    own = rows["earshot"]
    found.append(("bytes, at most 300000:", own["bytes"], own["bytes"] <= MAX_BYTES))
    for name in ("best_accuracy", "slot_f1"):
        if name in report["difference"]:
            points = report["difference"][name]["value"]
            found.append((f"{name} less baseline, at least -0.005:", points, points >= AIM_POINTS))
    if "earshot, float" in rows:
        times = rows["earshot, float"]["bytes"] / own["bytes"]
        found.append(("times smaller than as float:", times, times >= AIM_TIMES_SMALLER))
    return [{"what": what, "figure": figure, "met": bool(met)} for what, figure, met in found]


def run_corpus(
    corpus: Corpus,
    *,
    seeds: int,
    with_float: bool,
    folder: Path,
    tell: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """All systems on one corpus; what there is so far is told after each seed."""
    baseline = measure_baseline(corpus)
    ours, whole = Measured("earshot"), Measured("earshot, float")
    config = TrainingConfig()

    def report() -> dict[str, Any]:
        systems = [ours, *([whole] if whole.test else []), baseline]
        found = {
            "corpus": corpus.name,
            "learned_sentences": len(corpus.learned),
            "validation_sentences": len(corpus.validation),
            "test_sentences": len(corpus.test),
            "rows": [figures(system) for system in systems],
            "difference": differences(ours, baseline),
        }
        found["aims"] = aims(found)
        return found

    for seed in range(seeds):
        measure_model(corpus, ours, config=replace(config, seed=seed), folder=folder)
        tell(report())
    if with_float:
        measure_model(corpus, whole, config=replace(config, compressed=False), folder=folder)
    return report()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--corpus", action="append", choices=sorted(CORPORA))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-float", action="store_true", help="Leave out our model as float.")
    parser.add_argument("--data", type=Path, help="By default EARSHOT_DATA or ../shared/data.")
    parser.add_argument("--models", type=Path, help="Folder to keep the .ear files in.")
    parser.add_argument("--json", type=Path, help="Write the figures here too.")
    args = parser.parse_args()
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    data = args.data or Path(os.environ.get("EARSHOT_DATA", default))
    reports: list[dict[str, Any]] = []

    def tell(unfinished: dict[str, Any] | None = None) -> dict[str, Any]:
        corpora = [*reports, unfinished] if unfinished else reports
        result = {"corpora": corpora, "machine": platform.machine(), "cores": os.cpu_count()}
        if args.json:
            args.json.write_text(json.dumps(result, indent=1))
        return result

    with tempfile.TemporaryDirectory() as temporary:
        for name in args.corpus or CORPORA:
            corpus = load_corpus(name, data)
            folder = args.models or Path(temporary)
            reports.append(
                run_corpus(
                    corpus,
                    seeds=args.seeds,
                    with_float=not args.no_float,
                    folder=folder,
                    tell=tell,
                )
            )
            print_corpus(reports[-1])
            tell()
    print(json.dumps(tell()))


if __name__ == "__main__":
    main()
