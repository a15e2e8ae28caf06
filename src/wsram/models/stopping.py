"""When a network has looked enough: when it is sure."""

from __future__ import annotations

from torch import Tensor

from wsram.errors import UserError
from wsram.glimpse.pyramid import Images
from wsram.glimpse.source import Glimpsable
from wsram.models.classifier import AttentionClassifier
from wsram.models.heads import ClassHead, Head, LabelsHead
from wsram.models.looking import Stopped


def sureness(head: Head, outputs: Tensor) -> Tensor:
    """The probability (...) of what outputs (..., outputs) say: of the likeliest class, or the least sure label.

    Raises:
        UserError: the answer is a number, which has no probability.
    """
    if isinstance(head, ClassHead):
        return head.probabilities(outputs).amax(-1)
    if isinstance(head, LabelsHead):
        present = head.probabilities(outputs)
        return present.maximum(1 - present).amin(-1)
    raise UserError("a number has no probability to stop at; leave out where to stop")


def look_until_sure(
    network: AttentionClassifier, images: Images | Glimpsable, stop_at: float, glimpses: int | None = None
) -> Stopped:
    """Look at each image until its answer has a probability, or all glimpses are taken.

    Args:
        network: looks, where it is likeliest to.
        images: or their pyramid.
        stop_at: the probability, above 0 and at most 1.
        glimpses: at most; by default all.

    Raises:
        UserError: no such probability, or an answer that is a number.
    """
    if not 0 < stop_at <= 1:
        raise UserError(f"expected a probability to stop at, above 0 and at most 1, got {stop_at}; 0.99 say")
    return network.prediction.look_until(images, lambda outputs: sureness(network.head, outputs) >= stop_at, glimpses)
