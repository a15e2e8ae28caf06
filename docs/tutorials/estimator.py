# %% [markdown]
# # An estimator of your own
#
# For researchers: write a gradient estimator, check it against the exact gradient, train with it, compare it with the others.
#
# An estimator is a function of three log-probabilities, each (samples, batch, steps): of the answer, of the policy's
# actions, and of the inference network's. It returns an `Estimate`. This one is the score function with the mean of the *other*
# samples as its baseline and no control variate for anything else: a bare REINFORCE.

# %%
import torch
from torch import Tensor

from wsram import ESTIMATORS, Estimate
from wsram.estimators import Entry
from wsram.estimators.base import check, whole


def bare(
    log_p_y: Tensor,
    log_p_a: Tensor,
    log_q_a: Tensor,
    *,
    control_variates: bool = True,
    log_proposal: Tensor | None = None,
) -> Estimate:
    """REINFORCE on the bound F, actions from the policy."""
    check(log_p_y, log_p_a, log_q_a, log_proposal, control_variates)
    log_p_y, log_p_a, log_q_a = whole(log_p_y), whole(log_p_a), whole(log_q_a)
    samples = len(log_p_y)
    reward = log_p_y.detach()
    if control_variates and samples > 1:
        reward = reward - (reward.sum(0) - reward) / (samples - 1)
    return Estimate(
        prediction_loss=-log_p_y.mean(),
        policy_loss=-(reward * log_p_a).mean(),
        proposal_loss=(0 * log_q_a).mean(),
        weights=torch.full_like(log_p_y.detach(), 1 / samples),
        bound=log_p_y.detach().mean(0),
        log_evidence=torch.logsumexp(log_p_y.detach(), 0) - torch.log(torch.tensor(float(samples))),
    )


ESTIMATORS["bare"] = Entry(bare)

# %% [markdown]
# ## Check it
#
# One action out of three, where everything can be summed by hand. The gradient of F = Σ p(a) log p(y|a) with respect to the
# policy's logits is known; the mean of many estimates must come to it.

# %%
logits = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64, requires_grad=True)
value = torch.tensor([-0.2, -2.0, -1.0], dtype=torch.float64)  # log p(y | a)
(exact,) = torch.autograd.grad((logits.softmax(0) * value).sum(), logits)

draws, samples = 20_000, 5
actions = torch.multinomial(
    logits.detach().softmax(0), draws * samples, True, generator=torch.Generator().manual_seed(0)
)
actions = actions.view(samples, draws)
log_p_a = logits.log_softmax(0)[actions].unsqueeze(-1)
estimate = bare(value[actions].unsqueeze(-1), log_p_a, log_p_a.detach())
(mean,) = torch.autograd.grad(estimate.policy_loss, logits)
print("exact", exact.tolist())
print("mean of the estimates", (-mean).tolist())
assert torch.allclose(-mean, exact, atol=0.01)

# %% [markdown]
# In the repository the tests sum over *every* set of samples instead, so that the mean and the variance are exact; a new
# entry of `ESTIMATORS` is tested by them without further ado (`tests/estimators/`).
#
# ## Train with it
#
# It has a name now, so settings may name it. `"policy"` says who proposes the actions. A few updates, on a network small enough
# for a page:

# %%
from pathlib import Path

from wsram import RECIPES, Run, Screen, train
from wsram.config import EstimatorConfig, changed

config = changed(
    RECIPES["demo"], updates=4, batch=16, glimpses=2, validation=50, evaluate_every=4, lower_units=32, upper_units=32
)
for name in ("bare", "variational", "wake-sleep"):
    run = Run(Path("runs") / name, changed(config, estimator=EstimatorConfig(name, "policy", samples=4)))
    train(run, Screen(quiet=True))
    print(f"{name}: bound {run.metrics()[-1]['bound']:.3f} nats after {config.schedule.updates} updates")

# %% [markdown]
# ## Compare gradients
#
# Errors after training differ by luck between seeds. The variance of the gradient on *one* network says more; here of ten gradients on
# eight images of noise, which is few. `bare` is `variational` written anew, and comes to the same; wake-sleep's gradient is another one, of
# log p(y|I) instead of its bound:

# %%
import wsram
from wsram.estimators.diagnostics import gradient_variance

network = wsram.from_pretrained("robust").network
images, answers = torch.rand(8, 1, 100, 100, generator=torch.Generator().manual_seed(1)), torch.arange(8)
policy = {"policy": list(network.prediction.policy_head.parameters())}
for name in ("bare", "variational", "wake-sleep"):

    def loss(n: int, name: str = name) -> Tensor:
        rollout = network(images, answers, samples=4, generator=torch.Generator().manual_seed(n))
        return ESTIMATORS[name].function(rollout.log_p_y, rollout.log_p_a, rollout.log_q_a).loss

    print(f"{name}: variance {gradient_variance(loss, policy, 10)['policy']['variance']:.4g}")

# %% [markdown]
# `wsram diagnose RUN` does this for all of them, with intervals, on the data of a run. In the repository an estimator is a function in
# `wsram/estimators/` and a line in its registry: [Contributing](../contributing.md#an-estimator).
