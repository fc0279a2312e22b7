"""The fuzzer of the sockets, for a few seconds; CONTRIBUTING says how to run it for long."""

from __future__ import annotations

import asyncio
import random

from tests.fuzz.serve_fuzz import SOCKETS, conversation, damaged, damaged_bytes, fuzz


def test_no_conversation_breaks_the_server() -> None:
    report = asyncio.run(fuzz(4.0, seed=20_261_126))
    assert report["found"] == []
    assert report["conversations"] > 20


def test_conversations_are_made_from_their_seed_alone() -> None:
    for path, make in SOCKETS.items():
        first, second = (
            conversation(make(rng), rng) for rng in (random.Random(7), random.Random(7))
        )
        assert first == second, path
    changed = [damaged({"a": [1, {"b": 2}]}, random.Random(seed)) for seed in range(20)]
    assert any(value != {"a": [1, {"b": 2}]} for value in changed)
    assert any(damaged_bytes(b"abc" * 10, random.Random(s)) != b"abc" * 10 for s in range(5))
