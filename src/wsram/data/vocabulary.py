"""Captions as numbers: what a word is, which words are known, and the way there and back."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wsram.errors import UserError

PAD, START, END, UNKNOWN = 0, 1, 2, 3
"""Numbers of the special tokens: after a caption's end, before its first word, after its last, an unknown word."""
SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")
"""Their names, in order. No word can be one of them, since words hold no punctuation."""
MIN_COUNT = 5
"""Times a word must be in the training captions to be known, by default; as in Karpathy and Li 2015."""


def tokenize(caption: str) -> list[str]:
    """The words of a caption: lower case, punctuation deleted, split at white space.

    As Karpathy and Li made the tokens of their JSON files, on which *Show, Attend and Tell* trained: every character
    that is not a letter, a digit, a mark on one or white space is deleted, and nothing is put in its place.

    Example:
        >>> tokenize("A man's T-shirt , it's 2 snow-covered hills .")
        ['a', 'mans', 'tshirt', 'its', '2', 'snowcovered', 'hills']
    """
    return "".join(c for c in caption.lower() if c.isspace() or unicodedata.category(c)[0] in "LMN").split()


@dataclass(frozen=True)
class Vocabulary:
    """The words a captioner knows; a word's number is its place.

    words: the special tokens `SPECIALS`, then the known words, most frequent first.

    Raises:
        UserError: other words come first, there are none besides, or one is there twice.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        """Numbers mean what everybody takes them for."""
        if self.words[: len(SPECIALS)] != SPECIALS or len(self.words) == len(SPECIALS):
            raise UserError(f"expected a vocabulary's words to be {' '.join(SPECIALS)} and some more, got others")
        if len(set(self.words)) < len(self.words):
            raise UserError("expected every word of a vocabulary once, got some twice")

    def __len__(self) -> int:
        """How many words there are, special tokens included."""
        return len(self.words)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of each word."""
        return {word: number for number, word in enumerate(self.words)}

    @staticmethod
    def build(captions: Iterable[str], min_count: int = MIN_COUNT) -> Vocabulary:
        """The words that are at least `min_count` times in the captions, which must be those of the training split.

        Words that are equally frequent are in alphabetical order, so the same captions in any order give the same
        vocabulary.

        Raises:
            UserError: no word is that frequent.
        """
        if min_count < 1:
            raise UserError(f"the least count of a known word must be at least 1, got {min_count}")
        counts = Counter(word for caption in captions for word in tokenize(caption))
        known = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
        if not known:
            raise UserError(
                f"expected words that are in the captions {min_count} times or more, found none among "
                f"{len(counts)} different words; give more captions or lower the least count"
            )
        return Vocabulary(SPECIALS + tuple(known))

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Captions as numbers of words, each followed by the end token.

        The start token is not among them: it is what a decoder is fed before it makes the first of them.

        Returns:
            tokens: (captions, T) int64; T is the length of the longest, `PAD` follows the end of the others.
            lengths: (captions,) int64, words and the end token counted.

        Raises:
            UserError: there is no caption, or one has no word.
        """
        if not captions:
            raise UserError("expected captions to encode, got none; give at least one")
        rows = []
        for number, caption in enumerate(captions):
            words = tokenize(caption)
            if not words:
                raise UserError(f"caption {number} has no word, got {caption!r}; leave it out")
            rows.append([self.numbers.get(word, UNKNOWN) for word in words] + [END])
        lengths = torch.tensor([len(row) for row in rows])
        longest = int(lengths.max())
        return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows]), lengths

    def decode(self, tokens: Tensor) -> str:
        """The caption of one row of numbers, (T,) int64: its words up to the end token, if there is one.

        Raises:
            UserError: a number is no word's.

        Example:
            >>> Vocabulary.build(["a dog"], min_count=1).decode(torch.tensor([1, 4, 3, 2, 4]))
            'a <unk>'
        """
        words = []
        for number in tokens.tolist():
            if number == END:
                break
            if not 0 <= number < len(self):
                raise UserError(
                    f"expected numbers of words from 0 to {len(self) - 1}, got {number}; "
                    "use the vocabulary that the captions were made with"
                )
            if number not in (PAD, START):
                words.append(self.words[number])
        return " ".join(words)
