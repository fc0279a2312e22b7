"""Words that stand for nothing but themselves: numbers, and what turns a command into its opposite.

Another number is another command, so what is only like a command must not bend them. Knows words
of English; knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Sequence

from earshot.data.spoken import NUMBER_WORDS

__all__ = ["EXACT_WORDS", "STANDS_FOR", "exact_words", "negated", "within_numbers"]

_CONTRACTED = frozenset(
    {"do", "does", "did", "can", "could", "will", "would", "shall", "should", "must", "need"}
    | {"is", "are", "was", "were", "has", "have", "had"}
)
_SHORT = {"can": "can't", "will": "won't", "shall": "shan't"}
_NEGATIONS = {"not", "never", "cannot", "no", "without", "ain't"}
_NEGATIONS |= {_SHORT.get(verb, f"{verb}n't") for verb in _CONTRACTED}
_NEGATIONS |= {word.replace("'", "") for word in _NEGATIONS}
# Of a whole sentence; "no" and "without" may be about a part of it.
_PARTIAL = {"no", "without"}
_POLITE = {"you", "we"}  # after a negation: "won't you turn on the lights"
_REMINDED = {"forget", "hesitate"}  # "don't forget to"
_BEGINNING = 4  # words: "please do not"; later ones are misheard more often than meant

# What makes another number of the number beside it.
_LINKS = {"point", "minus", "negative", "oh", "dozen", "quarters", "thirds", "first", "third"}
_LINKS |= {"fourth", "fifth", "sixth", "seventh", "eighth", "ninth"}

EXACT_WORDS = NUMBER_WORDS | _NEGATIONS
# Before a number, what recognisers write for a word that sounds like one.
STANDS_FOR = {"two": "to", "four": "for"}


def exact_words(words: Sequence[str]) -> list[bool]:
    """Which words of a text are neither bent nor lost. "one" by itself may be any word."""
    numbers = [word in NUMBER_WORDS for word in words]
    beside = [
        (at > 0 and numbers[at - 1]) or (at + 1 < len(words) and numbers[at + 1])
        for at in range(len(words))
    ]
    return [
        opposite or (is_number and (word != "one" or near)) or (word in _LINKS and near)
        for word, is_number, near, opposite in zip(
            words, numbers, beside, _negations(words), strict=True
        )
    ]


def within_numbers(words: Sequence[str]) -> list[bool]:
    """Before which words of a text, and after the last, no unit may be added: a number goes on.

    Between two numbers, also with a word between them, it would make them two.
    """
    numbers = [word in NUMBER_WORDS for word in words]
    return [any(numbers[max(0, at - 2) : at]) and any(numbers[at : at + 2])
            for at in range(len(words) + 1)]  # fmt: skip


def negated(words: Sequence[str]) -> bool:
    """Whether a sentence begins with what makes it the opposite: "don't", "please do not"."""
    begins = zip(words[:_BEGINNING], _negations(words)[:_BEGINNING], strict=True)
    return any(opposite and word not in _PARTIAL for word, opposite in begins)


def _negations(words: Sequence[str]) -> list[bool]:
    found = []
    for at, word in enumerate(words):
        after = words[at + 1] if at + 1 < len(words) else ""
        is_filler = word == "no" and (at == 0 or after in NUMBER_WORDS)  # "no, ..." and "no. 12"
        found.append(
            word in _NEGATIONS and not is_filler and after not in _POLITE and after not in _REMINDED
        )
    return found
