"""A network as a file for other programs: ONNX, or PyTorch's own format, each checked against the network it is of."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wsram import __version__
from wsram.errors import UserError
from wsram.export.checks import SIZES, TOLERANCE, Run, deviation, noise_for, stepped
from wsram.export.graph import ANSWERS, Look, Looking, Start, Step
from wsram.models.classifier import AttentionClassifier
from wsram.models.heads import ClassHead, LabelsHead, NumberHead
from wsram.models.pretrained import Network
from wsram.terminal import Screen

SUFFIXES = (".onnx", ".pt2")
OPSET = 18


class Part(NamedTuple):
    """What one file holds.

    module: what is computed.
    inputs: by name, in order, one example of each; their first axis is the batch.
    outputs: their names.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]

    @property
    def free(self) -> dict[str, dict[int, str]]:
        """The axes of each input that may be of any length, by their number, and what they are called."""
        free = {name: {0: "batch"} if example.ndim else {} for name, example in self.inputs.items()}
        return free | {"images": {0: "batch", 2: "height", 3: "width"}}

    def export(self) -> torch.export.ExportedProgram:
        """The graph."""
        # An image of less than 3 pixels along an axis has no inside, and is a case of its own.
        sizes = {name: torch.export.Dim(name, min=least) for name, least in (("batch", 1), ("height", 3), ("width", 3))}
        axes = tuple({axis: sizes[name] for axis, name in each.items()} for each in self.free.values())
        with torch.no_grad(), _quiet():
            module, given = self.module.eval(), tuple(self.inputs.values())
            return torch.export.export(module, given, dynamic_shapes=axes, strict=False)


