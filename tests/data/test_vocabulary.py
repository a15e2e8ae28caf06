"""Words are what the docstring says, and numbers come back as the words they stand for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.refusals import refusal
from wsram.data.captions import load_captions
from wsram.data.vocabulary import END, PAD, SPECIALS, START, UNKNOWN, Vocabulary, tokenize

DOGS = ["A dog runs .", "The dog sleeps .", "a dog"]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A child in a pink dress .", "a child in a pink dress"),
        ("T-shirt, man 's and man's", "tshirt man s and mans"),
        ('"Hi" -- (the) #1 & 2nd', "hi the 1 2nd"),
        ("tabs\tand\u00a0spaces\nand lines", "tabs and spaces and lines"),
        ("Crème BRÛLÉE 東京 हिन्दी", "crème brûlée 東京 हिन्दी"),
        (" . , - ' \u200b", ""),
    ],
)
def test_words_are_lower_case_without_punctuation(caption: str, words: str) -> None:
    assert tokenize(caption) == words.split()


@given(st.text())
def test_words_of_words_are_the_same_words(caption: str) -> None:
    words = tokenize(caption)
    assert all(words)
    assert not any(re.search(r"\s", word) for word in words)
    assert not set(words) & set(SPECIALS)


def test_ascii_words_are_lower_case_letters_and_digits() -> None:
    assert tokenize("".join(map(chr, range(128)))) == ["0123456789" + "abcdefghijklmnopqrstuvwxyz" * 2]


def test_known_are_the_words_that_are_frequent_enough_in_order_of_count_then_alphabet() -> None:
    assert Vocabulary.build(DOGS, min_count=2).words == (*SPECIALS, "dog", "a")
    assert Vocabulary.build(DOGS, min_count=1).words == (*SPECIALS, "dog", "a", "runs", "sleeps", "the")
    assert Vocabulary.build(DOGS[::-1], min_count=1) == Vocabulary.build(DOGS, min_count=1)
    assert Vocabulary.build(DOGS * 2).words == (*SPECIALS, "dog")
    assert len(Vocabulary.build(DOGS * 2)) == 5


def test_the_special_tokens_stand_first() -> None:
    assert [SPECIALS[number] for number in (PAD, START, END, UNKNOWN)] == ["<pad>", "<start>", "<end>", "<unk>"]


def test_a_caption_becomes_its_words_the_end_and_padding() -> None:
    tokens, lengths = Vocabulary.build(DOGS, min_count=2).encode(["A dog", "The dog runs .", "dog"])
    dog, a = 4, 5
    assert tokens.dtype == lengths.dtype == torch.int64
    assert tokens.tolist() == [[a, dog, END, PAD], [UNKNOWN, dog, UNKNOWN, END], [dog, END, PAD, PAD]]
    assert lengths.tolist() == [3, 4, 2]


@given(st.lists(st.lists(st.sampled_from(["a", "dog", "runs", "fast"]), min_size=1), min_size=1))
def test_what_is_encoded_is_decoded(rows: list[list[str]]) -> None:
    captions = [" ".join(row) for row in rows]
    vocabulary = Vocabulary.build(captions, min_count=1)
    tokens, _ = vocabulary.encode(captions)
    assert [vocabulary.decode(row) for row in tokens] == captions


def test_decoding_stops_at_the_first_end_and_passes_over_start_and_padding() -> None:
    vocabulary = Vocabulary.build(DOGS, min_count=2)
    assert vocabulary.decode(torch.tensor([START, 5, PAD, 4, UNKNOWN, END, 4])) == "a dog <unk>"
    assert vocabulary.decode(torch.tensor([END, 4])) == ""
    assert vocabulary.decode(torch.tensor([4, 4])) == "dog dog"


@pytest.mark.parametrize(
    "words",
    [(), SPECIALS, ("dog", *SPECIALS), (*SPECIALS[:3], "dog"), (*SPECIALS, "dog", "dog")],
    ids=["nothing", "no word", "specials last", "a special missing", "a word twice"],
)
def test_words_that_are_no_vocabulary_are_refused(words: tuple[str, ...]) -> None:
    refusal(lambda: Vocabulary(words), "expected", "vocabulary")


def test_nothing_to_know_or_to_encode_is_refused() -> None:
    refusal(lambda: Vocabulary.build([]), "5 times", "0 different words")
    refusal(lambda: Vocabulary.build(DOGS), "5 times", "5 different words")
    refusal(lambda: Vocabulary.build(DOGS, min_count=0), "at least 1", "got 0")
    vocabulary = Vocabulary.build(DOGS, min_count=1)
    refusal(lambda: vocabulary.encode([]), "none")
    refusal(lambda: vocabulary.encode(["a dog", " ."]), "caption 1", "' .'")
    refusal(lambda: vocabulary.decode(torch.tensor([9])), "0 to 8", "got 9")
    refusal(lambda: vocabulary.decode(torch.tensor([-1])), "got -1")


def test_the_vocabulary_of_flickr8k(flickr8k_dir: Path) -> None:
    captions = [caption for image in load_captions(flickr8k_dir, "train").images for caption in image.captions]
    vocabulary = Vocabulary.build(captions)
    assert len(vocabulary) == 2541
    assert vocabulary.words[4:8] == ("a", "in", "the", "on")
    tokens, lengths = vocabulary.encode(captions)
    assert tokens.shape == (30000, 37)
    assert (tokens == UNKNOWN).sum() < 0.03 * lengths.sum()
