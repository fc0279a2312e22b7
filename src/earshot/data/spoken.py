"""Text as it is said: numerals, signs and abbreviations become the words a speaker would use.

One spelling for everything the recogniser hears or writes: a-z, apostrophe and single blanks.
Templates of commands, training texts and labelled sentences are brought to it, and number words
are read back as numbers. English only. `data.text.normalise` is another thing: it makes two
writings comparable for scoring and spells nothing out.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import TypeAlias

__all__ = [
    "DIGIT_WORDS",
    "MONTHS",
    "NUMBER_WORDS",
    "clock_words",
    "digit_words",
    "number_value",
    "number_words",
    "ordinal_words",
    "spoken_form",
    "spoken_readings",
    "year_words",
]


def _words(text: str) -> list[str]:
    return text.split()


_ONES = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
_TENS = _words("zero ten twenty thirty forty fifty sixty seventy eighty ninety")
_SCALES = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_IRREGULAR_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
DIGIT_WORDS = tuple(_ONES[:10])
MONTHS = _words(
    "january february march april may june july august september october november december"
)


def number_words(value: int, *, with_and: bool = False) -> str:
    """A whole number in words: 342 is "three hundred forty two".

    Args:
        value: Below 10**12 in size; negative numbers start with "minus".
        with_and: Says "three hundred and forty two".

    Returns:
        Words separated by single blanks, no hyphens.

    Raises:
        ValueError: `value` is too large.
    """
    if value < 0:
        return "minus " + number_words(-value, with_and=with_and)
    if value >= 10**12:
        raise ValueError(f"number_words: {value} is too large; it must be below 10**12")
    if value < 20:
        return _ONES[value]
    if value < 100:
        tens, ones = divmod(value, 10)
        return _TENS[tens] + (" " + _ONES[ones] if ones else "")
    for size, name in _SCALES:
        if value >= size:
            head, rest = divmod(value, size)
            words = f"{number_words(head, with_and=with_and)} {name}"
            if rest:
                joint = " and " if with_and and rest < 100 else " "
                words += joint + number_words(rest, with_and=with_and)
            return words
    raise AssertionError(value)


def ordinal_words(value: int) -> str:
    """The place in an order: 21 is "twenty first"; below 10**12."""
    words = number_words(value).split()
    last = words[-1]
    if last in _IRREGULAR_ORDINALS:
        words[-1] = _IRREGULAR_ORDINALS[last]
    elif last.endswith("y"):
        words[-1] = last[:-1] + "ieth"
    else:
        words[-1] = last + "th"
    return " ".join(words)


def year_words(year: int) -> str:
    """A year as it is said: 1963 is "nineteen sixty three", 2005 "two thousand five"."""
    if 2000 <= year < 2010 or year % 1000 == 0:
        return number_words(year)
    head, rest = divmod(year, 100)
    if rest == 0:
        return f"{number_words(head)} hundred"
    if rest < 10:
        return f"{number_words(head)} oh {number_words(rest)}"
    return f"{number_words(head)} {number_words(rest)}"


def digit_words(digits: str) -> str:
    """A string of digits one by one: "02" is "zero two"."""
    return " ".join(DIGIT_WORDS[int(d)] for d in digits)


def clock_words(hour: int, minute: int) -> str:
    """A time of day as it is said: 7, 5 is "seven oh five"; hour 0, minute 0 is "midnight"."""
    if minute == 0:
        return number_words(hour) if hour else "midnight"
    if minute < 10:
        return f"{number_words(hour)} oh {number_words(minute)}"
    return f"{number_words(hour)} {number_words(minute)}"


_SMALL = {word: value for value, word in enumerate(_ONES)} | {
    word: 10 * tens for tens, word in enumerate(_TENS) if tens > 1
}
_SIZES = {name: size for size, name in _SCALES}
NUMBER_WORDS = frozenset(_SMALL) | frozenset(_SIZES) | {"half", "quarter"}


def number_value(words: Sequence[str]) -> int | float | None:
    """The number that words say: "twenty two and a half" is 22.5.

    Args:
        words: As `number_words` writes them, also with "and", "a hundred", "minus" or
            "negative", "point five" and "and a half".

    Returns:
        A whole number where there is no fraction; None if the words are not one number.
    """
    rest = list(words)
    sign = 1
    if len(rest) > 1 and rest[0] in ("minus", "negative"):
        sign, rest = -1, rest[1:]
    if len(rest) > 3 and rest[-3:] == ["and", "a", "half"]:
        whole = _whole_value(rest[:-3])
        return None if whole is None else sign * (whole + 0.5)
    if "point" in rest:
        at = rest.index("point")
        digits = [_SMALL.get(word, 10) for word in rest[at + 1 :]]
        whole = _whole_value(rest[:at])
        if whole is None or not digits or max(digits) > 9:
            return None
        return sign * float(f"{whole}.{''.join(map(str, digits))}")
    whole = _whole_value(rest)
    return None if whole is None else sign * whole


def _whole_value(words: Sequence[str]) -> int | None:
    """A whole number without sign; sizes must fall from left to right."""
    if list(words) == ["zero"]:
        return 0
    total, group, last_size, last_small = 0, 0, 10**12, 100
    joined = False  # after "and", which must be followed by a number below 100
    for at, word in enumerate(words):
        if word in _SIZES:
            size = _SIZES[word]
            if joined or group == 0 or (size == 100 and group >= 10 and group % 10 == 0):
                return None
            if size == 100:
                if group >= 100:
                    return None
                group, last_small = group * 100, 100
                continue
            if size >= last_size:
                return None
            total, group, last_size, last_small = total + group * size, 0, size, 100
        elif word == "and":
            if joined or last_small != 100 or total + group == 0:
                return None
            joined = True
        elif word == "a" and at == 0 and len(words) > 1 and words[1] in _SIZES:
            group = 1
        else:
            small = _SMALL.get(word, 0)
            if small == 0 or small >= last_small or (last_small < 100 and small > 9):
                return None
            group, last_small, joined = group + small, small if small >= 20 else 1, False
    return None if joined or total + group == 0 else total + group


def _plural(words: str) -> str:
    return words[:-1] + "ies" if words.endswith("y") else words + "s"


_MAX_DIGITS = 12  # `number_words` goes no further; more are said one by one


def _counted(digits: str) -> str:
    """A numeral as a count, leading zeros or not."""
    return number_words(int(digits)) if len(digits) <= _MAX_DIGITS else digit_words(digits)


def _plain_number(digits: str) -> str:
    if (len(digits) > 1 and digits[0] == "0") or len(digits) > 6:
        return digit_words(digits)
    value = int(digits)
    if len(digits) == 4 and (1100 <= value < 2000 or 2000 <= value < 2100) and value % 1000:
        return year_words(value)
    return number_words(value)


_CURRENCIES = {"$": "dollars", "£": "pounds", "€": "euros"}
_Rules: TypeAlias = tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]


def _rules(plain: Callable[[str], str]) -> _Rules:
    """What becomes of signs and numerals, one rule after the other; `plain` says a numeral."""
    return (
        (re.compile(r"(?<=\d)-(?=[$£€]?\d)"), lambda m: " "),  # 5-10 is no subtraction
        (
            re.compile(r"\b(\d{1,2})/(\d{1,2})/(\d{4})\b"),
            lambda m: (
                f" {MONTHS[int(m[1]) - 1]} {ordinal_words(int(m[2]))} {year_words(int(m[3]))} "
                if 1 <= int(m[1]) <= 12 and 1 <= int(m[2]) <= 31
                else f" {plain(m[1])} {plain(m[2])} {plain(m[3])} "
            ),
        ),
        (re.compile(r"\b(\d+)\s+1/2\b"), lambda m: f"{m[1]} and a half "),
        (re.compile(r"\b1/2\b"), lambda m: " half "),
        (
            re.compile(r"\b([01]?\d|2[0-3]):([0-5]\d)(?::[0-5]\d)?(?!\d)"),
            lambda m: f" {clock_words(int(m[1]), int(m[2]))} ",
        ),
        (re.compile(r"\b([ap])\.\s?m\b\.?"), lambda m: f" {m[1]}m "),
        (re.compile(r"(\d)\s?([ap]m)\b"), lambda m: f"{m[1]} {m[2]} "),
        (re.compile(r"(?<=\d),(?=\d{3}\b)"), lambda m: ""),
        (
            re.compile(r"([$£€])\s?(\d+)(?:\.(\d\d))?(?!\d)"),
            lambda m: (
                f" {_counted(m[2])} {_CURRENCIES[m[1]]} "
                + (f"and {number_words(int(m[3]))} cents " if m[3] and int(m[3]) else "")
            ),
        ),
        (re.compile(r"\b(\d{2,4})'?s\b"), lambda m: f" {_plural(_plain_number(m[1]))} "),
        (re.compile(r"\b(\d{1,12})(?:st|nd|rd|th)\b"), lambda m: f" {ordinal_words(int(m[1]))} "),
        (
            re.compile(r"((?<![\w.])-)?(\d+)(?:\.(\d+))?"),
            lambda m: (
                f" {'minus ' if m[1] else ''}"
                + (f"{_counted(m[2])} point {digit_words(m[3])} " if m[3] else f"{plain(m[2])} ")
            ),
        ),
        (re.compile(r"%"), lambda m: " percent "),
        (re.compile(r"°\s?f\b"), lambda m: " degrees fahrenheit "),
        (re.compile(r"°\s?c\b"), lambda m: " degrees celsius "),
        (re.compile(r"°"), lambda m: " degrees "),
        (re.compile(r"&"), lambda m: " and "),
        (re.compile(r"\bmr\b\.?"), lambda m: "mister "),
        (re.compile(r"\bmrs\b\.?"), lambda m: "missus "),
        (re.compile(r"\bdr\.(?=\s)"), lambda m: "doctor "),
    )


def _plain_count(digits: str) -> str:
    """As `_plain_number`, but never a year."""
    may_be_a_year = len(digits) == 4 and digits[0] != "0"
    return number_words(int(digits)) if may_be_a_year else _plain_number(digits)


_RULES = _rules(_plain_number)
_COUNTING_RULES = _rules(_plain_count)
_FRACTIONS = {"½": "a half", "¼": "a quarter", "¾": "three quarters"}


# Most words of command lists are: no rule has anything to do with them.
_PLAIN = re.compile(r"(?:(?!mrs?\b)[a-z]+)(?: (?!mrs?\b)[a-z]+)*")


def spoken_form(text: str, *, years: bool = True) -> str:
    """The recogniser's spelling of a sentence: a-z, apostrophe and single blanks.

    Numerals, clock times, dates, percentages, degrees and money become words; accents are
    dropped; other signs become blanks. Text already in this form is returned unchanged.

    Args:
        text: Any English text.
        years: Whether 1963 is "nineteen sixty three"; else it is a count like all others.

    Returns:
        Possibly empty. Runs of five or six digits are read as a number, longer ones and those with
        a leading zero digit by digit.
    """
    if _PLAIN.fullmatch(text):
        return text
    text = text.replace("’", "'").replace("‘", "'").replace("°", "\u00b0").replace("\u2212", "-")
    for sign, said in _FRACTIONS.items():
        if sign in text:
            text = re.sub(rf"(\d)\s*{sign}", rf"\1 and {said} ", text)
            text = re.sub(rf"(?<![\w.])-\s*{sign}", f" minus {said} ", text)
            text = text.replace(sign, f" {said.removeprefix('a ')} ")
    kept = "".join(c if c in "£€°" else unicodedata.normalize("NFKD", c) for c in text.lower())
    text = "".join(c for c in kept if not unicodedata.combining(c))
    for pattern, words in _RULES if years else _COUNTING_RULES:
        text = pattern.sub(words, text)
    text = re.sub(r"[^a-z' ]+", " ", text)
    # An apostrophe belongs to a word only if it touches a letter and is not a quotation mark.
    text = re.sub(r"(?<![a-z])'(?!(?:s|m|re|ll|ve|d|til|cause|em|bout)\b)|'(?![a-z])", " ", text)
    return " ".join(text.split())


def spoken_readings(text: str) -> tuple[str, ...]:
    """The ways to read the numerals of a sentence: all that can be as years, or all as counts.

    Args:
        text: As of `spoken_form`.

    Returns:
        One form or two; what `spoken_form` says comes first.
    """
    return tuple(dict.fromkeys((spoken_form(text), spoken_form(text, years=False))))
