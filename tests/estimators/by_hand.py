"""The estimators' formulas by hand, for one set of samples, with plain numbers and loops.

Nothing here is shared with the code that is tested.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.estimators.enumeration import Tables, World, moments, probability, tuples
from wsram.estimators import Estimator, vimco, wake_sleep, wake_sleep_credit, wake_sleep_resampled

Coefficients = tuple[list[float], list[float], list[float]]
HandFormula = Callable[[Tables, Tensor], Coefficients]


def numbers(tables: Tables, drawn: Tensor) -> tuple[list[float], list[float], list[float]]:
    """L, ρ and w̃ of the drawn sequences."""
    label, policy, proposal = (t[drawn].tolist() for t in tables)
    rho = [math.exp(p) / math.exp(q) for p, q in zip(policy, proposal, strict=True)]
    return label, rho, [r * math.exp(lik) for r, lik in zip(rho, label, strict=True)]


def share(values: list[float]) -> list[float]:
    return [v / sum(values) for v in values]


def hand_wake_sleep(tables: Tables, drawn: Tensor) -> Coefficients:
    _, _, weight = numbers(tables, drawn)
    w = share(weight)
    return w, w, w


def hand_wake_sleep_cv(tables: Tables, drawn: Tensor) -> Coefficients:
    _, rho, weight = numbers(tables, drawn)
    w, psi = share(weight), share(rho)
    return w, [w[m] - psi[m] for m in range(len(w))], [w[m] - 1 / len(w) for m in range(len(w))]


def hand_variational(tables: Tables, drawn: Tensor) -> Coefficients:
    label, rho, _ = numbers(tables, drawn)
    psi = share(rho)
    return psi, [psi[m] * label[m] for m in range(len(psi))], [0.0] * len(psi)


def hand_variational_cv(tables: Tables, drawn: Tensor) -> Coefficients:
    label, rho, _ = numbers(tables, drawn)
    psi = share(rho)
    policy = []
    for m in range(len(psi)):
        others = [i for i in range(len(psi)) if i != m]
        baseline = sum(rho[i] * label[i] for i in others) / sum(rho[i] for i in others)
        policy.append(psi[m] * (label[m] - baseline))
    return psi, policy, [0.0] * len(psi)


def signals(weight: list[float], control_variates: bool) -> list[float]:
    """VIMCO's learning signals."""
    samples, signal = len(weight), []
    for m in range(samples):
        others = [weight[i] for i in range(samples) if i != m]
        typical = math.prod(others) ** (1 / len(others)) if control_variates else 0.0
        baseline = math.log((sum(others) + typical) / samples) if control_variates else 0.0
        signal.append(math.log(sum(weight) / samples) - baseline)
    return signal


def hand_vimco(control_variates: bool, inference: bool) -> HandFormula:
    def formula(tables: Tables, drawn: Tensor) -> Coefficients:
        _, _, weight = numbers(tables, drawn)
        w, signal = share(weight), signals(weight, control_variates)
        if not inference:
            return w, signal, [0.0] * len(w)
        zero_mean = 1 / len(w) if control_variates else 0.0
        return w, w, [signal[m] - (w[m] - zero_mean) for m in range(len(w))]

    return formula


def slope_by_hand(regressor: list[list[float]], response: list[list[float]], image: int) -> float:
    """Least squares through the origin over all images but one, shrunk by how far they disagree, from 0 to 1."""
    others = [b for b in range(len(regressor)) if b != image]
    shared = {b: sum(x * y for x, y in zip(regressor[b], response[b], strict=True)) for b in others}
    own = {b: sum(x * x for x in regressor[b]) for b in others}
    if len(others) < 2 or sum(shared.values()) <= 0:
        return 0.0
    slope = sum(shared.values()) / sum(own.values())
    error = sum((shared[b] - slope * own[b]) ** 2 for b in others) / sum(own.values()) ** 2
    error *= len(others) / (len(others) - 1)
    return min(1.0, slope * max(0.0, 1 - error / slope**2))


def foreseen_by_hand(regressor: list[list[float]], response: list[list[float]], image: int) -> list[float]:
    """What the slope foretells of an image's response (samples), as far as the other images' regressors reach."""
    sizes = [sum(x * x for x in values) for values in regressor]
    reach = 1 - sizes[image] / sum(sizes) if sum(sizes) else 0.0
    slope = slope_by_hand(regressor, response, image)
    return [slope * reach * x for x in regressor[image]]


def hand(each: Estimator, control_variates: bool, inference: bool) -> HandFormula:
    """The formula of whole sequences, in which there is no credit to assign."""
    if each is vimco:
        return hand_vimco(control_variates, inference)
    if each in (wake_sleep, wake_sleep_credit, wake_sleep_resampled):  # of one step, or of nothing resampled
        return hand_wake_sleep_cv if control_variates else hand_wake_sleep
    return hand_variational_cv if control_variates else hand_variational


def hand_coefficients(formula: HandFormula, tables: Tables, index: Tensor) -> Tables:
    """The formula's coefficients for every column of `index` (samples, sets)."""
    each = torch.tensor([formula(tables, drawn) for drawn in index.T], dtype=torch.float64)
    return Tables(*each.permute(1, 2, 0))


def hand_moments(formula: HandFormula, of: World, samples: int) -> list[tuple[Tensor, float]]:
    """Exact mean and variance (trace) of a formula's estimates of θ_y, θ_p and η over all ordered sample sets."""
    index = tuples(samples)
    chance = probability(index, of.tables.q, ordered=True)
    taken = hand_coefficients(formula, of.tables, index)
    return [moments(c, s, index, chance) for c, s in zip(taken, of.scores, strict=True)]
