"""Networks that know what they are: a folder of config.json and model.safetensors, whatever made it.

config.json holds the kind of network and the arguments it is built from: channels, names of answers, precision and all.
Only safetensors are read, and nothing is fetched unless a name of the Hugging Face Hub is asked for.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wsram.errors import UserError, reason_of
from wsram.models.captioner import AttentionCaptioner
from wsram.models.classifier import AttentionClassifier
from wsram.runs import SETTINGS, Run, load_state, read_text, write_whole
from wsram.runtime import require_memory
from wsram.strict_json import loads

Network = AttentionClassifier | AttentionCaptioner
NETWORKS: dict[str, type[Network]] = {"classifier": AttentionClassifier, "captioner": AttentionCaptioner}
"""Networks by the kind that config.json names."""
CONFIG, WEIGHTS, CALIBRATION = "config.json", "model.safetensors", "calibration.json"
RELEASED = Path(__file__).parents[1] / "released"
"""Networks that come with the package."""
GLIMPSE = 4096
"""Bytes that a glimpse at a single image takes at least until the last one is taken: some ten small tensors."""
N = TypeVar("N", bound=nn.Module)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def save_network(network: Network, folder: Path, *, inference: bool = True) -> None:
    """Write a network into a folder that is there.

    Args:
        network: what is written, to the last bit.
        folder: gets config.json and model.safetensors.
        inference: with its inference network, if it has one.

    Raises:
        OSError, SafetensorError: the disk is full or not writable.
    """
    keep = inference and network.inference is not None
    kind = next(name for name, each in NETWORKS.items() if type(network) is each)
    described = {"model_type": f"wsram-{kind}", "arguments": network.arguments | {"inference": keep}}
    tensors = {
        # safetensors keeps no memory format; channels-last weights are written in the ordinary order.
        name: tensor.detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
        if keep or not name.startswith("inference.")
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors leaves it to its owner alone
    write_whole(folder / CONFIG, json.dumps(described, indent=1, ensure_ascii=False) + "\n")


def load_network(folder: Path, *, inference: bool = True) -> Network:
    """The network in a folder, on the CPU, in evaluation mode.

    Args:
        folder: holds config.json and model.safetensors.
        inference: with its inference network, if the folder has one.

    Raises:
        UserError: the files cannot be read, or do not belong together.
    """
    kind, arguments = _description(folder)
    has = arguments.get("inference", False)
    arguments["inference"] = inference and has
    try:
        sketch = sketched(lambda: NETWORKS[kind](**arguments))
    except UserError as error:
        raise UserError(f"{folder / CONFIG}: {reason_of(error)}") from error
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(
            f"{folder / CONFIG}: expected the arguments of a {kind}, got others: {reason_of(error)}; restore it"
        ) from error
    path = folder / WEIGHTS
    tensors = read_tensors(path)
    if has and not inference:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("inference.")}
    _require_alike(sketch, tensors, path)
    if isinstance(sketch, AttentionClassifier):  # of which the tensors say nothing
        glimpses = sketch.prediction.glimpses
        require_memory(glimpses * GLIMPSE, torch.device("cpu"), f"{folder / CONFIG}: {glimpses:,} glimpses at an image")
    with torch.random.fork_rng(devices=[]):  # building draws initial weights, which the file replaces
        network = NETWORKS[kind](**arguments)
    network.load_state_dict(tensors)
    return network.eval()


def from_pretrained(name: str | Path, *, revision: str | None = None, inference: bool = True) -> Network:
    """A trained network by the folder it is in, by the name of a released one, or from the Hugging Face Hub.

    Args:
        name: a folder of a network or of a run (whose best network is taken); a network that comes with the package,
            see `released`; or OWNER/NAME on the Hub, which is fetched into its cache.
        revision: on the Hub, a branch, tag or commit.
        inference: with its inference network, if it has one.

    Raises:
        UserError: there is none of that name, or it cannot be read.

    Example:
        >>> from_pretrained("translated").prediction.glimpses
        4
    """
    folder = network_folder(name, revision=revision)
    network = load_network(folder, inference=inference)
    kept = Path(name).expanduser() / CALIBRATION
    if kept.exists() and folder != kept.parent and isinstance(network, AttentionClassifier):
        text = read_text(kept, "train the run to its end again")
        try:
            found = loads(text)
            if not _is_of(Sequence[float] | None, found["values"]):
                raise ValueError(f"no values, {found['values']!r:.80}")
            if found["step"] == load_state(folder)["step"]:
                network.calibrate(found["values"])
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{kept}: expected a calibration, got {type(error).__name__}: {reason_of(error)}; remove it"
            ) from error
    return network


def network_folder(name: str | Path, *, revision: str | None = None) -> Path:
    """Where the network of that name lies; raises as `from_pretrained` does."""
    # These, unlike a path's own, take any name whatever: too long a one, a stranger's home.
    folder = Path(os.path.expanduser(name))
    if os.path.exists(folder / SETTINGS) and not os.path.exists(folder / CONFIG):
        return Run.open(folder).best_checkpoint()
    if os.path.isdir(folder):
        return folder
    if str(name) in released():
        return RELEASED / str(name)
    if _HUB_NAME.fullmatch(str(name)) and not os.path.isdir(folder.parent):
        return _from_hub(str(name), revision)
    raise UserError(
        f"expected a network, found none at {name}; name the folder of a run or a network, or one of "
        f"{', '.join(released()) or 'those that come with the package (none here)'}"
    )


def released() -> tuple[str, ...]:
    """Names of the networks that come with the package."""
    return tuple(sorted(path.parent.name for path in RELEASED.glob(f"*/{CONFIG}")))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; `UserError` if it cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, MemoryError) as error:
        raise UserError(
            f"cannot read {path} ({reason_of(error)}); expected a safetensors file of this program"
        ) from error


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Fill a network with tensors read from `path`; `UserError` unless names, shapes and types agree."""
    _require_alike(network, tensors, path)
    network.load_state_dict(dict(tensors))


