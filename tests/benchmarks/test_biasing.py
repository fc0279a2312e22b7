"""Errors of biased and other words, and which names a split has."""

from __future__ import annotations

import json
from pathlib import Path

import biasing
from hypothesis import given
from hypothesis import strategies as st

from earshot.data.scoring import count_words

words = st.lists(st.sampled_from("abcd"), max_size=7).map(" ".join)


@given(reference=words, hypothesis=words, biased=st.frozensets(st.sampled_from("abcd")))
def test_parts_make_up_a_plain_alignment(
    reference: str, hypothesis: str, biased: frozenset[str]
) -> None:
    mine, others = biasing.split_counts(reference, hypothesis, biased)
    whole = count_words(reference, hypothesis)
    assert (mine + others).errors == whole.errors
    assert (mine + others).reference_words == whole.reference_words
    said = reference.split()
    assert mine.reference_words == sum(word in biased for word in said)
    nothing, all_words = biasing.split_counts(reference, hypothesis, frozenset())
    assert nothing.reference_words == nothing.errors == 0
    assert all_words.errors == whole.errors


def test_which_part_an_error_is_in() -> None:
    biased = frozenset({"anna", "lee"})
    mine, others = biasing.split_counts("call anna lee now", "call hannah lee anna", biased)
    assert (mine.hits, mine.substitutions, mine.insertions) == (1, 1, 0)
    assert (others.hits, others.substitutions) == (1, 1)
    mine, others = biasing.split_counts("call anna", "call anna anna so", biased)
    assert (mine.insertions, others.insertions) == (1, 1)
    mine, others = biasing.split_counts("call anna lee", "call", biased)
    assert (mine.deletions, others.deletions) == (2, 0)


def test_names_are_parted_and_recombined(tmp_path: Path) -> None:
    names = [f"{first} {last}" for first in ("ann", "bob") for last in ("one", "twos", "threes")]
    dev, test = biasing.divided(names, "dev"), biasing.divided(names, "test")
    assert sorted(dev + test) == sorted(names)
    assert not {n.split()[1] for n in dev} & {n.split()[1] for n in test}
    more = biasing.distractors(["ann lee", "bob ray", "cy orr"], 9)
    assert len(set(more)) == 9
    assert biasing.distractors(["ann lee", "bob ray", "cy orr"], 5) == more[:5]
    text = tmp_path / "train.jsonl"
    text.write_text(json.dumps({"text": "call bob lee"}) + "\n", encoding="utf-8")
    assert biasing.unseen(["ann lee", "lee ray"], text) == ["lee ray"]
