"""Corpus BLEU of captions, in three named protocols, counted by sacrebleu.

BLEU (Papineni et al. 2002): the geometric mean of the clipped n-gram precisions of the whole corpus, times a penalty
for captions that are shorter than their closest references. Papers differ in the penalty and in what a word is, and
either moves a score by more than most methods do: a figure without its protocol says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from wsram.data.vocabulary import tokenize
from wsram.errors import UserError

ORDERS = 4


def ptb_tokenize(caption: str) -> list[str]:
    """The words of a caption as coco-caption makes them with Stanford's PTBTokenizer, which needs Java.

    Lower case; hyphenated words stay whole; contractions are split (man 's, do n't, can not); the tokens in
    coco-caption's list of punctuation are dropped. Other signs stay as words of their own, brackets under the names the
    tokenizer gives them: that list has these names in upper case, so they pass it. Abbreviations and fractions, which
    PTBTokenizer knows by long lists, are not treated.

    Example:
        >>> ptb_tokenize("A man's T-shirt , it doesn't say 'hi' (yet)...")
        ['a', 'man', "'s", 't-shirt', 'it', 'does', "n't", 'say', 'hi', '-lrb-', 'yet', '-rrb-']
    """
    text = caption.lower().replace("\u2019", "'").replace("–", "--").replace("—", "--")
    words = " ".join(_CONTRACTION.sub(r" \1", word) for word in _WORD.findall(text)).split()
    return [_BRACKETS.get(word, word) for word in words if word not in _PUNCTUATION]


_WORD = re.compile(
    r"""
      '(?:s|m|d|ll|re|ve)\b       # the rest of a contraction, written apart
    | \d+(?:[.,:]\d+)+            # 1,000  3.5  10:30
    | (?:[^\W\d_]\.){2,}          # u.s.
    | \w+(?:[-']\w+)*             # t-shirt  o'clock  don't
    | \.\.\. | --+ | [^\w\s]
    """,
    re.VERBOSE,
)
_CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|m|d|ll|re|ve)|(?<=^can)not)$")
_PUNCTUATION = frozenset(["''", "'", "``", "`", '"', "“", "”", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "{": "-lcb-", "}": "-rcb-", "[": "-lsb-", "]": "-rsb-"}


@dataclass(frozen=True)
class Protocol:
    """How captions become words, and whether captions that are too short are punished."""

    tokenize: Callable[[str], list[str]]
    penalty: bool


PROTOCOLS = {
    # Xu et al. 2015 say so of their figures, and Ba et al. 2015 compare theirs with them.
    "papers": Protocol(tokenize, penalty=False),
    "with-penalty": Protocol(tokenize, penalty=True),
    "coco": Protocol(ptb_tokenize, penalty=True),
}
"""The protocols by name. All clip counts over an image's references and take the closest reference's length."""


@dataclass(frozen=True)
class Bleu:
    """Cumulative BLEU-1 to BLEU-4 of a corpus, in percent, and how they were made.

    scores: BLEU-1, -2, -3 and -4. Nothing is smoothed: with no match of an order, that and the higher ones are 0.
    brevity_penalty: the factor in the scores, 1 without a penalty.
    length_ratio: words of the captions over words of the closest references.
    signature: sacrebleu's own. It says tok:none, since the words were made beforehand, by the protocol's rule.
    """

    scores: tuple[float, float, float, float]
    protocol: str
    brevity_penalty: float
    length_ratio: float
    signature: str


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]], protocol: str) -> Bleu:
    """Corpus BLEU of one caption for each image against the image's own captions, of which there may be any number.

    Args:
        captions: one for each image; it may be empty.
        references: for each image, in the same order, one or more.
        protocol: papers, with-penalty or coco; see `PROTOCOLS`.

    Raises:
        UserError: sacrebleu is not installed, there is no such protocol, no caption, or an image without a reference.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol {protocol!r} of BLEU; choose one of {', '.join(PROTOCOLS)}")
    if not captions or len(captions) != len(references):
        raise UserError(
            f"expected one caption for each image's references, got {len(captions)} caption(s) for {len(references)} "
            "image(s); give at least one and as many of one as of the other"
        )
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise UserError(
            'BLEU needs the package sacrebleu, which is not installed; pip install "wsram[captions]"'
        ) from error
    rule = PROTOCOLS[protocol]
    said = [" ".join(rule.tokenize(caption)) for caption in captions]
    given = [[words for caption in each if (words := " ".join(rule.tokenize(caption)))] for each in references]
    bare = next((number for number, each in enumerate(given) if not each), None)
    if bare is not None:
        raise UserError(f"expected a reference with words for every image, got none for image {bare}; leave it out")
    # sacrebleu takes the images' first references, then their second ones and so on; None where an image has no more.
    metric = BLEU(tokenize="none", lowercase=True, force=True, smooth_method="none", max_ngram_order=ORDERS)
    counted = metric.corpus_score(said, [list(stream) for stream in zip_longest(*given)])
    # A corpus as long as its references has no penalty.
    reference_length = counted.ref_len if rule.penalty else counted.sys_len
    results = [
        BLEU.compute_bleu(
            counted.counts[:order], counted.totals[:order], counted.sys_len, reference_length, max_ngram_order=order
        )
        for order in range(1, ORDERS + 1)
    ]
    one, two, three, four = (float(result.score) for result in results)
    return Bleu(
        (one, two, three, four), protocol, float(results[0].bp), float(counted.ratio), str(metric.get_signature())
    )
