"""The captioner: what can reach what, that scores, dreams and captions are the model's own, and what it refuses."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.networks import CELLS, WORDS, captioner, cell_features, check_mean, untouched
from tests.refusals import refusal
from wsram.data.vocabulary import END, PAD, START, UNKNOWN
from wsram.estimators import ESTIMATORS, defensive_mixture, wake_sleep
from wsram.estimators.diagnostics import gradient_variance
from wsram.models.captioner import AttentionCaptioner

TOKENS = torch.tensor([[4, 5, 6, END], [7, END, PAD, PAD], [8, 4, END, PAD]])


def rolled(model: AttentionCaptioner, samples: int = 5, tokens: Tensor = TOKENS, seed: int = 0, **changes: Any) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return model(cell_features(len(tokens)), tokens, samples=samples, generator=generator, **changes)


def score(model: AttentionCaptioner, features: Tensor, tokens: list[int], cells: list[int]) -> tuple[Tensor, Tensor]:
    """log p(y|a) and log p(a) of one caption of one image (cells, channels), word after word."""
    decoder = model.decoder
    memory = decoder.memory(features.unsqueeze(0))
    state, last = decoder.start(memory), START
    log_y, log_a = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for word, cell in zip(tokens, cells, strict=True):
        log_a = log_a + decoder.attend(memory, state.h).log_prob(torch.tensor([cell]))[0]
        embedded = decoder.embed(torch.tensor([last]))
        context = memory.cells[:, cell]
        state = decoder.advance(decoder.gates_of_word(embedded), context, state)
        log_y = log_y + decoder.word_logits(embedded, context, state.h).log_softmax(-1)[0, word]
        last = word
    return log_y, log_a


def test_a_rollout_is_scored_word_by_word() -> None:
    model = captioner()
    rollout = rolled(model)
    assert rollout.log_p_y.shape == rollout.log_p_a.shape == rollout.log_q_a.shape == (5, 3, 4)
    for m, b in itertools.product(range(5), range(3)):
        length = int((TOKENS[b] != PAD).sum())
        cells = rollout.action.cells[m, b, :length].tolist()
        log_y, log_a = score(model, cell_features()[b], TOKENS[b, :length].tolist(), cells)
        torch.testing.assert_close(rollout.log_p_y[m, b].sum(), log_y)
        torch.testing.assert_close(rollout.log_p_a[m, b].sum(), log_a)


def test_a_word_is_what_the_cell_before_it_earned() -> None:
    """The steps of log p(y|a): the first n of them are those of the caption's first n words."""
    model = captioner()
    rollout = rolled(model)
    for n in (1, 2, 3):
        cells = rollout.action.cells[0, 0, :n].tolist()
        log_y, _ = score(model, cell_features()[0], TOKENS[0, :n].tolist(), cells)
        torch.testing.assert_close(rollout.log_p_y[0, 0, :n].sum(), log_y)


@pytest.mark.parametrize("name", ["variational", "wake-sleep"])
def test_credit_lowers_the_variance_of_where_to_look(name: str) -> None:
    model = captioner(inference=False)
    tokens = torch.randint(END + 1, len(WORDS), (16, 6), generator=torch.Generator().manual_seed(2))
    groups = {"policy": [*model.decoder.query.parameters()]}

    def variance(of: str) -> float:
        def draw(n: int) -> Tensor:
            rollout = rolled(model, tokens=tokens, seed=n)
            return ESTIMATORS[of].function(rollout.log_p_y, rollout.log_p_a, rollout.log_q_a).policy_loss

        return gradient_variance(draw, groups, 100)["policy"]["variance"]

    assert variance(f"{name}-credit") < 0.8 * variance(name)


