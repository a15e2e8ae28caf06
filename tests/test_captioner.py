"""The captioner: what can reach what, that scores and captions are the model's own, and what it refuses."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wsram.actions import at_least_float32
from wsram.data.vocabulary import END, PAD, START, UNKNOWN
from wsram.diagnostics import gradient_variance
from wsram.errors import UserError
from wsram.estimators import ESTIMATORS, defensive_mixture, wake_sleep
from wsram.models.captioner import AttentionCaptioner, CaptionDecoder, CaptionInference
from wsram.models.vocabulary_layer import ROWS, log_probability_of

WORDS, CHANNELS, CELLS = 9, 6, 4


def captioner(inference: bool = True, **changes: Any) -> AttentionCaptioner:
    torch.manual_seed(0)
    sizes = dict(embedding=5, units=7, attention_units=6, dropout=0.0)
    decoder = CaptionDecoder(channels=CHANNELS, words=WORDS, **(sizes | changes))
    teacher = CaptionInference(channels=CHANNELS, words=WORDS, units=7, hidden=4) if inference else None
    if teacher is not None:
        nn.init.normal_(teacher.correct.weight)  # as if it had learned something
    with torch.no_grad():
        decoder.query.weight.mul_(6)  # opinions
        decoder.say.weight.mul_(4)
    return AttentionCaptioner(decoder, teacher).double()


def images(batch: int = 3) -> Tensor:
    return torch.randn(batch, CELLS, CHANNELS, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


TOKENS = torch.tensor([[4, 5, 6, END], [7, END, PAD, PAD], [8, 4, END, PAD]])


def rolled(model: AttentionCaptioner, samples: int = 5, tokens: Tensor = TOKENS, seed: int = 0) -> Any:
    return model(images(len(tokens)), tokens, samples=samples, generator=torch.Generator().manual_seed(seed))


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


def untouched(value: Tensor, module: nn.Module) -> bool:
    return all(
        g is None for g in torch.autograd.grad(value, list(module.parameters()), retain_graph=True, allow_unused=True)
    )


def test_a_rollout_is_scored_word_by_word() -> None:
    model = captioner()
    rollout = rolled(model)
    assert rollout.log_p_y.shape == (5, 3) and rollout.log_p_glimpses.shape == (5, 3, 4)
    for m, b in itertools.product(range(5), range(3)):
        length = int((TOKENS[b] != PAD).sum())
        cells = rollout.action.cells[m, b, :length].tolist()
        log_y, log_a = score(model, images()[b], TOKENS[b, :length].tolist(), cells)
        torch.testing.assert_close(rollout.log_p_y[m, b], log_y)
        torch.testing.assert_close(rollout.log_p_a[m, b], log_a)


def test_a_word_is_what_the_cell_before_it_earned() -> None:
    """The steps of log p(y|a): the first n of them are those of the caption's first n words."""
    model = captioner()
    rollout = rolled(model)
    for n in (1, 2, 3):
        cells = rollout.action.cells[0, 0, :n].tolist()
        log_y, _ = score(model, images()[0], TOKENS[0, :n].tolist(), cells)
        torch.testing.assert_close(rollout.log_p_y_glimpses[0, 0, :n].sum(), log_y)


@pytest.mark.parametrize("name", ["variational", "wake-sleep"])
def test_credit_lowers_the_variance_of_where_to_look(name: str) -> None:
    model = captioner(inference=False)
    tokens = torch.randint(END + 1, WORDS, (16, 6), generator=torch.Generator().manual_seed(2))
    groups = {"policy": [*model.decoder.query.parameters()]}

    def variance(of: str) -> float:
        def draw(n: int) -> Tensor:
            rollout = rolled(model, tokens=tokens, seed=n)
            return ESTIMATORS[of](rollout.log_p_y_glimpses, rollout.log_p_glimpses, rollout.log_q_glimpses).policy_loss

        return gradient_variance(draw, groups, 200)["policy"]["variance"]

    assert variance(f"{name}-credit") < 0.8 * variance(name)


def test_a_defensive_mixture_bounds_the_ratios_of_captions_too() -> None:
    model = captioner()
    assert model.inference is not None
    with torch.no_grad():
        model.inference.correct.weight.mul_(8)  # sure of itself
    generator = torch.Generator().manual_seed(0)
    rollout = model(images(), TOKENS, samples=50, generator=generator, defensive=0.25)
    mixture = defensive_mixture(rollout.log_p_glimpses, rollout.log_q_glimpses, 0.25)
    torch.testing.assert_close(rollout.log_proposal_glimpses, mixture)
    assert (rollout.log_p_a - mixture.sum(-1)).detach().exp().max() <= 4 + 1e-9
    assert (rollout.log_p_a - rollout.log_q_a).detach().exp().max() > 4
    assert rolled(model).log_proposal_glimpses is None


