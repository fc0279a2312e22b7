"""One piece of speech to recognise, and what is known about it.

Says where the sound is, never holds it. Times are seconds because that is what manifests
hold and because the sample rate is only known once the file is open.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """A stretch of an audio file with its reference text and speaker.

    Args:
        id: Unique within a manifest.
        audio: The file; absolute, or relative to the working directory.
        text: What is said, or None where nobody wrote it down.
        speaker: Whose voice it is, or None.
        offset_s: Where it starts in the file, seconds.
        duration_s: How long it lasts, seconds; None means to the end of the file.
        split: Part of the data it belongs to, such as "train"; None where there is one part.
        groups: What is known of the speaker: gender, age, accent, region and so on.
        extra: All other fields of the manifest, kept so that writing loses nothing.
    """

    id: str
    audio: Path
    text: str | None = None
    speaker: str | None = None
    offset_s: float = 0.0
    duration_s: float | None = None
    split: str | None = None
    groups: Mapping[str, str | float] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)
