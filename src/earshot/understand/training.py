"""Teaches a statistical model from labelled sentences, with numpy alone.

One falling learning rate over three parts. First every feature that occurs twice has a row; then
the rows that came to matter least are dropped until the file keeps to its size; the rest is
trained on with its rows rounded as they will be in the file, so that the others make up for what
rounding and dropping took. Last the confidence is fitted on sentences that were held out.

The network itself, and what it computes, is in `understand.network`.
"""

from __future__ import annotations

import json
import logging
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from earshot.core.errors import ConfigError
from earshot.data.spoken import number_value
from earshot.understand.labelled import LabelledSentence, slot_spans
from earshot.understand.network import (
    IMPOSSIBLE,
    SECOND_WINDOW,
    WINDOW,
    Activations,
    Batch,
    Floats,
    Gains,
    Ints,
    Vocabulary,
    Weights,
    forward,
    pair_features,
    root_weights,
    softmax,
    windows,
    word_features,
)
from earshot.understand.statistical import (
    EVIDENCE,
    Calibration,
    StatisticalModel,
    allowed_moves,
    file_bytes,
    labels_of,
    rounded,
    row_bytes,
)

__all__ = ["TrainingConfig", "hold_out", "label_gradient", "train_model"]

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
_Gradients = dict[str, Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How a model is taught, and how large it may become."""

    max_bytes: int = 300_000  # of the file
    compressed: bool = True  # False keeps every feature and rounds nothing: for comparisons
    width: int = 64  # of a feature's row; even
    hidden: int = 64  # width of the layers
    min_count: int = 2  # sentences that a feature occurs in; 1 for fewer than 1,000 sentences
    epochs: int = 20
    min_steps: int = 1500  # more epochs where there are few sentences
    full_share: float = 0.4  # of the epochs, before rows are dropped
    batch_size: int = 48  # sentences
    learning_rate: float = 3e-3
    decay: float = 0.01
    feature_dropout: float = 0.2
    word_dropout: float = 0.05
    layer_dropout: float = 0.3
    smoothing: float = 0.1  # share of an intent's probability that is spread over all
    slot_weight: float = 0.2  # of the slots' loss beside that of the intent
    out_of_scope_share: float = 0.2  # of sentences at use, which the confidence is fitted for
    seed: int = 0

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise ConfigError(f"train.width is {self.width}; it must be even and at least 2.")
        for name in ("hidden", "min_count", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("feature_dropout", "word_dropout", "layer_dropout", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"train.{name} is {getattr(self, name)}; it must be in [0, 1).")
        if not 0 < self.out_of_scope_share < 1:
            raise ConfigError(
                f"train.out_of_scope_share is {self.out_of_scope_share}; it must lie between 0 "
                "and 1."
            )


def hold_out(
    sentences: Sequence[LabelledSentence],
) -> tuple[list[LabelledSentence], list[LabelledSentence]]:
    """Set sentences aside that the confidence is fitted on and results are told of.

    By a stable hash of the words, so that the same sentence is always on the same side. Every
    intent keeps at least one sentence to learn from.

    Args:
        sentences: All of them.

    Returns:
        Those to learn from, and a fifth, but at most the larger of 200 and a twentieth.
    """
    wanted = min(len(sentences) // 5, max(200, len(sentences) // 20))

    def place(at: int) -> tuple[int, int]:
        return zlib.crc32(" ".join(sentences[at].words).encode()), at

    left = Counter(sentence.intent for sentence in sentences)
    aside: set[int] = set()
    for at in sorted(range(len(sentences)), key=place):
        if len(aside) == wanted:
            break
        if left[sentences[at].intent] > 1:
            left[sentences[at].intent] -= 1
            aside.add(at)
    learned = [sentence for at, sentence in enumerate(sentences) if at not in aside]
    return learned, [sentences[at] for at in sorted(aside)]


def train_model(
    sentences: Sequence[LabelledSentence],
    *,
    held_out: Sequence[LabelledSentence],
    config: TrainingConfig | None = None,
    name: str = "understanding",
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> StatisticalModel:
    """Teach a model.

    Args:
        sentences: To learn from: at least two intents, or one and sentences out of scope.
        held_out: Not learned from; the confidence is fitted on them.
        config: Sizes and rates.
        name: Of the model.
        metadata: To be kept in its file.
        progress: Called with the steps done and the steps in all.

    Returns:
        The model, with the weights that it will have after saving and loading.

    Raises:
        ConfigError: There are too few intents, or the file cannot keep to `max_bytes`.
    """
    config = config or TrainingConfig()
    intents = sorted({s.intent for s in sentences if s.intent is not None})
    knows_others = any(sentence.intent is None for sentence in sentences)
    if len(intents) + knows_others < 2:
        raise ConfigError(
            f"train: {len(sentences)} sentences have {len(intents)} intent(s); there must be two, "
            "or one and sentences out of scope. Add rows."
        )
    slots = sorted({slot for s in sentences for _, _, slot in slot_spans(s.labels)})
    trainer = _Trainer(sentences, intents=intents, slots=slots, config=config)
    trainer.run(progress)
    model = StatisticalModel(
        trainer.vocabulary,
        trainer.weights,
        intents=intents,
        slots=slots,
        number_slots=_number_slots(sentences),
        calibration=Calibration((1.0,) + (0.0,) * (EVIDENCE - 1), 0.0),
        name=name,
        metadata=metadata,
    )
    model.calibration = calibrate(model, held_out, share=config.out_of_scope_share)
    return model


def _number_slots(sentences: Sequence[LabelledSentence]) -> list[str]:
    """Slots whose values are numbers nine times in ten."""
    numbers: Counter[str] = Counter()
    values: Counter[str] = Counter()
    for sentence in sentences:
        for first, end, slot in slot_spans(sentence.labels):
            values[slot] += 1
            numbers[slot] += number_value(sentence.words[first:end]) is not None
    return [slot for slot, count in sorted(values.items()) if numbers[slot] >= 0.9 * count]


# ---------------------------------------------------------------- confidence


def calibrate(
    model: StatisticalModel, held_out: Sequence[LabelledSentence], *, share: float
) -> Calibration:
    """Fit how sure a model may be, on sentences that it did not learn from.

    A logistic regression of "this intent is right" on `Reading.evidence`. Sentences out of scope
    make up the given share of the weight. Where there are none, every sentence stands for one
    once more with its own intent hidden, as if the model had never heard of it.

    Args:
        model: Its calibration is not used.
        held_out: Sentences; intents that the model does not know count as out of scope.
        share: Of sentences out of scope at use, in (0, 1).

    Returns:
        The fit; with fewer than ten sentences, one that trusts the scores as they are.
    """
    if len(held_out) < 10:
        return Calibration((0.0, 0.0, 4.0, 0.0), 0.0)
    known = {intent: at for at, intent in enumerate(model.intents)}
    inside: list[tuple[tuple[float, ...], float]] = []
    outside: list[tuple[tuple[float, ...], float]] = []
    hidden: list[tuple[tuple[float, ...], float]] = []
    for at in range(0, len(held_out), 100):
        part = held_out[at : at + 100]
        for sentence, reading in zip(part, model.read([s.words for s in part]), strict=True):
            scores = reading.scores[: len(known)]
            best, own = int(scores.argmax()), known.get(sentence.intent or "")
            if own is None:
                outside.append((reading.evidence(best), 0.0))
                continue
            inside.append((reading.evidence(best), float(best == own)))
            if len(known) > 1:
                others = np.where(np.arange(len(known)) == own, -np.inf, scores)
                hidden.append((reading.evidence(int(others.argmax()), hidden=own), 0.0))
    outside = outside or hidden
    if not inside or not outside:
        return Calibration((0.0, 0.0, 4.0, 0.0), 0.0)
    rows = np.array([[*evidence, 1.0] for evidence, _ in inside + outside])
    right = np.array([target for _, target in inside + outside])
    weight = np.full(len(rows), (1 - share) / len(inside))
    weight[len(inside) :] = share / len(outside)
    fitted = _logistic_fit(rows, right, weight * len(rows))
    return Calibration(tuple(map(float, fitted[:-1])), float(fitted[-1]))


def _logistic_fit(
    rows: npt.NDArray[np.float64], right: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Logistic regression with a small ridge, by Newton steps that never make it worse."""
    ridge = np.full(rows.shape[1], 1.0)
    ridge[-1] = 1e-3
    found = np.zeros(rows.shape[1])

    def loss(at: npt.NDArray[np.float64]) -> float:
        odds = rows @ at
        nats = np.logaddexp(0, odds) - right * odds
        return float(weight @ nats + 0.5 * ridge @ at**2)

    for _ in range(50):
        chance = 1 / (1 + np.exp(-np.clip(rows @ found, -60, 60)))
        slope = rows.T @ (weight * (chance - right)) + ridge * found
        curve = (rows * (weight * chance * (1 - chance))[:, None]).T @ rows + np.diag(ridge)
        step = np.linalg.solve(curve, slope)
        size = 1.0
        while size > 1e-6 and loss(found - size * step) > loss(found):
            size /= 2
        found = found - size * step
        if float(np.abs(size * step).max()) < 1e-8:
            break
    return found


# ---------------------------------------------------------------- gradients


def scatter_sums(index: Ints, rows: Floats) -> tuple[Ints, Floats]:
    """Sums of rows that share an index.

    Args:
        index: (N,), N >= 1, any order.
        rows: (N, D).

    Returns:
        The distinct indices in order, and their sums.
    """
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    begin = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return ordered[begin], np.add.reduceat(rows[order], begin, axis=0)


def window_sums(gradient: Floats, reach: int) -> Floats:
    """The gradient of what `network.windows` spread, brought back and summed.

    Args:
        gradient: (S, T, (2 * reach + 1) * D).
        reach: Neighbours to each side.

    Returns:
        (S, T, D).
    """
    size, time, wide = gradient.shape
    width = wide // (2 * reach + 1)
    padded = np.zeros((size, time + 2 * reach, width), np.float32)
    for at in range(2 * reach + 1):
        padded[:, at : at + time] += gradient[:, :, at * width : (at + 1) * width]
    return padded[:, reach : reach + time]


def label_gradient(
    label: Floats, transition: Floats, gold: Ints, mask: npt.NDArray[np.bool_]
) -> tuple[float, Floats, Floats]:
    """Negative log-probability of the right labellings, and its gradients.

    Forward-backward over probabilities that are scaled to sum to 1 at every word, so that it is
    matrix products and no logarithm of sums.

    Args:
        label: (S, T, L) scores.
        transition: (L + 1, L), the last row starts a sentence.
        gold: (S, T) labels; anything at padding.
        mask: (S, T) True where there is a word; the first word of every sentence is.

    Returns:
        The sum over sentences in nats, and its gradients for `label` and `transition`.

    Source:
        Lafferty et al., "Conditional random fields", ICML 2001; scaling as in Rabiner, "A
        tutorial on hidden Markov models", Proc. IEEE 77(2), 1989.
    """
    size, time, count = label.shape
    top = label.max(axis=2, keepdims=True)
    emit = np.exp(label - top)
    move = np.exp(transition[:-1])
    alpha = np.zeros_like(emit)
    scale = np.ones((size, time), np.float32)
    for at in range(time):
        if at == 0:
            current = np.exp(transition[-1]) * emit[:, 0]
        else:
            moved = (alpha[:, at - 1] @ move) * emit[:, at]
            current = np.where(mask[:, at, None], moved, alpha[:, at - 1])
        scale[:, at] = current.sum(axis=1)
        alpha[:, at] = current / scale[:, at, None]
    nats = float(np.log(scale, dtype=np.float64).sum() + top[:, :, 0][mask].sum(dtype=np.float64))

    gradient = np.zeros_like(label)
    moves = np.zeros((count + 1, count), np.float32)
    beta = np.ones((size, count), np.float32)
    for at in range(time - 1, -1, -1):
        gradient[:, at] = alpha[:, at] * beta
        if at:
            after = (emit[:, at] * beta / scale[:, at, None]) * mask[:, at, None]
            moves[:-1] += alpha[:, at - 1].T @ after
            beta = np.where(mask[:, at, None], after @ move.T, beta)
    moves[:-1] *= move
    moves[-1] = gradient[:, 0].sum(axis=0)
    gradient *= mask[:, :, None]

    sentence, word = np.nonzero(mask)
    right = gold[sentence, word]
    before = np.where(word > 0, gold[sentence, np.maximum(word - 1, 0)], count)
    nats -= float(label[sentence, word, right].sum(dtype=np.float64))
    nats -= float(transition[before, right].sum(dtype=np.float64))
    gradient[sentence, word, right] -= 1
    np.subtract.at(moves, (before, right), 1)
    return nats, gradient, moves


def backward(
    weights: Weights,
    batch: Batch,
    seen: Activations,
    gains: Gains,
    *,
    intent: Floats,
    label: Floats,
) -> _Gradients:
    """Gradients of a loss for every weight.

    Args:
        weights: The network, as `forward` was given it.
        batch: S sentences of at most T words.
        seen: What `forward` returned.
        gains: What `forward` was given.
        intent: (S, I) gradient of the loss for the intent scores.
        label: (S, T, L) gradient for the label scores.

    Returns:
        By field of `Weights`, but the transitions, which `forward` does not use.
    """
    width, hidden = weights.table.shape[1], weights.first.shape[1]
    size, time = batch.word.shape
    sentence, unit = np.arange(size)[:, None], np.arange(hidden)[None, :]
    out: _Gradients = {}

    def flat(values: Floats) -> Floats:
        return values.reshape(size * time, -1)

    peaks = np.concatenate([seen.peak, seen.second_peak], axis=1) * gains.peaks
    out["intent"] = np.concatenate([seen.mean, peaks], axis=1).T @ intent
    out["intent_bias"] = intent.sum(axis=0)
    inputs = intent @ weights.intent.T
    mean = inputs[:, : 2 * width] * gains.mean
    peak, second_peak = np.split(inputs[:, 2 * width :] * gains.peaks, 2, axis=1)

    both = np.concatenate([seen.first, seen.second], axis=2)
    out["label"] = flat(both).T @ flat(label)
    out["label_bias"] = label.sum(axis=(0, 1))
    first, second = np.split(label @ weights.label.T, 2, axis=2)

    second[sentence, seen.second.argmax(axis=1), unit] += second_peak
    second = second * gains.second * (seen.second > 0)
    out["second"] = flat(windows(seen.first, SECOND_WINDOW)).T @ flat(second)
    whole = second.sum(axis=1)
    out["second_bias"] = whole.sum(axis=0)
    out["second_context"] = seen.peak.T @ whole
    peak = peak + whole @ weights.second_context.T

    first = first + window_sums(second @ weights.second.T, SECOND_WINDOW)
    first[sentence, seen.first.argmax(axis=1), unit] += peak
    first = first * gains.first * (seen.first > 0)
    out["first"] = flat(windows(seen.words, WINDOW)).T @ flat(first)
    out["first_bias"] = first.sum(axis=(0, 1))

    mean /= np.sqrt(batch.length.astype(np.float32))[:, None]
    words = window_sums(first @ weights.first.T, WINDOW) + mean[:, None, :width]
    words = flat(words * gains.words)[batch.mask.reshape(-1)]
    _, distinct = scatter_sums(batch.word[batch.mask], words)
    distinct = distinct * root_weights(batch.word_begin)
    word_of_row = np.repeat(np.arange(len(distinct)), np.diff(batch.word_begin))
    sentence_of_row = np.repeat(np.arange(size), np.diff(batch.pair_begin))
    used = np.concatenate([batch.word_rows, batch.pair_rows])
    out["table"] = np.zeros_like(weights.table)
    if len(used):
        rows = np.concatenate([distinct[word_of_row], mean[sentence_of_row, width:]])
        index, sums = scatter_sums(used, rows)
        out["table"][index] = sums
    return out


class _Adam:
    """Adam with decoupled decay of matrices; rows of the table move only when they are used.

    Source:
        Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """

    def __init__(self, weights: Weights, *, decay: float) -> None:
        self._mean = {name: np.zeros_like(getattr(weights, name)) for name in Weights.names()}
        self._square = {name: np.zeros_like(getattr(weights, name)) for name in Weights.names()}
        self._decay = decay
        self._steps = 0

    def keep_rows(self, rows: Ints) -> None:
        """Forget the rows of the table that were dropped."""
        self._mean["table"] = self._mean["table"][rows]
        self._square["table"] = self._square["table"][rows]

    def step(self, weights: Weights, gradients: _Gradients, used: Ints, *, rate: float) -> None:
        """Move the weights in place; `used` are the table's rows that have a gradient."""
        self._steps += 1
        for name, gradient in gradients.items():
            value = getattr(weights, name)
            at: Ints | slice = used if name == "table" else slice(None)
            mean = self._mean[name][at] * 0.9 + 0.1 * gradient
            square = self._square[name][at] * 0.999 + 0.001 * gradient * gradient
            self._mean[name][at], self._square[name][at] = mean, square
            move = mean / (1 - 0.9**self._steps)
            move /= np.sqrt(square / (1 - 0.999**self._steps)) + 1e-8
            if value.ndim == 2 and name not in ("table", "transition"):
                move += self._decay * value
            value[at] -= np.float32(rate) * move


# ---------------------------------------------------------------- the loop

_MAX_NORM = 5.0  # longer gradients are shortened to this
_WARM_STEPS = 200  # of a rising learning rate, at most a tenth of all
_MANY_SENTENCES = 1000  # from here on, what occurs once is more noise than help
_Example = tuple[tuple[str, ...], int, list[int]]  # words, intent, labels


class _Trainer:
    """Weights on their way, and the sentences that they learn from."""

    def __init__(
        self,
        sentences: Sequence[LabelledSentence],
        *,
        intents: Sequence[str],
        slots: Sequence[str],
        config: TrainingConfig,
    ) -> None:
        self._config = config
        self._random = np.random.default_rng(config.seed)
        intent = {name: at for at, name in enumerate(intents)}
        label = {name: at for at, name in enumerate(labels_of(slots))}
        self._examples: list[_Example] = [
            (
                sentence.words,
                len(intents) if sentence.intent is None else intent[sentence.intent],
                [label[name] for name in sentence.labels],
            )
            for sentence in sentences
        ]
        self._allowed = allowed_moves(slots)
        self._name_bytes = sum(len(json.dumps(name)) + 1 for name in (*intents, *slots, *slots))
        counts = _feature_counts(sentences)
        least = config.min_count if len(sentences) >= _MANY_SENTENCES else 1
        kept = sorted(feature for feature, count in counts.items() if count >= least)
        self.vocabulary = Vocabulary(np.array(kept, np.uint32))
        self._counts = np.array([counts[feature] for feature in kept], np.float32)
        num_intents = max(target for _, target, _ in self._examples) + 1
        self.weights = self._initial(num_intents, len(label))
        self._adam = _Adam(self.weights, decay=config.decay)
        self._is_compressed = False
        self._room = self._rows_that_fit() if config.compressed else len(kept)

    def _rows_that_fit(self) -> int:
        size = file_bytes(self.weights, rows=0, has_slots=self._has_slots, names=self._name_bytes)
        room = (self._config.max_bytes - size) // row_bytes(self._config.width)
        if room < 1:
            raise ConfigError(
                f"train.max_bytes is {self._config.max_bytes}, but a model without any words "
                f"takes {size}. Allow more, or lower 'width' or 'hidden'."
            )
        return room

    def _initial(self, intents: int, labels: int) -> Weights:
        width, hidden = self._config.width, self._config.hidden

        def matrix(inputs: int, outputs: int, size: float) -> Floats:
            drawn = self._random.standard_normal((inputs, outputs), dtype=np.float32)
            return drawn * np.float32(size * math.sqrt(2 / inputs))

        def zeros(*shape: int) -> Floats:
            return np.zeros(shape, np.float32)

        rows = self._random.standard_normal((len(self.vocabulary), width), dtype=np.float32)
        return Weights(
            table=rows * np.float32(0.1),
            first=matrix((2 * WINDOW + 1) * width, hidden, 1.0),
            first_bias=zeros(hidden),
            second=matrix((2 * SECOND_WINDOW + 1) * hidden, hidden, 1.0),
            second_context=matrix(hidden, hidden, 0.5),
            second_bias=zeros(hidden),
            intent=matrix(2 * width + 2 * hidden, intents, 0.5),
            intent_bias=zeros(intents),
            label=matrix(2 * hidden, labels, 0.5),
            label_bias=zeros(labels),
            transition=np.where(self._allowed, np.float32(0), np.float32(IMPOSSIBLE)),
        )

    def run(self, progress: Progress | None) -> None:
        """All epochs; ends with the weights as a file would hold them."""
        config = self._config
        steps = -(-len(self._examples) // config.batch_size)
        epochs = max(config.epochs, -(-config.min_steps // steps))
        total, done = epochs * steps, 0
        warm_steps = min(_WARM_STEPS, total // 10 + 1)
        for epoch in range(epochs):
            if config.compressed and epoch == int(config.full_share * epochs):
                self._compress()
            loss = 0.0
            for examples in self._batches():
                warm = min(1.0, (done + 1) / warm_steps)
                loss += self._step(examples, config.learning_rate * warm * (1 - done / total))
                done += 1
                if progress is not None:
                    progress(done, total)
            log.debug("epoch %d: %.4f nats a sentence", epoch, loss / len(self._examples))
        if self._is_compressed:
            self.weights = replace(self.weights, table=rounded(self.weights.table))

    def _batches(self) -> Iterator[list[_Example]]:
        """All examples in random order, those of like length together to spare padding."""
        size = self._config.batch_size
        order = self._random.permutation(len(self._examples)).tolist()
        for begin in range(0, len(order), 50 * size):
            part = [self._examples[at] for at in order[begin : begin + 50 * size]]
            part.sort(key=lambda example: len(example[0]))
            starts = range(0, len(part), size)
            for turn in self._random.permutation(len(starts)):
                yield part[starts[turn] : starts[turn] + size]

    def _compress(self) -> None:
        """Drop the rows that matter least: short ones of rare features."""
        importance = np.linalg.norm(self.weights.table, axis=1) * np.sqrt(self._counts)
        kept = np.sort(np.argsort(-importance, kind="stable")[: self._room])
        log.info("keeping %d of %d features", len(kept), len(self.vocabulary))
        self.weights = replace(self.weights, table=self.weights.table[kept])
        self.vocabulary = Vocabulary(self.vocabulary.keys[kept])
        self._adam.keep_rows(kept)
        self._is_compressed = True

    @property
    def _has_slots(self) -> bool:
        return len(self.weights.label_bias) > 1

    def _step(self, examples: Sequence[_Example], rate: float) -> float:
        """One batch; its loss in nats."""
        config = self._config
        batch = self._thinned(self.vocabulary.batch([words for words, _, _ in examples]))
        size, time = batch.word.shape
        # Only the rows in use are copied, rounded and moved.
        rows = np.concatenate([batch.word_rows, batch.pair_rows])
        used, place = np.unique(rows, return_inverse=True)
        table = self.weights.table[used]
        view = replace(self.weights, table=rounded(table) if self._is_compressed else table)
        num_words = len(batch.word_rows)
        batch = replace(batch, word_rows=place[:num_words], pair_rows=place[num_words:])
        gains = self._gains(size, time)
        seen = forward(view, batch, gains)

        target = np.array([intent for _, intent, _ in examples])
        chance = softmax(seen.intent)
        wanted = np.full_like(chance, config.smoothing / chance.shape[1])
        wanted[np.arange(size), target] += 1 - config.smoothing
        nats = -float(np.log(np.maximum(chance, 1e-20))[np.arange(size), target].sum())
        label = np.zeros_like(seen.label)
        moves = None
        if self._has_slots:
            gold = np.zeros((size, time), np.int64)
            for at, (_, _, labels) in enumerate(examples):
                gold[at, : len(labels)] = labels
            transition = self.weights.transition
            of_slots, label, moves = label_gradient(seen.label, transition, gold, batch.mask)
            label *= np.float32(config.slot_weight / size)
            nats += config.slot_weight * of_slots
        intent = (chance - wanted) / np.float32(size)
        gradients = backward(view, batch, seen, gains, intent=intent, label=label)
        if moves is not None:
            moves *= self._allowed
            gradients["transition"] = moves * np.float32(config.slot_weight / size)
        norm = math.sqrt(sum(float(np.vdot(g, g)) for g in gradients.values()))
        if norm > _MAX_NORM:
            for gradient in gradients.values():
                gradient *= np.float32(_MAX_NORM / norm)
        self._adam.step(self.weights, gradients, used, rate=rate)
        return nats

    def _thinned(self, batch: Batch) -> Batch:
        """Leave out features at random, so that a sentence must not hang on one."""

        def kept(rows: Ints, begin: Ints) -> tuple[Ints, Ints]:
            stays = self._random.random(len(rows)) >= self._config.feature_dropout
            return rows[stays], np.concatenate([[0], np.cumsum(stays)])[begin]

        word_rows, word_begin = kept(batch.word_rows, batch.word_begin)
        pair_rows, pair_begin = kept(batch.pair_rows, batch.pair_begin)
        return replace(
            batch,
            word_rows=word_rows,
            word_begin=word_begin,
            pair_rows=pair_rows,
            pair_begin=pair_begin,
        )

    def _gains(self, size: int, time: int) -> Gains:
        config = self._config

        def drawn(dropout: float, *shape: int) -> Floats:
            stays = self._random.random(shape, dtype=np.float32) >= dropout
            return stays.astype(np.float32) / np.float32(1 - dropout)

        return Gains(
            words=drawn(config.word_dropout, size, time, 1),
            first=drawn(config.layer_dropout, size, time, config.hidden),
            second=drawn(config.layer_dropout, size, time, config.hidden),
            mean=drawn(config.layer_dropout, size, 2 * config.width),
            peaks=drawn(config.layer_dropout, size, 2 * config.hidden),
        )


def _feature_counts(sentences: Sequence[LabelledSentence]) -> Counter[int]:
    """In how many sentences every feature occurs."""
    counts: Counter[int] = Counter()
    for sentence in sentences:
        found = set(pair_features(sentence.words))
        for word in sentence.words:
            found.update(word_features(word))
        counts.update(found)
    return counts