def test_nothing_after_the_end_counts() -> None:
    rollout = rolled(captioner())
    after = (TOKENS == PAD).expand(5, -1, -1)
    assert not bool(rollout.log_p_glimpses[after].any()) and not bool(rollout.log_q_glimpses[after].any())
    assert torch.equal(rollout.action.real, (TOKENS != PAD).double())
    # However much padding there is: the policy alone draws the same, and scores the same.
    model = captioner(inference=False)
    longer = torch.cat([TOKENS, torch.full((3, 2), PAD)], 1)
    one, two = (rolled(model, tokens=t) for t in (TOKENS, longer))
    torch.testing.assert_close(one.log_p_y, two.log_p_y)
    torch.testing.assert_close(one.log_p_a, two.log_p_a)


def test_each_network_is_taught_by_its_own_loss() -> None:
    model = captioner()
    assert model.inference is not None
    rollout = rolled(model)
    for value in (rollout.log_p_y.sum(), rollout.log_p_a.sum()):
        assert untouched(value, model.inference) and not untouched(value, model.decoder)
    assert untouched(rollout.log_q_a.sum(), model.decoder) and not untouched(rollout.log_q_a.sum(), model.inference)
    estimate = wake_sleep(rollout.log_p_y, rollout.log_p_a, rollout.log_q_a)
    assert untouched(estimate.prediction_loss + estimate.policy_loss, model.inference)
    assert untouched(estimate.proposal_loss, model.decoder)
    assert untouched(estimate.policy_loss, model.decoder.say)


def test_the_caption_reaches_its_probability_through_the_cells_alone() -> None:
    """p(a_1) does not know the caption; q(a_1) does."""
    model = captioner()
    other = TOKENS.clone()
    other[:, 0] = 5
    one, two = (rolled(model, tokens=t) for t in (TOKENS, other))
    torch.testing.assert_close(one.policy.logits[:, :, 0], two.policy.logits[:, :, 0])
    first = [model.inference.captions(t)[:, 0] for t in (TOKENS, other)]  # type: ignore[union-attr]
    assert not torch.allclose(*first)


def test_at_first_the_proposal_is_the_policy() -> None:
    model = captioner()
    assert model.inference is not None
    nn.init.zeros_(model.inference.correct.weight)
    rollout = rolled(model)
    torch.testing.assert_close(rollout.log_q_glimpses, rollout.log_p_glimpses)


def test_the_evidence_is_the_sum_over_all_cells() -> None:
    """Importance sampling against enumeration: a caption of two tokens has CELLS² sequences."""
    model, tokens = captioner(), torch.tensor([[5, END]])
    with torch.no_grad():
        each = [sum(score(model, images(1)[0], [5, END], list(c))) for c in itertools.product(range(CELLS), repeat=2)]
        exact = torch.logsumexp(torch.stack(each), 0)
        rollout = rolled(model, samples=40_000, tokens=tokens)
        weights = rollout.log_p_y + rollout.log_p_a - rollout.log_q_a
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
        cell = decoder.attend(memory, state.h).mean_action()
        embedded = decoder.embed(torch.tensor([said[-1] if said else START]))
        context = decoder.context(memory, cell)
        after = decoder.advance(decoder.gates_of_word(embedded), context, state)
        words = decoder.word_logits(embedded, context, after.h).log_softmax(-1)[0]
        best = max(best, (log_p + float(words[END]), (*said, END)))
        if len(said) < longest:
            for word in range(UNKNOWN + 1, WORDS):
                grow((*said, word), after, log_p + float(words[word]))

    with torch.no_grad():
        grow((), decoder.start(memory), 0.0)
    return best


def test_a_wide_beam_finds_the_most_probable_caption() -> None:
    model = captioner()
    spoken = model.speak(images(), beam=200, longest=3)
    for b in range(3):
        log_p, said = probable(model, images()[b], 3)
        found = [int(t) for t in spoken.tokens[b] if t != PAD]
        assert found == list(said) and float(spoken.log_p[b]) == pytest.approx(log_p, rel=1e-4)


