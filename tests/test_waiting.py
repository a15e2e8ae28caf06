"""An update gives an accelerator its work and never waits for it, as far as a processor can tell."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.benchmark_update import MADE_UP, PARTS, open_examples, update_works
from tests.tiny import tiny_config
from wsram.config import ClassificationConfig
from wsram.glimpse.source import averaged_down

WAITING = (
    # A number is read, to be one on the host or to decide something there.
    *("_local_scalar_dense", "equal", "is_nonzero"),
    # How large the result is depends on numbers.
    *("nonzero", "masked_select", "unique", "_unique2", "unique_consecutive", "bincount", "repeat_interleave", "histc"),
)
"""Operators of torch that an accelerator is waited for at."""


class NeverWaiting(TorchDispatchMode):
    """Fails at an operator that waits; what an optimizer counts its steps in lies on the host and may be read."""

    def __init__(self, on_host: list[torch.Tensor]) -> None:
        super().__init__()
        self.on_host = {tensor.data_ptr() for tensor in on_host}

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator.overloadpacket.__name__
        known = args and isinstance(args[0], torch.Tensor) and args[0].data_ptr() in self.on_host
        assert name not in WAITING or known, f"{operator} waits"
        if name in ("index", "index_put", "index_put_"):
            kinds = [index.dtype for index in args[1] if index is not None]
            assert not {torch.bool, torch.uint8} & set(kinds), "a mask that chooses rows waits for how many they are"
        return operator(*args, **(kwargs or {}))


class NothingSent(TorchFunctionMode):
    """Fails where numbers of the host are made a tensor of a device: each is a copy that is waited for."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and not isinstance(args[0], torch.Tensor):
            assert kwargs.get("device") in (None, "cpu"), f"{args[0]} is sent to the device"
        return function(*args, **kwargs)


def tiny(**changes: Any) -> ClassificationConfig:
    return tiny_config(MADE_UP, **{"validation": None, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "wake-sleep-credit", "defensive": 0.2, "sleep": 0.5, "temperature": 1.5, "scale_entropy": 0.1},
        {"name": "variational-credit", "proposal": "policy", "sum_scale": True, "every_glimpse": 0.5, "empty": 0.1},
        {"name": "vimco", "network": "conv", "widths": (4, 8), "recurrence": "lstm", "contrast": True, "coverage": 0.1},
        {"name": "wake-sleep-exact", "policy": "map", "map_stride": 2, "distortion": 0.5, "warp": 0.5, "dropout": 0.2},
        {
            "scene": "cluttered-60",
            "name": "variational",
            "pathwise": 0.5,
            "proposal": "policy",
            "flip": "both",
            "rotate": 9.0,
            "blur": 1.0,
        },
    ],
    ids=lambda changes: str(changes["name"]),
)
def test_an_update_never_waits(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.benchmark_update.DIGITS", 20)
    monkeypatch.setattr("experiments.benchmark_update.MATMUL", 8)
    update = update_works(*open_examples(tiny(**changes)))
    parts = [update.works[part] for part in PARTS]
    for part in parts:  # tables of sizes are made once, and an optimizer's moments
        part()
    counts = [moments["step"] for moments in update.optimizer.state.values()]
    with NeverWaiting(counts), NothingSent():
        for part in parts:
            part()


def test_a_large_view_is_not_waited_for() -> None:
    image = torch.rand(1, 800, 800)
    with NeverWaiting([]), NothingSent():
        averaged_down(image, 25)


@pytest.mark.parametrize("wait", ["item", "mask", "sent", "nonzero"])
def test_waiting_would_be_noticed(wait: str) -> None:
    numbers = torch.rand(4)
    waits = {
        "item": lambda: numbers.sum().item(),
        "mask": lambda: numbers[numbers > 0.5],
        "sent": lambda: torch.tensor([1.0], device=numbers.device),
        "nonzero": lambda: (numbers > 0.5).nonzero(),
    }
    with pytest.raises(AssertionError), NeverWaiting([]), NothingSent():
        waits[wait]()
