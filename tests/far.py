"""A device that is none: its numbers lie in this machine's memory, and like an accelerator's they mix with no others.

So a processor can tell what would fail on a GPU for being in two places. What it cannot tell is what depends on a GPU's
own kernels, its time and its memory. It is a backend of torch written in Python, which a process has for good once it
is there: see `tests.processes`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

NAME = "far"
MOVES = ("_to_copy", "to", "copy_")
"""Operators that bring numbers from one device to another."""
INDEXES = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
"""Operators whose indices may lie on the host, as they may with CUDA."""


class Far(Tensor):
    """A tensor of the device, and the tensor of this machine that it stands for."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Far:
        made: Far = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(operator, args, kwargs or {})

    def __repr__(self, **kwargs: Any) -> str:
        return f"far {self.held}"

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, **kwargs: Any) -> Any:
        raise TypeError("numbers of a device are no array; bring them to the host first, by .cpu()")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        return self.held.data_ptr()


def run(operator: Any, args: Any, kwargs: Any) -> Any:
    """What an operator makes, where its tensors are; `RuntimeError` if they are in two places."""
    name = operator.overloadpacket.__name__
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    far = [each for each in tensors if isinstance(each, Far)]
    near = [tuple(each.shape) for each in tensors if not isinstance(each, Far) and each.dim()]
    if far and near and name not in (*MOVES, *INDEXES):
        raise RuntimeError(f"{operator} was given tensors of two devices; on the host {near}")
    asked = kwargs.get("device")
    there = bool(far) if asked is None else torch.device(asked).type == NAME
    if name == "copy_" or (name in INDEXES and tensors):
        there = isinstance(tensors[0], Far)
        if far and not there and name != "copy_":
            raise RuntimeError(f"{operator} was given indices of the device for what lies on the host")
    if there and asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}

    def held(value: Any) -> Any:
        return value.held if isinstance(value, Far) else value

    made = operator(*tree_map(held, args), **tree_map(held, kwargs))
    if not there:
        return made
    made = tree_map(lambda value: Far(value) if isinstance(value, Tensor) else value, made)
    return made if name in ("_to_copy", "to") else return_and_correct_aliasing(operator, args, kwargs, made)


class _Operators(TorchDispatchMode):
    """Tensors that are made on the device."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(operator, args, kwargs or {})


def _gru_cell(x: Tensor, h: Tensor, *weights: Tensor) -> Tensor:
    of_x, of_h, bias_x, bias_h = weights
    reset, update, new = F.linear(x, of_x, bias_x).chunk(3, -1)
    reset_h, update_h, new_h = F.linear(h, of_h, bias_h).chunk(3, -1)
    kept = (update + update_h).sigmoid()
    return kept * h + (1 - kept) * (new + (reset + reset_h).sigmoid() * new_h).tanh()


def _lstm_cell(x: Tensor, state: tuple[Tensor, Tensor], *weights: Tensor) -> tuple[Tensor, Tensor]:
    of_x, of_h, bias_x, bias_h = weights
    into, forget, new, out = (F.linear(x, of_x, bias_x) + F.linear(state[0], of_h, bias_h)).chunk(4, -1)
    cell = forget.sigmoid() * state[1] + into.sigmoid() * new.tanh()
    return out.sigmoid() * cell.tanh(), cell


def _gru(x: Tensor, first: Tensor, weights: Any, *settings: Any) -> tuple[Tensor, Tensor]:
    """Of one layer, in one direction or both, as (bias, layers, dropout, training, both, batch first) has it."""
    both, batch_first = settings[4:]
    steps = x.unbind(1 if batch_first else 0)
    ways = []
    for n in range(1 + both):
        h, seen = first[n], []
        for step in steps[:: -1 if n else 1]:
            h = _gru_cell(step, h, *weights[4 * n : 4 * n + 4])
            seen.append(h)
        ways.append(torch.stack(seen[:: -1 if n else 1], 1 if batch_first else 0))
    return torch.cat(ways, -1), torch.stack([way.select(1 if batch_first else 0, -1) for way in ways])


PLAIN = {"gru_cell": _gru_cell, "lstm_cell": _lstm_cell, "gru": _gru}
"""What torch has kernels for that only an accelerator runs, in plain words."""


class _Functions(TorchFunctionMode):
    """What is decided before operators: numbers of the host become a tensor, and who draws must be where is drawn."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if isinstance(args[0] if args else None, Far) and getattr(function, "__name__", "") in PLAIN:
            return PLAIN[function.__name__](*args, **kwargs)
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == NAME:
            return function(*args, **kwargs | {"device": "cpu"}).to(NAME)
        if function in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], Far):
            of, index, *value = args
            index = (
                tuple(torch.tensor(i) if isinstance(i, list) else i for i in index) if type(index) is tuple else index
            )
            args = (of, index, *value)
        made = function(*args, **kwargs)
        generator = kwargs.get("generator")
        if isinstance(made, Tensor) and generator is not None and generator.device.type != made.device.type:
            raise RuntimeError(f"{function} draws on {made.device} by a generator of {generator.device}")
        return made


class _Generator(torch.Generator):
    """Draws on this machine and says where it would."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made = super().__new__(cls, "cpu")
        made.where = torch.device(device)  # type: ignore[attr-defined]
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.where  # type: ignore[attr-defined, no-any-return]


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass


@contextmanager
def far_away() -> Iterator[None]:
    """Within it this process has the device, and everything that looks for an accelerator finds it."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    autocast = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    autocast.fallback(torch.library.fallthrough_kernel)
    os.environ.pop("ACCELERATE_USE_CPU", None)
    os.environ["ACCELERATE_TORCH_DEVICE"] = NAME
    torch.Generator = _Generator  # type: ignore[misc]
    # Of tensors made in it torch keeps no version, which views of those that stand for others ask for.
    torch.inference_mode = lambda mode=True: torch.set_grad_enabled(not mode)  # type: ignore[assignment, misc]
    with _Operators(), _Functions():
        yield