def test_a_wider_beam_is_no_worse_and_one_is_greedy() -> None:
    model = captioner()
    one, many = (model.speak(images(8), beam=beam, longest=6) for beam in (1, 12))
    assert bool((many.log_p >= one.log_p - 1e-5).all())
    for b in range(8):
        said = [int(t) for t in one.tokens[b] if t != PAD]
        log_y, _ = score(model, images(8)[b], said, one.cells[b, : len(said)].tolist())
        assert log_y.item() == pytest.approx(float(one.log_p[b]), rel=1e-4)
        assert not {PAD, START, UNKNOWN} & set(said) and said[-1] == END and len(said) <= 7


def test_what_an_image_is_called_does_not_depend_on_the_others() -> None:
    model = captioner()
    together = model.speak(images(6), beam=3, longest=5)
    for b in range(6):
        alone = model.speak(images(6)[b : b + 1], beam=3, longest=5)
        length = alone.tokens.shape[1]
        assert torch.equal(together.tokens[b, :length], alone.tokens[0]) or bool(
            (together.log_p[b] - alone.log_p[0]).abs() < 1e-6
        )


# What is refused

BAD = {
    "no channels": dict(channels=0),
    "no words": dict(words=4),
    "no units": dict(units=0),
    "all dropped": dict(dropout=1.0),
    "unknown attention": dict(attention="loud"),
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_decoders_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        CaptionDecoder(**(dict(channels=CHANNELS, words=WORDS) | changes))
    assert "\n" not in str(caught.value)


def test_requests_that_cannot_be() -> None:
    model = captioner()
    with pytest.raises(UserError, match="samples must be at least 1, got 0"):
        rolled(model, samples=0)
    with pytest.raises(UserError, match="beam"):
        model.speak(images(), beam=0)
    with pytest.raises(UserError, match="could propose"):
        AttentionCaptioner(captioner(inference=False, attention="soft").decoder, captioner().inference)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_log_probability_of_a_word_is_that_of_the_whole_table(dtype: torch.dtype) -> None:
    rows, vocabulary = 2 * ROWS + 3, 11
    logits = torch.randn(2, rows, vocabulary, generator=torch.Generator().manual_seed(0)).mul(4).to(dtype)
    index = torch.arange(2 * rows).view(2, rows) % vocabulary
    upstream = torch.linspace(-1, 1, 2 * rows).view(2, rows)
    ours, table = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = log_probability_of(ours, index)
    expected = at_least_float32(table).log_softmax(-1).gather(-1, index.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found, expected)
    (found * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(ours.grad, table.grad)


def test_samples_of_a_caption_lose_the_same_units() -> None:
    """Else their weights would compare what dropout left them, not where they looked."""
    torch.manual_seed(0)
    decoder = CaptionDecoder(channels=3, words=9, embedding=6, units=5, attention_units=4, dropout=0.5)
    embedded, context, h = torch.randn(4, 6), torch.randn(1, 4, 3), torch.randn(1, 4, 5)
    logits = decoder.word_logits(embedded, context.expand(3, -1, -1), h.expand(3, -1, -1))
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    assert not torch.equal(logits[0], decoder.word_logits(embedded, context, h)[0])


def test_dreams_are_the_captioners_own() -> None:
    """Of captions of one token the mean can be summed: Σ_a Σ_y p(a) p(y|a) log q(a|y)."""
    model, features, many = captioner(), images(2), 20_000
    decoder, teacher = model.decoder, model.inference
    assert teacher is not None
    with torch.no_grad():
        teacher.embed.weight.mul_(3)  # hears which word it is
        teacher.correct.weight.mul_(4)
        decoder.say.bias[5] = 3.0  # says it often
    rollout = model(features, TOKENS[:2, :1], samples=1, generator=torch.Generator().manual_seed(0), dreams=many)
    dreamt = rollout.log_q_dreams
    assert dreamt is not None and dreamt.shape == (many, 2, 1)
    assert untouched(dreamt.sum(), decoder) and not untouched(dreamt.sum(), teacher)
    memory = decoder.memory(features)
    start = decoder.start(memory)
    policy = decoder.attend(memory, start.h)
    embedded = decoder.embed(torch.full((2,), START))
    gates = decoder.gates_of_word(embedded)
    keys = teacher.key(decoder.normalize(features))
    said = [word for word in range(WORDS) if word not in (PAD, START)]
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
    rollout = model(images(2), TOKENS[:2], samples=1, generator=torch.Generator().manual_seed(0), dreams=3)
    dreamt = rollout.log_q_dreams
    assert dreamt is not None and dreamt.shape == (3, 2, 4)
    assert bool(dreamt[..., 0].all()) and not bool(dreamt[..., 1:].any())
    with pytest.raises(UserError, match="--proposal inference"):
        captioner(inference=False)(images(2), TOKENS[:2], samples=1, generator=torch.Generator(), dreams=1)
