"""When the pieces of a known text are emitted: the likeliest path of a frozen recogniser.

A transducer that does not know a word puts its pieces anywhere. Its phones are heard even then, so
where the recogniser has a head over phones, a piece may only be emitted about when the phone that
it ends with is heard. Knows nothing of audio, lists or training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from earshot.data.pronunciation import Lexicon
from earshot.data.spoken import spoken_form
from earshot.data.tokenizer import WORD_START, Tokenizer
from earshot.models.transducer import BLANK_ID, Transducer

__all__ = ["Sounds", "emission_frames", "label_frames", "piece_spans", "sounds_of"]

# Frames of 40 ms around the peak of the phone that a piece ends with. Letters are laid on phones
# evenly, which is wrong by a phone or two. Of words that are known, 90 % of the pieces are in here.
EARLY_FRAMES = 4
LATE_FRAMES = 4


def label_frames(log_probs: npt.NDArray[np.float32], labels: Sequence[int]) -> npt.NDArray[np.intp]:
    """The frame in which each label is surest, on the likeliest path of a CTC head.

    Args:
        log_probs: (T, V), blank is 0.
        labels: Ids, at least one.

    Returns:
        A frame each, rising; of length 0 where T is too short for them.
    """
    states = np.zeros(2 * len(labels) + 1, np.int64)
    states[1::2] = labels
    may_skip = np.zeros(len(states), bool)  # the blank before a label that differs from the last
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    scores = log_probs[:, states].astype(np.float64)
    alpha = np.full(len(states), -np.inf)
    alpha[:2] = scores[0, :2]
    steps = np.zeros(scores.shape, np.int8)
    for t in range(1, len(scores)):
        ways = np.full((3, len(states)), -np.inf)
        ways[0] = alpha
        ways[1, 1:] = alpha[:-1]
        ways[2, 2:] = np.where(may_skip[2:], alpha[:-2], -np.inf)
        steps[t] = ways.argmax(axis=0)
        alpha = ways.max(axis=0) + scores[t]
    at = len(states) - 1 if alpha[-1] >= alpha[-2] else len(states) - 2
    if not np.isfinite(alpha[at]):
        return np.zeros(0, np.intp)
    surest = np.full(len(labels), -np.inf)
    frames = np.zeros(len(labels), np.intp)
    for t in range(len(scores) - 1, -1, -1):
        label = at // 2
        if at % 2 and scores[t, at] > surest[label]:
            surest[label], frames[label] = scores[t, at], t
        at -= int(steps[t, at])
    return frames


@dataclass(frozen=True, slots=True)
class Sounds:
    """How a text is spelled and said.

    Args:
        pieces: Ids.
        phones: Ids, 1 and up.
        ends: Of each piece, how many phones there are up to its end: letters are laid on the phones
            of a word evenly, at least one on each piece.
    """

    pieces: tuple[int, ...]
    phones: tuple[int, ...]
    ends: tuple[int, ...]

    def __add__(self, other: Sounds) -> Sounds:
        """Both, one after the other."""
        there = len(self.phones)
        return Sounds(
            self.pieces + other.pieces,
            self.phones + other.phones,
            self.ends + tuple(there + end for end in other.ends),
        )


def sounds_of(word: str, tokenizer: Tokenizer, lexicon: Lexicon) -> Sounds:
    """Pieces and phones of a word, its likeliest pronunciation; no phones if nobody can say it."""
    pieces = tokenizer.encode(word)
    try:
        said = [lexicon.pronounce(spoken)[0] for spoken in spoken_form(word).split()]
    except ValueError:
        said = []
    phones = [phone for one in said for phone in one]
    letters = np.cumsum([len(tokenizer.pieces[i].replace(WORD_START, "").encode()) for i in pieces])
    ends = [
        max(min(1, len(phones)), (2 * len(phones) * n + letters[-1]) // max(1, 2 * letters[-1]))
        for n in letters.tolist()
    ]
    return Sounds(tuple(pieces), tuple(phones), tuple(int(end) for end in ends))


def piece_spans(
    text: str, tokenizer: Tokenizer, lexicon: Lexicon, log_probs: npt.NDArray[np.float32]
) -> npt.NDArray[np.intp] | None:
    """Between which frames each piece of a text may be emitted, by its sounds.

    Args:
        text: Normalised words; the tokenizer must make the same pieces of each word alone.
        tokenizer: Of the recogniser.
        lexicon: Says how words sound.
        log_probs: (T, phones + 1) of the head over phones.

    Returns:
        (U, 2) first and last frame; None where a word of the text has no sound, its pieces go over
        the ends of words, or T is too short for it.
    """
    words = [sounds_of(word, tokenizer, lexicon) for word in text.split()]
    sounds = sum(words, Sounds((), (), ()))
    if not words or not all(word.phones for word in words):
        return None
    if list(sounds.pieces) != tokenizer.encode(text):
        return None
    frames = label_frames(log_probs, sounds.phones)
    if len(frames) == 0:
        return None
    peaks = frames[np.maximum(np.array(sounds.ends) - 1, 0)]
    return np.stack([peaks - EARLY_FRAMES, peaks + LATE_FRAMES], axis=1)


@torch.no_grad()
def emission_frames(
    network: Transducer,
    hidden: Tensor,
    pieces: npt.NDArray[np.int32],
    spans: npt.NDArray[np.intp] | None = None,
) -> npt.NDArray[np.int32]:
    """The frame of each piece on the likeliest path with one symbol a frame (Viterbi).

    Args:
        network: The recogniser.
        hidden: (T, W) of its encoder, T at least the number of pieces.
        pieces: (U,) ids.
        spans: (U, 2) first and last frame of each; anywhere if None, or if no path is within them.

    Returns:
        (U,) frames, rising.
    """
    count = len(pieces)
    if count == 0:
        return np.zeros(0, np.int32)
    labels = torch.from_numpy(pieces.astype(np.int64))
    encoded, predicted = network.encoder_out(hidden), network.predictor(labels[None])[0]
    joint = torch.log_softmax(network.joiner(torch.tanh(encoded[:, None] + predicted[None])), -1)
    blank = joint[..., BLANK_ID].numpy().astype(np.float64)
    emit = joint[:, :-1].gather(2, labels[None, :, None].expand(len(hidden), -1, 1))[..., 0].numpy()
    if spans is not None:
        times = np.arange(len(hidden))[:, None]
        inside = (times >= spans[:, 0]) & (times <= spans[:, 1])
        within = np.where(inside, emit, -np.inf)
        frames = _likeliest(blank, within)
        if frames is not None:
            return frames
    frames = _likeliest(blank, emit)
    assert frames is not None  # there is a frame for every piece
    return frames


def _likeliest(
    blank: npt.NDArray[np.float64], emit: npt.NDArray[np.floating]
) -> npt.NDArray[np.int32] | None:
    """Frames of the pieces from (T, U + 1) and (T, U) log-probabilities; None without a path."""
    count = emit.shape[1]
    alpha = np.full(count + 1, -np.inf)
    alpha[0] = 0.0
    emitted = np.zeros(blank.shape, bool)
    for t in range(len(blank)):
        stay = alpha + blank[t]
        move = np.concatenate([[-np.inf], alpha[:-1] + emit[t]])
        emitted[t] = move > stay
        alpha = np.maximum(stay, move)
    if not np.isfinite(alpha[count]):
        return None
    frames = np.zeros(count, np.int32)
    at = count
    for t in range(len(blank) - 1, -1, -1):
        if emitted[t, at]:
            at -= 1
            frames[at] = t
    return frames
