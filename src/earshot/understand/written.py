"""The written form of what was said: "half past three" is 3:30, "twenty two percent" is 22%.

Numbers, decimals, ordinals, percentages, degrees, money, times of day, dates, years and strings of
digits become figures. English only, and careful: what has more than one reading stays in words.
"one" alone stays ("one of them"), so do "first", "third" and all that ends in "second" without a
month ("a thirty second timer"), numbers side by side that are no year, time or digit string
("twenty four seven"), and the words that only sound like numbers ("to", "for").

The rules read words from left to right and never look at sound or grammar. The reverse, figures
to words, is `data.spoken.spoken_form`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from earshot.data.spoken import DIGIT_WORDS, MONTHS, number_value, number_words, ordinal_words

__all__ = ["WrittenWord", "written", "written_words"]


@dataclass(frozen=True, slots=True)
class WrittenWord:
    """One word of the written form and the spoken words that it stands for.

    Args:
        text: Without blanks.
        first: Index of its first spoken word.
        last: Index of its last spoken word, >= first.
    """

    text: str
    first: int
    last: int


_Match = tuple[list[WrittenWord], int]  # what is written, and the index behind the last word used

_MAX_NUMBER_WORDS = 24
_SIZES = frozenset({"hundred", "thousand", "million", "billion"})
_DIGITS = {word: str(value) for value, word in enumerate(DIGIT_WORDS)}
_REPEATED = {"double": 2, "triple": 3}
_ORDINALS = {ordinal_words(value): value for value in range(1, 101)}
_UNCLEAR_ORDINALS = frozenset({"first", "second", "third"})
_PARTS = frozenset({ordinal_words(value) + "s" for value in range(3, 11)} | {"halves", "quarters"})
_HOURS = {number_words(hour): hour for hour in range(1, 13)}
_LATE_HOURS = {number_words(hour): hour for hour in range(13, 24)}
_BEFORE_TIMES = frozenset({"at", "by", "until", "till", "before", "after", "around"})
_CENTURIES = {number_words(century): century for century in range(11, 21)}
_SURE_CENTURIES = frozenset({"nineteen", "twenty"})
_BEFORE_YEARS = frozenset({"in", "since", "year", "of", *MONTHS})
_COINS = {"dollar": ("$", "cent"), "euro": ("€", "cent"), "pound": ("£", "penny")}
_COIN_OF = {
    "dollar": "dollar",
    "dollars": "dollar",
    "euro": "euro",
    "euros": "euro",
    "pound": "pound",
    "pounds": "pound",
}
_SMALL_COINS = {
    "cent": {"cent", "cents"},
    "penny": {"penny", "pennies", "pence"},
}
_DEGREES = frozenset({"degree", "degrees"})
_SCALES = {"celsius": "°C", "centigrade": "°C", "fahrenheit": "°F"}
# Words before "point five" that make it a place or a matter: "at that point one of us".
_BEFORE_POINTS = frozenset(
    {"a", "at", "each", "every", "first", "from", "last", "my", "next", "some", "that", "the"}
    | {"this", "to", "what", "which", "your"}
)


def written(text: str) -> str:
    """The written form of a sentence.

    Args:
        text: Words in the recogniser's spelling, separated by blanks. Text that already holds
            figures is kept.

    Returns:
        The words, separated by one blank. Writing twice changes nothing.
    """
    return " ".join(word.text for word in written_words(text.split()))


def written_words(words: Sequence[str]) -> list[WrittenWord]:
    """The written form of words, each with the words it stands for, so that times survive.

    Args:
        words: In the recogniser's spelling.

    Returns:
        The written words in order; together they cover every spoken word once.
    """
    out: list[WrittenWord] = []
    at = 0
    while at < len(words):
        match = next((found for rule in _RULES if (found := rule(words, at)) is not None), None)
        if match is None:
            match = [WrittenWord(words[at], at, at)], at + 1
        out += match[0]
        at = match[1]
    return out


def _word(words: Sequence[str], at: int) -> str:
    return words[at] if 0 <= at < len(words) else ""


def _as_said(words: Sequence[str], first: int, end: int) -> _Match:
    return [WrittenWord(words[at], at, at) for at in range(first, end)], end


# ---------------------------------------------------------------- times of day


def _half_of_day(words: Sequence[str], at: int) -> tuple[str, int]:
    """`am` or `pm` at a place and the index behind it; nothing if it is not there."""
    if _word(words, at) in ("am", "pm"):
        return words[at], at + 1
    if _word(words, at) in ("a", "p") and _word(words, at + 1) == "m":
        return words[at] + "m", at + 2
    return "", at


def _minutes(words: Sequence[str], at: int) -> tuple[int, int] | None:
    """Minutes after an hour, "thirty" or "oh five", and the index behind them."""
    if _word(words, at) == "oh" and _word(words, at + 1) in DIGIT_WORDS[1:]:
        return int(_DIGITS[words[at + 1]]), at + 2
    for end in (at + 2, at + 1):
        value = number_value(words[at:end]) if end <= len(words) else None
        if (
            isinstance(value, int)
            and 10 <= value < 60
            and end - at == len(number_words(value).split())
        ):
            return value, end
    return None


def _time(words: Sequence[str], at: int, end: int, clock: str) -> _Match:
    """A time of day over some words, with the `am` or `pm` after them."""
    half, after = _half_of_day(words, end)
    found = [WrittenWord(clock, at, end - 1)]
    if half:
        found.append(WrittenWord(half, end, after - 1))
    return found, after


def _relative_time(words: Sequence[str], at: int) -> _Match | None:
    """Reads "half past three", "a quarter to four", "ten minutes past five"."""
    start = at + 1 if _word(words, at) == "a" and _word(words, at + 1) == "quarter" else at
    if _word(words, start) in ("half", "quarter"):
        minutes, middle = (30 if words[start] == "half" else 15), start + 1
    else:
        value, middle = _cardinal(words, at)
        if not isinstance(value, int) or not 1 <= value < 30:
            return None
        minutes = value
    said_minutes = _word(words, middle) in ("minute", "minutes")
    middle += said_minutes
    side = _word(words, middle)
    hour = _HOURS.get(_word(words, middle + 1))
    end = middle + 2
    if hour is None or side not in ("past", "to") or (side == "to" and minutes == 30):
        return None
    if _follows_number(words, at) or _continues_number(words, end):
        return None
    if _word(words, end) == "o'clock":
        end += 1
    elif side == "to" and words[start] != "quarter" and not said_minutes:
        # "at ten to four" is a time, "from ten to four" is a range.
        sure = _word(words, at - 1) in ("at", "it's") or _half_of_day(words, end)[0]
        if not sure or minutes not in (5, 10, 20, 25) or _is_unit(_word(words, end)):
            return None
    if side == "to":
        hour, minutes = (hour - 1) or 12, 60 - minutes
    return _time(words, at, end, f"{hour}:{minutes:02}")


def _clock_time(words: Sequence[str], at: int) -> _Match | None:
    """Reads "three o'clock", "seven thirty p m", "at ten fifteen"."""
    before = _word(words, at - 1)
    hour = _HOURS.get(_word(words, at))
    if hour is None and before == "at":
        hour = _LATE_HOURS.get(_word(words, at))
        if hour is None and _word(words, at) == "twenty":
            hour = 20
    if hour is None or _follows_number(words, at):
        return None
    if _word(words, at + 1) == "o'clock":
        return _time(words, at, at + 2, f"{hour}:00")
    found = _minutes(words, at + 1)
    if found is None:
        half, after = _half_of_day(words, at + 1)
        if not half or hour > 12 or _article_follows(words, at + 1, after):
            return None
        return _time(words, at, at + 1, str(hour))
    minutes, end = found
    half, _ = _half_of_day(words, end)
    if not half and before not in _BEFORE_TIMES:
        return None
    if _continues_number(words, end) or _is_unit(_word(words, end)):
        return None
    return _time(words, at, end, f"{hour}:{minutes:02}")


def _article_follows(words: Sequence[str], at: int, after: int) -> bool:
    """Whether "am" is the verb: "at seven am i"."""
    return words[at] == "am" and _word(words, after) in ("i", "not")


# ---------------------------------------------------------------- numbers


def _cardinal(words: Sequence[str], at: int) -> tuple[int | float | None, int]:
    """The longest number that starts at a place and the index behind it; no sign, no fraction."""
    limit = min(len(words), at + _MAX_NUMBER_WORDS)
    if _word(words, at) in ("minus", "negative"):
        return None, at
    for end in range(limit, at, -1):
        stretch = words[at:end]
        if "point" in stretch or "half" in stretch or _word(words, end) in _SIZES:
            continue
        if "and" in stretch and _word(words, at - 1) == "between":
            continue
        value = number_value(stretch)
        if value is not None:
            return value, end
    return None, at


def _follows_number(words: Sequence[str], at: int) -> bool:
    return at > 0 and (_is_figure(words[at - 1]) or _cardinal(words, at - 1)[0] is not None)


def _is_figure(word: str) -> bool:
    """Whether a word was written in figures before; an amount of money is complete."""
    return word[-1].isdigit() and word[0] not in "$€£"


def _continues_number(words: Sequence[str], at: int) -> bool:
    word = _word(words, at)
    is_figure = word[:1].isdigit()  # written before
    return (
        is_figure
        or word in _SIZES
        or word in ("oh", "point")
        or _cardinal(words, at)[0] is not None
    )


def _is_unit(word: str) -> bool:
    return word in _DEGREES or word in _COIN_OF or word in ("percent", "cents", "pence")


def _digit_string(words: Sequence[str], at: int) -> _Match | None:
    """Three or more digits said one by one; "double five" counts as two."""
    digits, end = _said_digits(words, at)
    if len(digits) < 3 or end - at < 2 or (_word(words, at) == "oh" and len(digits) < 4):
        return None
    if _word(words, end) == "point" or _continues_number(words, end) or _follows_number(words, at):
        return None
    if _word(words, end) in _ORDINALS or _word(words, end) in _PARTS:
        return None
    return [WrittenWord(digits, at, end - 1)], end


def _said_digits(words: Sequence[str], at: int) -> tuple[str, int]:
    digits = ""
    while True:
        word, following = _word(words, at), _word(words, at + 1)
        if word in _DIGITS:
            digits, at = digits + _DIGITS[word], at + 1
        elif word == "oh" and (digits or following in _DIGITS or following in _REPEATED):
            digits, at = digits + "0", at + 1
        elif word in _REPEATED and (following in _DIGITS or following == "oh"):
            digits += _REPEATED[word] * _DIGITS.get(following, "0")
            at += 2
        else:
            return digits, at


@dataclass(frozen=True, slots=True)
class _Number:
    """A number in figures, and where it ends."""

    figures: str
    end: int
    is_bare_one: bool = False


def _number(words: Sequence[str], at: int) -> _Number | None:
    """A number with sign and fraction, if exactly one stands here."""
    start = at
    sign = ""
    if _word(words, at) in ("minus", "negative") and not _follows_number(words, at):
        sign, start = "-", at + 1
    value, end = _cardinal(words, start)
    if value is None:
        return _bare_decimal(words, at, start, sign)
    figures = str(value)
    if words[start] == "a" and end == start + 2 and not sign and not _is_unit(_word(words, end)):
        return None  # "a hundred", "a million": a figure of speech
    if _word(words, end) == "point":
        digits, after = _said_digits(words, end + 1)
        if not digits:
            return _Number(sign + figures, end, is_bare_one=figures == "1" and not sign)
        figures, end = f"{figures}.{digits}", after
    elif list(words[end : end + 3]) == ["and", "a", "half"] and _word(words, end + 3) != "of":
        figures, end = f"{figures}.5", end + 3
    return _Number(
        sign + figures, end, is_bare_one=end == start + 1 and figures == "1" and not sign
    )


def _bare_decimal(words: Sequence[str], at: int, start: int, sign: str) -> _Number | None:
    """Reads "point five" without a whole number before it."""
    if _word(words, start) != "point" or _word(words, at - 1) in _BEFORE_POINTS:
        return None
    digits, end = _said_digits(words, start + 1)
    if not digits or words[start + 1] == "oh" or (digits == "1" and _word(words, end) == "of"):
        return None
    return _Number(f"{sign}0.{digits}", end)


def _year(words: Sequence[str], at: int) -> tuple[str, int] | None:
    """A year said in two halves, "nineteen eighty four" or "twenty oh five"."""
    century = _CENTURIES.get(_word(words, at))
    if century is None or _follows_number(words, at):
        return None
    if words[at] not in _SURE_CENTURIES and _word(words, at - 1) not in _BEFORE_YEARS:
        return None
    rest = _minutes(words, at + 1)
    if rest is None:
        value, end = _cardinal(words, at + 1)
        if not isinstance(value, int) or not 60 <= value < 100:
            return None
        rest = value, end
    if _continues_number(words, rest[1]) or _is_unit(_word(words, rest[1])):
        return None
    return f"{century}{rest[0]:02}", rest[1]


def _number_or_run(words: Sequence[str], at: int) -> _Match | None:
    """A number with its unit; numbers side by side stay in words."""
    year = _year(words, at)
    if year is not None:
        return [WrittenWord(year[0], at, year[1] - 1)], year[1]
    number = _number(words, at)
    if number is None:
        return None
    end = _run_end(words, number.end)
    if end > number.end:
        return _as_said(words, at, end)
    return _with_unit(words, at, number)


def _run_end(words: Sequence[str], end: int) -> int:
    """Behind the numbers and fractions that follow a number without a word between."""
    while True:
        word = _word(words, end)
        if word in _SIZES or word == "oh" or word in _PARTS or word in _ORDINALS:
            end += 1
            continue
        following = _number(words, end) if word not in ("minus", "negative", "point", "a") else None
        if following is None:
            return end
        end = following.end


def _with_unit(words: Sequence[str], at: int, number: _Number) -> _Match | None:
    end = number.end
    word = _word(words, end)
    whole = number.figures.lstrip("-").isdigit()
    if word == "percent" or (word == "per" and _word(words, end + 1) == "cent"):
        end += 1 if word == "percent" else 2
        return [WrittenWord(f"{number.figures}%", at, end - 1)], end
    if word in _DEGREES:
        scale = _SCALES.get(_word(words, end + 1))
        figure = WrittenWord(number.figures, at, number.end - 1)
        if scale is None:
            return [figure, WrittenWord(word, end, end)], end + 1
        return [figure, WrittenWord(scale, end, end + 1)], end + 2
    if word in _COIN_OF and whole and not number.figures.startswith("-"):
        return _money(words, at, number)
    if word in _SMALL_COINS["cent"] or word in _SMALL_COINS["penny"]:
        figure = WrittenWord(number.figures, at, end - 1)
        return [figure, WrittenWord(word, end, end)], end + 1
    if number.is_bare_one or _counts_a_group(words, at, number):
        return _as_said(words, at, end)
    return [WrittenWord(number.figures, at, end - 1)], end


def _counts_a_group(words: Sequence[str], at: int, number: _Number) -> bool:
    """Whether a small number is a word rather than a figure: "two of them", "one or two"."""
    if number.end != at + 1:
        return False
    after = _word(words, number.end) == "of"
    bare_one = (
        _word(words, at - 2) == "one"
        and _word(words, at - 3) not in ("minus", "negative")
        and not _follows_number(words, at - 2)
    )
    return after or (bare_one and _word(words, at - 1) in ("or", "to"))


def _money(words: Sequence[str], at: int, number: _Number) -> _Match:
    """Reads "five dollars and ten cents"; pounds alone may be a weight and keep their word."""
    name = _COIN_OF[words[number.end]]
    sign, small = _COINS[name]
    end = number.end + 1
    start = end + (_word(words, end) == "and")
    value, after = _cardinal(words, start)
    if isinstance(value, int) and 0 < value < 100 and _word(words, after) in _SMALL_COINS[small]:
        return [WrittenWord(f"{sign}{number.figures}.{value:02}", at, after)], after + 1
    if name == "pound":
        figure = WrittenWord(number.figures, at, number.end - 1)
        return [figure, WrittenWord(words[number.end], number.end, number.end)], end
    return [WrittenWord(f"{sign}{number.figures}", at, end - 1)], end


# ---------------------------------------------------------------- ordinals and dates


def _ordinal(words: Sequence[str], at: int) -> _Match | None:
    """Reads "twenty first", "tenth"; those with a second reading only beside a month."""
    for end in (at + 2, at + 1):
        said = " ".join(words[at:end])
        value = _ORDINALS.get(said)
        if value is None or end > len(words):
            continue
        before = _word(words, at - 1)
        if _follows_number(words, at) or before in ("a", "one") or _word(words, end) in _SIZES:
            return None
        month_before = before in MONTHS or (before == "the" and _word(words, at - 2) in MONTHS)
        month_after = _word(words, end) == "of" and _word(words, end + 1) in MONTHS
        unclear = said in _UNCLEAR_ORDINALS or said.endswith("second")  # "thirty second timer"
        if unclear and not (month_before or month_after):
            return None
        return [WrittenWord(f"{value}{_ending(value)}", at, end - 1)], end
    return None


def _ending(value: int) -> str:
    if value % 100 in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")


def _day_and_year(words: Sequence[str], at: int) -> _Match | None:
    """Reads "may four twenty twenty five" after the month: a day, then a year in two halves."""
    if _word(words, at - 1) not in MONTHS:
        return None
    for end in (at + 2, at + 1):
        day = number_value(words[at:end]) if end <= len(words) else None
        if not isinstance(day, int) or not 1 <= day <= 31:
            continue
        rest = ["of", *words[end:]]
        year = _year(rest, 1)
        if year is not None:
            after = end - 1 + year[1]
            return [WrittenWord(str(day), at, end - 1), WrittenWord(year[0], end, after - 1)], after
    return None


_RULES: tuple[Callable[[Sequence[str], int], _Match | None], ...] = (
    _relative_time,
    _clock_time,
    _day_and_year,
    _ordinal,
    _digit_string,
    _number_or_run,
)