def export_file(network: Network, to: Path, screen: Screen, *, sampled: bool = False, step: bool = False) -> None:
    """Write a network into a file, and check it at several sizes and batches.

    Args:
        network: what is written, on the CPU.
        to: a new file, .onnx or .pt2.
        screen: says what was written.
        sampled: glimpses are drawn from the policy, by noise that is given as an input; by default they are its modes.
        step: beside it, NAME.start and NAME.step, by which a host takes one glimpse at a time.

    Raises:
        UserError: a captioner, a file that is there or cannot be written, an extra that is not installed, or a file
            whose answers are not the network's; nothing is left of it then.
    """
    classifier = exportable(network)
    if sampled and classifier.arguments["policy"] == "map":
        raise UserError("a file draws no cell of a map, and this network points with one; leave --sampled out")
    require_extra(to.suffix)
    parts = {to: whole(classifier, sampled=sampled)}
    if step:
        start, one = stepwise(classifier, sampled=sampled)
        parts |= {to.with_suffix(f".start{to.suffix}"): start, to.with_suffix(f".step{to.suffix}"): one}
    for path in parts:
        if os.path.lexists(path):
            raise UserError(f"{path} exists already and is left as it is; name another file")
    partial = {path: path.with_name(f"{path.stem}.partial{path.suffix}") for path in parts}
    write, read = (_write_onnx, _read_onnx) if to.suffix == ".onnx" else (_write_pt2, _read_pt2)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        for path, part in parts.items():
            write(part, about(classifier), partial[path])
        looks, *others = (read(partial[path]) for path in parts)
        worst = deviation(classifier, looks, sampled=sampled)
        if step:
            worst = max(worst, deviation(classifier, stepped(classifier, *others), sampled=sampled))
        if not worst <= TOLERANCE:
            raise UserError(
                f"the exported network's answers differ from its own by {worst:.2g}, more than {TOLERANCE:g}, so {to} "
                "was not kept; try another version of torch or onnxruntime"
            )
        for path in parts:
            partial[path].rename(path)
    except OSError as error:
        raise UserError(f"cannot write {to} ({error.strerror or error}); name another place") from error
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
    for path in parts:
        screen.say(f"Exported: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    sizes = ", ".join(f"{batch} of {height}×{width}" for batch, height, width in SIZES)
    screen.say(f"Differs from PyTorch by {worst:.1g} at most, in images of noise ({sizes} pixels)")


def exportable(network: Network) -> AttentionClassifier:
    """The network, if it can leave this package; `UserError` if not."""
    if not isinstance(network, AttentionClassifier):
        raise UserError(
            "captions cannot be exported: they are searched for word by word, on the features of a backbone; "
            "name a network that names what it sees"
        )
    return network


def require_extra(suffix: str) -> None:
    """`UserError` unless what a format needs is installed."""
    if suffix not in SUFFIXES:
        raise UserError(
            f"expected a file that ends in {' or '.join(SUFFIXES)}, or a page's new folder without a dot in its name, "
            f"got {suffix!r}; name one of them"
        )
    try:
        if suffix == ".onnx":
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
    except ImportError as error:
        said = f'ONNX needs the package {error.name}, which is not installed; pip install "wsram[export]"'
        raise UserError(said) from error


def about(network: AttentionClassifier) -> dict[str, Any]:
    """What a program needs to know of a network besides its graph; the values are JSON's."""
    sensor, head = network.prediction.sensor, network.head
    return {
        "version": __version__,
        "answer": network.arguments["answer"],
        "names": list(head.names),
        "channels": network.channels,
        "longest": network.longest,
        "glimpses": network.prediction.glimpses,
        "patch": sensor.patch_size,
        "scales": list(sensor.scales),
        "sensor": sensor.mode,
        "contrast": sensor.contrast,
        "temperature": head.temperature if isinstance(head, ClassHead) else None,
        "thresholds": head.thresholds if isinstance(head, LabelsHead) else None,
        "unit": list(head.unit) if isinstance(head, NumberHead) else None,
        "precision": "float32",
        "trained_in": {"no": "float32", "bf16": "bfloat16"}[network.precision],
    }


def whole(network: AttentionClassifier, *, sampled: bool) -> Part:
    """All glimpses in one graph."""
    images = torch.rand(2, network.channels, 40, 50)
    inputs = {"images": images} | (_named(noise_for(network, len(images), 0)) if sampled else {})
    return Part(Look(Looking(network)), inputs, (*ANSWERS[network.arguments["answer"]], "locations", "scales"))


def stepwise(network: AttentionClassifier, *, sampled: bool) -> tuple[Part, Part]:
    """The states before the first glimpse, and one glimpse."""
    looking, images = Looking(network), torch.rand(2, network.channels, 40, 50)
    start = Part(Start(looking), {"images": images}, ("upper", "lower"))
    with torch.no_grad():
        upper, lower = start.module(images)
    inputs = {"images": images, "upper": upper, "lower": lower, "number": torch.tensor(1.0)}
    if sampled:
        inputs |= _named([each[:, 0] for each in noise_for(network, len(images), 0)])
    answers = ANSWERS[network.arguments["answer"]]
    return start, Part(Step(looking), inputs, (*answers, "location", "scale", "next_upper", "next_lower"))


def _named(noise: Sequence[Tensor]) -> dict[str, Tensor]:
    return dict(zip(("location_noise", "scale_noise"), noise, strict=True))


def _write_onnx(part: Part, about: Mapping[str, Any], path: Path) -> None:
    import onnx

    program = part.export()
    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            opset_version=OPSET,
            verbose=False,
        )
    assert made is not None
    model = made.model_proto
    for each in (model.graph, *model.graph.node, *model.functions):
        del each.metadata_props[:]  # where in whose files each line of code stood
    del model.graph.value_info[:]
    given = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    names = {given[name][axis].dim_param: said for name, free in part.free.items() for axis, said in free.items()}
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in names:  # torch numbers them
                size.dim_param = names[size.dim_param]
    onnx.helper.set_model_props(model, {key: json.dumps(value, ensure_ascii=False) for key, value in about.items()})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _read_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return tuple(torch.from_numpy(each) for each in session.run(None, given))

    return run


def _write_pt2(part: Part, about: Mapping[str, Any], path: Path) -> None:
    program = part.export()
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # where in whose files each line of code stood
    with _quiet():
        torch.export.save(program, path, extra_files={"about.json": json.dumps(about, ensure_ascii=False)})


def _read_pt2(path: Path) -> Run:
    with _quiet():
        module = torch.export.load(path).module()

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(module(*tensors))

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within it, torch's exporter says nothing of its own parts."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
