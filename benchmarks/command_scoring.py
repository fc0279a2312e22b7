"""What is counted when commands are heard: acceptance, rejections, slots and confusions.

A command is accepted when the intent and every slot are right, the definition of the coffee
benchmark; a rejected one is not. Clips without a command ("out of grammar") count how often one
is heard in them all the same. Everything is computed from records, one a clip, condition and
system, so that runs in parts add up to one. Knows nothing of audio or recognisers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from wer import figure

from earshot.data.scoring import DEFAULT_RESAMPLES, MIN_SPEAKERS, Estimate, share

__all__ = [
    "CLEAN",
    "MEAN",
    "PUBLISHED",
    "PUBLISHED_SNRS_DB",
    "Record",
    "acceptance_rows",
    "condition_name",
    "confusions",
    "difference_rows",
    "false_accept_rows",
    "slot_rows",
    "wrong_parts",
]

CLEAN = "clean"
MEAN = "mean of noise"
# Command acceptance over kitchen noise as the benchmark's authors published it in 2022, on all
# 619 recordings: cited figures, not measured here.
PUBLISHED_SNRS_DB = (6, 9, 12, 15, 18, 21, 24)
PUBLISHED = {
    "Google Dialogflow (cloud)": (0.70, 0.78, 0.78, 0.80, 0.81, 0.82, 0.83),
    "Amazon Lex (cloud)": (0.80, 0.84, 0.85, 0.87, 0.87, 0.87, 0.88),
    "IBM Watson (cloud)": (0.72, 0.84, 0.89, 0.93, 0.95, 0.95, 0.96),
    "Microsoft LUIS (cloud)": (0.86, 0.89, 0.90, 0.91, 0.92, 0.93, 0.93),
    "Picovoice Rhino (on device)": (0.96, 0.97, 0.98, 0.99, 0.99, 0.99, 0.99),
}
ABSENT = "(none)"
POOLED = "all sets"


@dataclass(frozen=True, slots=True)
class Record:
    """What one system made of one clip in one condition.

    `system` is the label in tables; several models with one label are the seeds of one system,
    and `member` tells them apart. `intent` and `slots` are the best command even where it was
    not accepted, if the system says it; None where it heard none.
    """

    system: str
    member: str
    condition: str
    draw: int
    set: str
    id: str
    speaker: str | None
    expected_intent: str | None  # None: the clip holds no command
    expected_slots: Mapping[str, object]
    accepted: bool
    intent: str | None
    slots: Mapping[str, object]
    confidence: float | None
    text: str

    @property
    def right(self) -> bool:
        """Accepted with the right intent and every slot right."""
        return (
            self.accepted
            and self.intent == self.expected_intent
            and dict(self.slots) == dict(self.expected_slots)
        )

    @property
    def key(self) -> tuple[str, str, str, int, str, str]:
        """What may be there once only."""
        return (self.system, self.member, self.condition, self.draw, self.set, self.id)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def condition_name(snr_db: float | None) -> str:
    """How tables call a level; None is the recording as it is."""
    return CLEAN if snr_db is None else f"{snr_db:g} dB"


def wrong_parts(record: Record) -> list[tuple[str, str, str]]:
    """(slot or "intent", expected, heard) for everything that is not as expected."""
    if not record.accepted:
        return []
    wrong = []
    if record.intent != record.expected_intent:
        wrong.append(("intent", str(record.expected_intent), str(record.intent)))
    for name in sorted({*record.expected_slots, *record.slots}):
        expected = record.expected_slots.get(name, ABSENT)
        heard = record.slots.get(name, ABSENT)
        if expected != heard:
            wrong.append((name, str(expected), str(heard)))
    return wrong


def _estimate(records: Sequence[Record], hits: Sequence[bool]) -> Estimate:
    """Over speakers where all are known, at least eight and not all alike; else over clips."""
    speakers = {record.speaker for record in records}
    if None not in speakers and len(speakers) >= MIN_SPEAKERS and len(set(hits)) > 1:
        return share(hits, [str(record.speaker) for record in records], unit="speaker")
    return share(hits, [f"{record.set}/{record.id}" for record in records], unit="clip")


def _by_system(records: Iterable[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.system, []).append(record)
    return groups


def _in_order(conditions: Iterable[str]) -> list[str]:
    return sorted(set(conditions), key=lambda c: -1.0 if c == CLEAN else float(c.split()[0]))


def acceptance_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Acceptance of every system in every condition, and its mean over the noisy ones.

    The mean is over conditions, each with its clips and draws: pooling equals it, because all
    conditions hold the same clips.
    """
    rows = []
    for system, of_system in _by_system(records).items():
        conditions = _in_order(record.condition for record in of_system)
        noisy = [name for name in conditions if name != CLEAN]
        for condition in [*conditions, *([MEAN] if len(noisy) > 1 else [])]:
            part = [
                record
                for record in of_system
                if record.condition == condition
                or (condition == MEAN and record.condition in noisy)
            ]
            row: dict[str, Any] = {
                "system": system,
                "condition": condition,
                "clips": len({record.id for record in part}),
                "heard": len(part),
                "draws": len({record.draw for record in part}),
                "acceptance": figure(_estimate(part, [record.right for record in part])),
                "rejected": sum(not record.accepted for record in part) / len(part),
                "wrong_command": sum(r.accepted and not r.right for r in part) / len(part),
            }
            members = sorted({record.member for record in part})
            if len(members) > 1:
                row["members"] = {
                    name: sum(r.right for r in part if r.member == name)
                    / sum(r.member == name for r in part)
                    for name in members
                }
            rows.append(row)
    return rows