def test_a_defensive_mixture_bounds_the_ratios_of_captions_too() -> None:
    model = captioner()
    with torch.no_grad():
        model.inference.correct.weight.mul_(8)  # sure of itself
    rollout = rolled(model, samples=50, defensive=0.25)
    mixture = defensive_mixture(rollout.log_p_a, rollout.log_q_a, 0.25)
    torch.testing.assert_close(rollout.log_proposal, mixture)
    assert (rollout.log_p_a - mixture).detach().sum(-1).exp().max() <= 4 + 1e-9
    assert (rollout.log_p_a - rollout.log_q_a).detach().sum(-1).exp().max() > 4
    assert rolled(model).log_proposal is None


def test_nothing_after_the_end_counts() -> None:
    rollout = rolled(captioner())
    after = (TOKENS == PAD).expand(5, -1, -1)
    for value in (rollout.log_p_y, rollout.log_p_a, rollout.log_q_a):
        assert not bool(value[after].any()) and bool(value[~after].all())
    assert torch.equal(rollout.action.real, (TOKENS != PAD).double())
    # However much padding there is: the policy alone draws the same, and scores the same.
    model = captioner(inference=False)
    longer = torch.cat([TOKENS, torch.full((3, 2), PAD)], 1)
    one, two = (rolled(model, tokens=t) for t in (TOKENS, longer))
    for name in ("log_p_y", "log_p_a"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name)[..., :4])
        assert not bool(getattr(two, name)[..., 4:].any())


def test_each_network_is_taught_by_its_own_loss() -> None:
    model = captioner()
    rollout = rolled(model)
    for value in (rollout.log_p_y.sum(), rollout.log_p_a.sum()):
        assert untouched(value, model.inference) and not untouched(value, model.decoder)
    assert untouched(rollout.log_q_a.sum(), model.decoder) and not untouched(rollout.log_q_a.sum(), model.inference)
    estimate = wake_sleep(rollout.log_p_y, rollout.log_p_a, rollout.log_q_a)
    assert untouched(estimate.prediction_loss + estimate.policy_loss, model.inference)
    assert untouched(estimate.proposal_loss, model.decoder)
    assert untouched(estimate.policy_loss, model.decoder.say)


def test_the_policy_chooses_a_cell_before_it_knows_the_word_and_the_proposal_knows_the_whole_caption() -> None:
    model = captioner()
    other = TOKENS.clone()
    other[0, 1] = 8
    one, two = (rolled(model, tokens=t, with_inference=False) for t in (TOKENS, other))
    torch.testing.assert_close(one.policy.logits[:, 0, :3], two.policy.logits[:, 0, :3])
    torch.testing.assert_close(one.log_p_y[:, 0, :1], two.log_p_y[:, 0, :1])
    assert not torch.allclose(one.log_p_y[:, 0, 1], two.log_p_y[:, 0, 1])
    assert not torch.allclose(one.policy.logits[:, 0, 3], two.policy.logits[:, 0, 3])  # now it has been read
    one, two = (rolled(model, tokens=t) for t in (TOKENS, other))
    assert not torch.allclose(one.log_q_a[:, 0, 0], two.log_q_a[:, 0, 0])
    torch.testing.assert_close(one.log_q_a[:, 1:], two.log_q_a[:, 1:])  # of its own caption


def test_the_policys_mean_is_that_over_what_is_proposed() -> None:
    """Step by step what the log-probabilities come to on average; θ learns from it, η does not, and nothing changes."""
    model = captioner()
    plain = rolled(model, samples=4000)
    rollout = rolled(model, samples=4000, centred=True)
    check_mean(plain, rollout, model.inference)
    assert not untouched(rollout.mean_log_p_a.sum(), model.decoder)


def test_at_first_the_proposal_is_the_policy() -> None:
    model = captioner()
    nn.init.zeros_(model.inference.correct.weight)
    rollout = rolled(model)
    torch.testing.assert_close(rollout.log_q_a, rollout.log_p_a)


def test_without_its_inference_network_the_policy_proposes() -> None:
    ours, theirs = rolled(captioner(), with_inference=False), rolled(captioner(inference=False))
    assert torch.equal(ours.action.cells, theirs.action.cells)
    assert torch.equal(ours.log_q_a, ours.log_p_a) and not ours.log_q_a.requires_grad


