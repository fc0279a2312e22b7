"""Brings two writings of the same words to one form, so that scores count words and not style.

The rule, said once: lower case; curly apostrophes become straight; an apostrophe between two
letters or digits stays ("don't"), every other one goes; hyphens, slashes and dashes part words;
all other punctuation goes; one space between words. Digits stay digits and numbers are not
spelled out. Does not know languages beyond that.
"""

import re
import unicodedata

_APOSTROPHES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\uff07": "'"})
_PARTING = re.compile(r"[-/\u2010-\u2015_]")
_LOOSE_APOSTROPHE = re.compile(r"(?<!\w)'|'(?!\w)")


def normalise(text: str) -> str:
    """The form of a text that is scored.

    Args:
        text: Any text.

    Returns:
        Words of letters, digits and inner apostrophes, separated by one space; may be empty.
        Applying it twice changes nothing.
    """
    folded = text.translate(_APOSTROPHES).lower()
    parted = _PARTING.sub(" ", folded)
    kept = "".join(char for char in parted if char == "'" or _belongs_to_words(char))
    return unicodedata.normalize("NFC", " ".join(_LOOSE_APOSTROPHE.sub("", kept).split()))


def _belongs_to_words(char: str) -> bool:
    return char.isspace() or unicodedata.category(char)[0] in "LMN"
