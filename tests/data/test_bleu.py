"""BLEU by hand: precisions, clipping, the closest reference, the penalty, and what is a word in each protocol."""

from __future__ import annotations

import math
import sys

import pytest

from tests.refusals import refusal
from wsram.data.bleu import PROTOCOLS, bleu, ptb_tokenize

pytest.importorskip("sacrebleu", reason="the captions extra is not installed")


def test_a_caption_like_its_reference_scores_100_in_every_protocol() -> None:
    for protocol in PROTOCOLS:
        result = bleu(["A dog runs fast ."], [["a dog runs fast", "a cat"]], protocol)
        assert result.scores == pytest.approx((100, 100, 100, 100))
        assert result.protocol == protocol


def test_precisions_are_clipped_by_the_reference_that_has_most() -> None:
    # "the" may count twice (the second reference), "cat" once; of the bigrams only "the cat" is in a reference.
    result = bleu(["the the the cat"], [["the cat sat down", "the dog the man sat"]], "papers")
    assert result.scores == pytest.approx((100 * 3 / 4, 100 * math.sqrt(3 / 4 * 1 / 3), 0, 0))


def test_counts_are_summed_over_the_corpus_before_they_are_divided() -> None:
    captions = ["a dog runs", "a man in a red hat"]
    references = [["a dog sleeps now"], ["a man with a red hat"]]
    # Unigrams: 2 of 3 and 5 of 6. Bigrams: 1 of 2 and 3 of 5. Trigrams: 0 of 1 and 1 of 4. Fourgrams: 0 of 0 and of 3.
    p1, p2, p3 = 7 / 9, 4 / 7, 1 / 5
    assert bleu(captions, references, "papers").scores == pytest.approx(
        (100 * p1, 100 * math.sqrt(p1 * p2), 100 * math.cbrt(p1 * p2 * p3), 0)
    )


def test_the_penalty_is_against_the_closest_reference_and_the_shorter_of_two_as_close() -> None:
    captions = ["a dog", "a cat sits"]
    # Closest to 2 words: 3 (not 5). To 3: 4 or 2 words are as close, so 2. In all 5 of 5: no penalty.
    even = bleu(captions, [["a dog runs", "a dog runs very fast"], ["a cat sits there", "a cat"]], "with-penalty")
    assert even.brevity_penalty == 1
    # Now 3 and 4 words against the captions' 5.
    short = bleu(captions, [["a dog runs", "a dog runs very fast"], ["a cat sits there"]], "with-penalty")
    assert short.brevity_penalty == pytest.approx(math.exp(1 - 7 / 5))
    assert short.length_ratio == pytest.approx(5 / 7)
    assert short.scores[:2] == pytest.approx((100 * math.exp(-2 / 5),) * 2)
    free = bleu(captions, [["a dog runs", "a dog runs very fast"], ["a cat sits there"]], "papers")
    assert free.scores[:2] == pytest.approx((100, 100))
    assert free.brevity_penalty == 1


def test_images_may_have_different_numbers_of_references() -> None:
    captions = ["a dog runs fast today", "two men talk and laugh"]
    few = bleu(captions, [["a dog runs fast today"], ["one", "two", "two men talk and laugh"]], "with-penalty")
    many = bleu(captions, [["a dog runs fast today"] * 3, ["one", "two", "two men talk and laugh"]], "with-penalty")
    assert few.scores == pytest.approx((100, 100, 100, 100))
    assert few.scores == many.scores
    assert "nrefs:var" in few.signature
    assert "nrefs:3" in many.signature
    # A reference lends its words to its own image alone.
    crossed = bleu(captions, [["one", "two", "two men talk and laugh"], ["a dog runs fast today"]], "papers")
    assert crossed.scores == (0, 0, 0, 0)


def test_the_signature_is_sacrebleus_own() -> None:
    import sacrebleu

    signature = bleu(["a dog"], [["a dog"]], "papers").signature
    assert signature == f"nrefs:1|case:lc|eff:no|tok:none|smooth:none|version:{sacrebleu.__version__}"


def test_an_empty_caption_counts_as_too_short() -> None:
    result = bleu(["", "a dog"], [["a dog"], ["a dog"]], "with-penalty")
    assert result.scores[0] == pytest.approx(100 * math.exp(1 - 4 / 2))
    assert bleu([""], [["a dog"]], "with-penalty").scores == (0, 0, 0, 0)
    assert bleu([""], [["a dog"]], "papers").scores == (0, 0, 0, 0)


def test_what_a_word_is_depends_on_the_protocol() -> None:
    captions, references = ["a mans tshirt"], [["A man's T-shirt ."]]
    assert bleu(captions, references, "papers").scores[0] == pytest.approx(100)
    assert bleu(captions, references, "coco").scores[0] == pytest.approx(100 / 3 * math.exp(1 - 4 / 3))


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog , a cat ; and : more . . .", "a dog a cat and more"),
        ("dogs' o'clock Don't can't CANNOT", "dogs o'clock do n't ca n't can not"),
        ("a man 's hat and a man\u2019s hat", "a man 's hat and a man 's hat"),
        ("it's they're I've we'll I'm he'd", "it 's they 're i 've we 'll i 'm he 'd"),
        ("snow-covered--hill - wide...", "snow-covered hill wide"),
        ("1,000 men at 10:30 & 3.5 # [x] {y}", "1,000 men at 10:30 & 3.5 # -lsb- x -rsb- -lcb- y -rcb-"),
        ('say `` hi "there" “you”!', "say hi there you"),
        ("the U.S. flag", "the u.s. flag"),
        (" \t", ""),
    ],
)
def test_words_of_coco_caption(caption: str, words: str) -> None:
    assert ptb_tokenize(caption) == words.split()


def test_what_cannot_be_scored_is_refused() -> None:
    refusal(lambda: bleu(["a"], [["a"]], "meteor"), "'meteor'", "papers, with-penalty, coco")
    refusal(lambda: bleu([], [], "coco"), "0 caption(s)", "at least one")
    refusal(lambda: bleu(["a", "b"], [["a"]], "coco"), "2 caption(s) for 1 image(s)")
    refusal(lambda: bleu(["a", "b"], [["a"], []], "coco"), "image 1")
    refusal(lambda: bleu(["a", "b"], [["."], ["b"]], "papers"), "image 0")


def test_without_sacrebleu_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    refusal(lambda: bleu(["a"], [["a"]], "papers"), "sacrebleu", 'pip install "wsram[captions]"')