def test_the_evidence_is_the_sum_over_all_cells() -> None:
    """Importance sampling against enumeration: a caption of two tokens has CELLS² sequences."""
    model, tokens = captioner(), torch.tensor([[5, END]])
    with torch.no_grad():
        sequences = itertools.product(range(CELLS), repeat=2)
        each = [sum(score(model, cell_features(1)[0], [5, END], list(cells))) for cells in sequences]
        exact = torch.logsumexp(torch.stack(each), 0)
        rollout = rolled(model, samples=40_000, tokens=tokens)
        weights = (rollout.log_p_y + rollout.log_p_a - rollout.log_q_a).sum(-1)
    found = torch.logsumexp(weights, 0) - torch.tensor(40_000.0).log()
    error = float(weights.exp().std() / weights.exp().mean()) / 200
    assert error < 0.02 and abs(float(found - exact)) < 5 * error


def test_soft_attention_takes_no_actions() -> None:
    model = captioner(inference=False, attention="soft")
    rollout = rolled(model, samples=1)
    assert not bool(rollout.log_p_a.any()) and not bool(rollout.log_q_a.any())
    assert torch.equal(rolled(model, samples=1, seed=9).log_p_y, rollout.log_p_y)
    assert not untouched(rollout.log_p_y.sum(), model.decoder.query)  # learned by ordinary gradients
    assert untouched(rolled(captioner(inference=False), samples=1).log_p_y.sum(), model.decoder.query)


# Captions of its own


def probable(model: AttentionCaptioner, features: Tensor, longest: int) -> tuple[float, tuple[int, ...]]:
    """The most probable caption of at most `longest` words at the most probable cells, by trying them all."""
    decoder = model.decoder
    memory = decoder.memory(features.unsqueeze(0))
    best: tuple[float, tuple[int, ...]] = (-float("inf"), ())

    def grow(said: tuple[int, ...], state: Any, log_p: float) -> None:
        nonlocal best
        cell = decoder.attend(memory, state.h).mode()
        embedded = decoder.embed(torch.tensor([said[-1] if said else START]))
        context = decoder.context(memory, cell)
        after = decoder.advance(decoder.gates_of_word(embedded), context, state)
        words = decoder.word_logits(embedded, context, after.h).log_softmax(-1)[0]
        best = max(best, (log_p + float(words[END]), (*said, END)))
        if len(said) < longest:
            for word in range(UNKNOWN + 1, len(WORDS)):
                grow((*said, word), after, log_p + float(words[word]))

    with torch.no_grad():
        grow((), decoder.start(memory), 0.0)
    return best


def test_a_wide_beam_finds_the_most_probable_caption() -> None:
    model = captioner()
    spoken = model.speak(cell_features(), beam=200, longest=3)
    for b in range(3):
        log_p, said = probable(model, cell_features()[b], 3)
        found = [int(t) for t in spoken.tokens[b] if t != PAD]
        assert found == list(said) and float(spoken.log_p[b]) == pytest.approx(log_p, rel=1e-4)


def test_a_wider_beam_is_no_worse_and_one_is_greedy() -> None:
    model = captioner()
    one, many = (model.speak(cell_features(8), beam=beam, longest=6) for beam in (1, 12))
    assert bool((many.log_p >= one.log_p - 1e-5).all())
    for b in range(8):
        said = [int(t) for t in one.tokens[b] if t != PAD]
        log_y, _ = score(model, cell_features(8)[b], said, one.cells[b, : len(said)].tolist())
        assert log_y.item() == pytest.approx(float(one.log_p[b]), rel=1e-4)
        assert not {PAD, START, UNKNOWN} & set(said) and said[-1] == END and len(said) <= 7


def test_what_an_image_is_called_does_not_depend_on_the_others() -> None:
    model = captioner()
    together = model.speak(cell_features(6), beam=3, longest=5)
    for b in range(6):
        alone = model.speak(cell_features(6)[b : b + 1], beam=3, longest=5)
        length = alone.tokens.shape[1]
        assert torch.equal(together.tokens[b, :length], alone.tokens[0])
        assert not bool(together.tokens[b, length:].any())  # padding
        torch.testing.assert_close(together.log_p[b], alone.log_p[0])