def difference_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Acceptance of every later system less that of the first, on the same clips, by condition.

    Clips are resampled for both together, so that hard ones cancel; clips that only one of the
    two heard are left out.
    """
    systems = list(_by_system(records).items())
    rows = []
    for name, later in systems[1:]:
        base = systems[0][1]
        conditions = _in_order({r.condition for r in base} & {r.condition for r in later})
        noisy = [condition for condition in conditions if condition != CLEAN]
        for condition in [*conditions, *([MEAN] if len(noisy) > 1 else [])]:
            wanted = noisy if condition == MEAN else [condition]
            sides = [
                _rates_by_clip([r for r in side if r.condition in wanted]) for side in (base, later)
            ]
            both = [clip for clip in sides[0] if clip in sides[1]]
            if not both:
                continue
            changes = np.array([sides[1][clip] - sides[0][clip] for clip in both])
            draws = np.random.default_rng(0).multinomial(
                len(both), np.full(len(both), 1 / len(both)), size=DEFAULT_RESAMPLES
            )
            low, high = np.percentile(draws @ changes / len(both), [2.5, 97.5])
            change = Estimate(float(changes.mean()), float(low), float(high), "clip", len(both))
            rows.append(
                {
                    "system": name,
                    "less": systems[0][0],
                    "condition": condition,
                    "difference": figure(change),
                }
            )
    return rows


def _rates_by_clip(records: Sequence[Record]) -> dict[tuple[str, str], float]:
    """Share of the hearings of each clip that were right."""
    right: dict[tuple[str, str], list[bool]] = {}
    for record in records:
        right.setdefault((record.set, record.id), []).append(record.right)
    return {clip: sum(hits) / len(hits) for clip, hits in right.items()}


def slot_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """How often each slot is wrong: said and heard otherwise, said and missed, only heard.

    Counted over accepted commands: a rejected one has no slots to be wrong. Clean and noisy apart.
    """
    rows = []
    for system, of_system in _by_system(records).items():
        for noisy in (False, True):
            part = [r for r in of_system if (r.condition != CLEAN) == noisy and r.accepted]
            if not part:
                continue
            wrong: dict[str, Counter[str]] = {}
            for record in part:
                for name, expected, heard in wrong_parts(record):
                    kind = "otherwise"
                    if ABSENT in (expected, heard):
                        kind = "missed" if heard == ABSENT else "only heard"
                    wrong.setdefault(name, Counter())[kind] += 1
            names = {name for record in part for name in record.expected_slots}
            for name in ["intent", *sorted(names | wrong.keys() - {"intent"})]:
                said = (
                    len(part)
                    if name == "intent"
                    else sum(name in record.expected_slots for record in part)
                )
                counts = wrong.get(name, Counter())
                rows.append(
                    {
                        "system": system,
                        "condition": "noise" if noisy else CLEAN,
                        "slot": name,
                        "said": said,
                        "accepted_commands": len(part),
                        **{kind: counts[kind] for kind in ("otherwise", "missed", "only heard")},
                    }
                )
    return rows


def confusions(records: Sequence[Record], *, most: int = 20) -> list[dict[str, Any]]:
    """The commonest mistakes of each system over all conditions."""
    rows = []
    for system, of_system in _by_system(records).items():
        counts = Counter(part for record in of_system for part in wrong_parts(record))
        for (name, expected, heard), count in sorted(
            counts.items(), key=lambda item: (-item[1], item[0])
        )[:most]:
            rows.append(
                {
                    "system": system,
                    "slot": name,
                    "expected": expected,
                    "heard": heard,
                    "count": count,
                }
            )
    return rows


def false_accept_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Share of the clips without a command in which one was accepted, by set and pooled."""
    rows = []
    for system, of_system in _by_system(records).items():
        for condition in _in_order(record.condition for record in of_system):
            heard = [record for record in of_system if record.condition == condition]
            names = list(dict.fromkeys(record.set for record in heard))
            for name in [*names, *([POOLED] if len(names) > 1 else [])]:
                part = [record for record in heard if name in (record.set, POOLED)]
                intents = Counter(str(record.intent) for record in part if record.accepted)
                rows.append(
                    {
                        "system": system,
                        "condition": condition,
                        "set": name,
                        "clips": len({(record.set, record.id) for record in part}),
                        "speakers": len({r.speaker for r in part if r.speaker is not None}),
                        "accepted": figure(_estimate(part, [record.accepted for record in part])),
                        "intents": dict(intents.most_common()),
                    }
                )
    return rows