def _require_alike(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    def looks(tensor: Tensor | None) -> Any:
        return "nothing" if tensor is None else (*tensor.shape, str(tensor.dtype).removeprefix("torch."))

    own = network.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if looks(own.get(name)) != looks(tensors.get(name)):
            raise UserError(
                f"{path} is of another network: {name!r:.80} should be {looks(own.get(name))}, the file holds "
                f"{looks(tensors.get(name))}; use the {CONFIG} it was made with"
            )
        if not bool(tensors[name].isfinite().all()):
            raise UserError(f"{path}: {name} holds numbers that are not finite; restore the file")


def sketched(build: Callable[[], N]) -> N:
    """What `build` makes, without its numbers: it takes no memory, whatever sizes are asked for."""
    with torch.device("meta"), _Unfilled():
        return build()


class _Unfilled(TorchFunctionMode):
    """Within it no normal numbers are drawn: without memory there is no room, and torch takes seconds to find out."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        return (*args, *given.values())[0] if func is nn.init.normal_ else func(*args, **given)


def _description(folder: Path) -> tuple[str, dict[str, Any]]:
    """The kind of a folder's network, and its arguments as JSON has them, each of its own type."""
    path = folder / CONFIG
    text = read_text(path, f"{folder} holds no network; name the folder of a run or a network")
    try:
        described = loads(text)
        kind, arguments = described["model_type"].removeprefix("wsram-"), described["arguments"]
        if kind not in NETWORKS:
            raise ValueError(f"unknown kind {kind!r:.80}; known are {', '.join(NETWORKS)}")
        wanted = get_type_hints(NETWORKS[kind].__init__)
        for name, value in arguments.items():
            if name not in wanted:
                raise ValueError(f"a {kind} has no argument {name!r:.80}; made by another version?")
            if not _is_of(wanted[name], value):
                raise ValueError(f"{name} cannot be {value!r:.80}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: expected the description of a network, got {type(error).__name__}: {reason_of(error)}"
        ) from error
    return kind, arguments


def _is_of(kind: Any, value: Any) -> bool:
    """Whether a value of JSON is an argument of that annotation: str, int, float, bool, a sequence of such, or none."""
    if get_origin(kind) is UnionType:
        return any(_is_of(each, value) for each in get_args(kind))
    if get_origin(kind) is Sequence:
        return isinstance(value, list) and all(_is_of(get_args(kind)[0], each) for each in value)
    if kind is float:
        return type(value) in (int, float) and abs(value) < 2**53  # no number that is none, or endless
    return type(value) is kind


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, and seldom needed
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[CONFIG, WEIGHTS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"could not fetch {name} from the Hugging Face Hub ({reason_of(error)}); name a folder instead"
        ) from error
