"""Going on from a trained network with other images or other answers."""

from __future__ import annotations

from typing import Any

import torch

from wsram.errors import UserError
from wsram.models.classifier import AttentionClassifier
from wsram.models.pretrained import from_pretrained
from wsram.models.trunk import Trunk, fill_pretrained

OF_ANSWERS = ("prediction.head.", "prediction.view_network.evidence.", "inference.answer.")
"""Where weights belong to answers; of classes, a row to each."""
READING = ("prediction.glimpse_network.what.", "prediction.glimpse_network.where.")
"""Where weights read glimpses: what a network cannot do without."""
SHAPING = ("channels", "network", "patch", "scales", "widths", "lower_units", "binding")
"""Arguments that decide how glimpses are read."""


@torch.no_grad()
def begin_from(network: AttentionClassifier, name: str) -> tuple[str, ...]:
    """Give a network the weights of a trained one: those of the same name and shape, a class's by the class's name.

    Args:
        network: is filled; what the other has not is left as it was, but for stages of a pretrained network, which are
            as ImageNet taught them.
        name: of the other, as `from_pretrained` has it.

    Returns:
        What was taken over and what begins anew, a line each.

    Raises:
        UserError: there is no such classifier, its glimpses are read in another way, or stages of a pretrained network
            that it has not are asked for where the package of their weights is missing.
    """
    other = from_pretrained(name)
    if not isinstance(other, AttentionClassifier):
        raise UserError(f"{name} writes captions; start from a network that names what it sees")
    own, theirs = network.state_dict(), other.state_dict()
    fits = {key for key, tensor in own.items() if key in theirs and theirs[key].shape == tensor.shape}
    if any(key.startswith(READING) and key not in fits for key in own):
        asked = {key: (_argument(network, key), _argument(other, key)) for key in SHAPING}
        told = ", ".join(f"{key.replace('_', ' ')} {b} (here {a})" for key, (a, b) in asked.items() if a != b)
        raise UserError(f"cannot start from {name}, whose glimpses are read with {told}; ask for the same")
    names, other_names = network.prediction.head.names, other.prediction.head.names
    classes = network.arguments["answer"] == other.arguments["answer"] == "class"
    same = all(_argument(network, key) == _argument(other, key) for key in ("answer", "unit", "names"))
    shared = [answer for answer in names if answer in other_names] if classes or same else []
    taken = {key for key in fits if same or not key.startswith(OF_ANSWERS)}
    trunks = tuple(f"{place}." for place, module in network.named_modules() if isinstance(module, Trunk))
    filled = fill_pretrained(network) if any(key.startswith(trunks) for key in own.keys() - taken) else ()
    for key in taken:
        own[key].copy_(theirs[key])
    if classes and not same:
        here, there = ([of.index(answer) for answer in shared] for of in (names, other_names))
        for key in own:
            if key.startswith(OF_ANSWERS) and key in theirs and own[key].shape[1:] == theirs[key].shape[1:]:
                own[key][here] = theirs[key][there]
    anew = sorted({".".join(key.split(".")[:2]) for key in own if key not in taken and not key.startswith(OF_ANSWERS)})
    answers = f"and {len(shared)} of {len(names)} answers of {name}"
    return (*filled, f"starts with the weights {answers}" + (f"; anew begin {', '.join(anew)}" if anew else ""))


def _argument(network: AttentionClassifier, name: str) -> Any:
    """As it was given, or as JSON has it: the same."""
    value = network.arguments[name]
    return tuple(value) if isinstance(value, list) else value