def test_soft_attention_speaks_of_the_mean_of_all_cells() -> None:
    """Its words are those of a caption scored with that attention, wherever its most probable cells are."""
    model = captioner(inference=False, attention="soft")
    spoken = model.speak(cell_features(), longest=6)
    rollout = rolled(model, samples=1, tokens=spoken.tokens)
    torch.testing.assert_close(rollout.log_p_y[0].sum(-1), spoken.log_p)
    assert torch.equal(rollout.action.cells[0][spoken.tokens != PAD], spoken.cells[spoken.tokens != PAD])


# Dreams


def test_dreams_are_the_captioners_own() -> None:
    """Of captions of one token the mean can be summed: Σ_a Σ_y p(a) p(y|a) log q(a|y)."""
    model, features, many = captioner(), cell_features(2), 20_000
    decoder, teacher = model.decoder, model.inference
    with torch.no_grad():
        teacher.embed.weight.mul_(3)  # hears which word it is
        teacher.correct.weight.mul_(4)
        decoder.say.bias[5] = 3.0  # says it often
    dreamt = rolled(model, 1, TOKENS[:2, :1], dreams=many).log_q_dreams
    assert dreamt.shape == (many, 2, 1)
    assert untouched(dreamt.sum(), decoder) and not untouched(dreamt.sum(), teacher)
    memory = decoder.memory(features)
    start = decoder.start(memory)
    policy = decoder.attend(memory, start.h)
    embedded = decoder.embed(torch.full((2,), START))
    gates = decoder.gates_of_word(embedded)
    keys = teacher.key(decoder.normalize(features))
    said = [word for word in range(len(WORDS)) if word not in (PAD, START)]
    read = teacher.captions(torch.tensor(said).unsqueeze(-1))[:, 0]
    log_q = torch.stack([teacher(policy, keys, start.h, word.expand(2, -1)).logits.log_softmax(-1) for word in read])
    expected = torch.zeros(2, dtype=torch.float64)
    for cell in range(CELLS):
        context = decoder.context(memory, torch.full((2,), cell))
        logits = decoder.word_logits(embedded, context, decoder.advance(gates, context, start).h)
        p_words = logits[:, said].softmax(-1)
        expected = expected + policy.probabilities()[:, cell] * (p_words * log_q[:, :, cell].T).sum(-1)
    error = (dreamt.var(0).squeeze(-1) / many).sqrt()
    assert bool(((dreamt.mean(0).squeeze(-1) - expected).abs() < 4 * error).all())
    blind = (policy.probabilities() * log_q.mean(0)).sum(-1)
    assert bool(((blind - expected).abs() > 6 * error).any())  # the test can tell words apart


def test_a_dream_ends_where_its_caption_does() -> None:
    model = captioner()
    with torch.no_grad():
        model.decoder.say.bias[END] = 100.0  # says nothing
    dreamt = rolled(model, 1, TOKENS[:2], dreams=3).log_q_dreams
    assert dreamt.shape == (3, 2, 4)
    assert bool(dreamt[..., 0].all()) and not bool(dreamt[..., 1:].any())


# What is refused


def test_requests_that_cannot_be() -> None:
    model = captioner()
    refusal(lambda: rolled(model, samples=0), "samples must be at least 1, got 0")
    refusal(lambda: model.speak(cell_features(), beam=0), "beam", "got 0 and 20")
    refusal(lambda: model.speak(cell_features(), longest=0), "length", "got 1 and 0")
    refusal(lambda: rolled(model, defensive=1.0), "above 0 and below 1")
    refusal(lambda: rolled(captioner(inference=False), 1, dreams=1), "--proposal inference")
    refusal(lambda: AttentionCaptioner(words=WORDS, channels=3, attention="soft"), "could propose")
