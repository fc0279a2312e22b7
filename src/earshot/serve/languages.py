"""Which languages a client may ask for: the model's own, in any way of writing it."""

from __future__ import annotations

from earshot.core.errors import EarshotError

_NAMES = {"english": "en"}


class LanguageError(EarshotError):
    """A language that the model does not know."""


def check_language(wanted: str | None, known: str) -> None:
    """Refuse a language that the model does not know.

    Args:
        wanted: Such as "en", "en-US", "en_GB" or "English"; empty or None for any.
        known: The model's, such as "en".

    Raises:
        LanguageError: It is another one.
    """
    if not wanted or not wanted.strip():
        return
    name = wanted.strip().lower().replace("_", "-")
    primary = _NAMES.get(name, name.partition("-")[0])
    if primary not in (known, "auto", "*", "und"):
        raise LanguageError(
            f"language: {wanted.strip()[:40]!r} is not known to this model, which hears "
            f"{known!r}. Leave the language out or send {known!r}."
        )
