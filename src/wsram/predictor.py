"""A network at work on images of one's own: it reads them, answers, shows where it looked, and can be passed on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsram.answers import Caption, Prediction
from wsram.cards import release_network
from wsram.data.ahead import ahead
from wsram.data.given import Given, ImageLike, given, given_square
from wsram.data.vocabulary import PAD
from wsram.errors import UserError, require_at_least
from wsram.evidence import SAMPLES, Evidence, drawn, explain
from wsram.glimpse.actions import Action
from wsram.glimpse.source import in_unit
from wsram.models import pretrained
from wsram.models.backbone import Backbone, build_backbone
from wsram.models.captioner import AttentionCaptioner
from wsram.models.classifier import AttentionClassifier
from wsram.models.pretrained import Network, network_folder
from wsram.models.stopping import look_until_sure
from wsram.runtime import autocast, best_device, best_precision

BEAM = 5
"""Captions kept for each image while they grow, by default."""
BATCH = 128
"""Images answered together, by default."""
PIXELS = 1 << 23
"""Pixels of a batch, and of what is read in advance, after which no more images join: bounds memory."""
PHOTO = 640
"""Pixels on the longer side of an image that a caption's words are drawn on."""

Answer = Prediction | Caption
K = TypeVar("K", bound=ImageLike)


class _Read(NamedTuple):
    """An image as a network sees it and, where that is squashed, as it is drawn."""

    seen: Given
    photo: Given | None = None


class _Asked(NamedTuple):
    """See `Predictor.predict`."""

    samples: int | None
    glimpses: int | None
    stop_at: float | None
    beam: int | None
    seed: int


class Predictor:
    """A trained network, ready for images of any size and kind.

    Args:
        network: a classifier or a captioner.
        folder: where its files are, if it has any: what is known of it goes along when it is passed on.

    Example:
        >>> from wsram.models.classifier import AttentionClassifier
        >>> predictor = Predictor(AttentionClassifier(names=("cat", "dog"), patch=8, glimpses=2))
        >>> prediction = predictor.predict(np.zeros((30, 40), dtype=np.uint8))
        >>> prediction.names, len(prediction.glimpses)
        (('cat', 'dog'), 2)
    """

    def __init__(self, network: Network, folder: Path | None = None) -> None:
        self.network = network.eval()
        self.folder = folder
        self._backbone: Backbone | None = None
        self.to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> Predictor:
        """Move the network, and return this."""
        self.network.to(device)
        if self._backbone is not None:
            self._backbone.to(device)
        self._compiled: dict[torch.Size, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]] = {}
        # In the precision that it was measured in, where the processor multiplies in it: others only emulate it.
        self.precision = self.network.precision if best_precision(self.device) == "bf16" else "no"
        self._autocast = autocast(self.precision, self.device)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, labels or number; of a captioner, its words."""
        return (
            self.network.vocabulary.words if isinstance(self.network, AttentionCaptioner) else self.network.head.names
        )

    def compile(self, height: int, width: int) -> Predictor:
        """Have torch compile the network for single images of one size, which it then answers sooner; returns this.

        It takes a minute or so and a compiler of C++ on this machine, and answers may differ in the last digits. Images
        of other sizes, several at once and votes are answered as before.

        Args:
            height, width: of the images as the network sees them, in pixels.

        Raises:
            UserError: a captioner, a size below 1, or torch could not compile.
        """
        network = self.network
        if not isinstance(network, AttentionClassifier):
            raise UserError("only networks that name what they see can be compiled, and this one writes captions")
        require_at_least(1, height=height, width=width)

        def look(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            looked = network.predict(images)
            return looked.outputs_after, looked.action.location, looked.action.scale

        example = torch.zeros(1, network.channels, height, width, device=self.device)
        try:
            with torch.inference_mode(), self._autocast(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch's own parts, and of what stays uncompiled
                compiled = torch.compile(look, dynamic=False)
                compiled(example)
        except Exception as error:  # whatever a compiler, or torch on the way to it, raises
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"torch could not compile the network ({reason}); use it as it is") from error
        self._compiled[example.shape] = compiled
        return self

    def predict(
        self,
        images: ImageLike | Iterable[ImageLike],
        samples: int | None = None,
        glimpses: int | None = None,
        *,
        stop_at: float | None = None,
        beam: int | None = None,
        seed: int = 0,
    ) -> Answer | list[Answer]:
        """Say what images show.

        Args:
            images: one, as a path, an image of Pillow, an array or a tensor (see `wsram.data.given.ImageLike`); or
                several, in a list, an iterator, or an array of four axes.
            samples: sequences of glimpses that vote, drawn from the policy, each image's alike whatever is asked
                together with it; by default the network looks once, where it is likeliest to.
            glimpses: how many to take of each image; by default as many as the network was made for.
            stop_at: take no more of an image once its answer has this probability.
            beam: captions kept for each image while they grow; of a captioner, by default 5.
            seed: of what is drawn.

        Returns:
            For one image a `Prediction`, or of a captioner a `Caption`; for several a list of them.

        Raises:
            UserError: an image that cannot be read, or an option that does not fit the network.
        """
        asked = _Asked(samples, glimpses, stop_at, beam, seed)
        if isinstance(images, str | Path | Image.Image) or (
            isinstance(images, np.ndarray | Tensor) and images.ndim != 4
        ):
            self._check(asked)
            with torch.inference_mode():
                return self._answers([self._read(images)], asked)[0]
        found: list[Answer] = []
        for _, answer in self.predict_many(images, **asked._asdict()):
            if isinstance(answer, UserError):
                raise answer
            found.append(answer)
        return found

    def predict_many(
        self,
        images: Iterable[K],
        *,
        batch: int = BATCH,
        samples: int | None = None,
        glimpses: int | None = None,
        stop_at: float | None = None,
        beam: int | None = None,
        seed: int = 0,
    ) -> Iterator[tuple[K, Answer | UserError]]:
        """Say what any number of images show, one after the other; memory does not grow with how many there are.

        Args:
            images: see `predict`; the next are asked for while the former are looked at.
            batch: images looked at together, fewer if they are large.
            samples, glimpses, stop_at, beam, seed: see `predict`.

        Yields:
            Each image as it was given, in order, with its answer, or with what was wrong with it.

        Raises:
            UserError: an option that does not fit the network.
        """
        require_at_least(1, batch=batch)
        asked = _Asked(samples, glimpses, stop_at, beam, seed)
        self._check(asked)
        group: list[tuple[K, _Read | UserError]] = []
        pixels = 0
        # The next batch is read while the network looks at this one.
        for image, read in ahead(images, self._read, lambda read: min(batch, PIXELS // max(1, read.seen.held))):
            group.append((image, read))
            pixels += 0 if isinstance(read, UserError) else read.seen.held
            if len(group) == batch or pixels >= PIXELS:
                yield from self._settled(group, asked)
                group, pixels = [], 0
        yield from self._settled(group, asked)

    def explain(
        self,
        image: ImageLike,
        label: object,
        against: object | None = None,
        *,
        samples: int = SAMPLES,
        seed: int = 0,
    ) -> Evidence:
        """Say where the evidence for a label is, and where that for another one: see `wsram.evidence`.

        Args:
            image: see `predict`.
            label: the answer asked about: its name, or what `wsram.fit` was given for it, a number say.
            against: another answer; by default the likeliest other one.
            samples: sequences of glimpses that stand for the posterior.
            seed: of the draws.

        Raises:
            UserError: an image that cannot be read, an unknown label, or a captioner.
        """
        if not isinstance(self.network, AttentionClassifier):
            raise UserError("evidence is for labels, and this network writes captions")
        names = str(label), None if against is None else str(against)
        return explain(
            self.network, self._read(image).seen, *names, samples=samples, seed=seed, autocast=self._autocast
        )

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the network into a folder that `wsram.from_pretrained` opens, with what is known of it and a card.

        Raises:
            UserError: the folder is there already and not empty, or cannot be written.
        """
        return release_network(self.network, self.folder, Path(folder).expanduser())

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Upload the network, with its card, to the Hugging Face Hub; safetensors and text alone.

        Args:
            repo_id: OWNER/NAME; made if it is not there.
            private: of a new one, whether others cannot see it; by default as the owner has settled.
            token: of an account that may write there; by default the one that is logged in.

        Returns:
            Its address.

        Raises:
            UserError: the Hub cannot be reached, or refuses.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        api = HfApi(token=token)
        with TemporaryDirectory() as place:
            folder = release_network(self.network, self.folder, Path(place) / "network", repo_id)
            try:
                address = api.create_repo(repo_id, private=private, exist_ok=True)
                api.upload_folder(repo_id=repo_id, folder_path=folder)
            except (HfHubHTTPError, HFValidationError, OSError, RuntimeError) as error:  # the last of single files
                reason = " ".join(str(error).split())[:300]
                raise UserError(f"could not upload to {repo_id} ({reason}); log in, or name another") from error
        return str(address)

    def _check(self, asked: _Asked) -> None:
        """`UserError` for an option that does not fit; and makes ready what reading needs."""
        samples, glimpses, stop_at, beam, _ = asked
        if isinstance(self.network, AttentionCaptioner):
            if samples is not None:
                raise UserError("a caption attends to the likeliest cells and draws nothing; leave samples out")
            if glimpses is not None or stop_at is not None:
                raise UserError("a caption attends to one cell for each word; leave glimpses and where to stop out")
            if beam is not None:
                require_at_least(1, beam=beam)
            if self._backbone is None:
                self._backbone = build_backbone(self.network.backbone, self.network.grid).to(self.device)
            return
        if beam is not None:
            raise UserError("a beam is for captions, and this network names what it sees; leave beam out")
        for name, value in (("samples", samples), ("glimpses", glimpses)):
            if value is not None:
                require_at_least(1, **{name: value})
        if stop_at is not None and samples is not None:
            raise UserError("sequences that vote take all their glimpses; leave out samples, or where to stop")

    def _read(self, image: ImageLike) -> _Read:
        if self._backbone is not None:
            return _Read(given_square(image, self._backbone.resolution), given(image, 3, PHOTO))
        assert isinstance(self.network, AttentionClassifier)
        return _Read(given(image, self.network.channels, self.network.longest))

    def _settled(
        self, group: Sequence[tuple[K, _Read | UserError]], asked: _Asked
    ) -> Iterator[tuple[K, Answer | UserError]]:
        whole = [read for _, read in group if not isinstance(read, UserError)]
        with torch.inference_mode():
            answers = iter(self._answers(whole, asked) if whole else ())
        for image, read in group:
            yield image, read if isinstance(read, UserError) else next(answers)

    def _answers(self, reads: Sequence[_Read], asked: _Asked) -> list[Answer]:
        if isinstance(self.network, AttentionCaptioner):
            return self._captions(self.network, reads, BEAM if asked.beam is None else asked.beam)
        seen = [read.seen for read in reads]
        if asked.samples is None:
            return self._modes(self.network, seen, asked.glimpses, asked.stop_at)
        return [self._vote(image, asked.glimpses, asked.samples, asked.seed) for image in seen]

    def _modes(
        self, network: AttentionClassifier, seen: Sequence[Given], glimpses: int | None, stop_at: float | None
    ) -> list[Answer]:
        device = self.device
        sources = [image.on(device) for image in seen]
        compiled, taken = None, None
        if len(seen) == 1 and glimpses is None and stop_at is None:  # as it was compiled
            compiled = self._compiled.get(torch.Size((1, network.channels, *seen[0].size)))
        with self._autocast():
            if compiled is not None and (held := sources[0].in_memory) is not None:
                found = compiled(in_unit(held).unsqueeze(0))
            elif stop_at is not None:
                stopped = look_until_sure(network, sources, stop_at, glimpses)
                found, taken = (stopped.outputs_after, *stopped.action), stopped.taken.tolist()
            else:
                looked = network.predict(sources, glimpses=glimpses)
                found = (looked.outputs_after, *looked.action)
        outputs, location, scale = (each.cpu() for each in found)
        ends = taken or [outputs.shape[1]] * len(seen)
        return [
            self._prediction(
                image, glimpses, outputs[n : n + 1, :end], Action(location[n : n + 1, :end], scale[n : n + 1, :end])
            )
            for n, (image, end) in enumerate(zip(seen, ends, strict=True))
        ]

    def _vote(self, image: Given, glimpses: int | None, samples: int, seed: int) -> Prediction:
        network = self.network
        assert isinstance(network, AttentionClassifier)
        require_at_least(1, samples=samples)
        with torch.inference_mode(), self._autocast():
            count = network.prediction.glimpses if glimpses is None else glimpses
            pyramid = network.prediction.pyramid([image.on(self.device)], samples * count)
            outputs, (location, scale) = drawn(network, pyramid, samples, seed, glimpses)
        return self._prediction(image, glimpses, outputs.cpu(), Action(location.cpu(), scale.cpu()))

    def _prediction(self, image: Given, glimpses: int | None, outputs: Tensor, action: Action) -> Prediction:
        assert isinstance(self.network, AttentionClassifier)
        again = partial(self._vote, image, glimpses)
        return Prediction(image, self.network.head, self.network.prediction.sensor, outputs, action, again)

    def _captions(self, network: AttentionCaptioner, reads: Sequence[_Read], beam: int) -> list[Answer]:
        assert self._backbone is not None
        features = self._backbone(torch.stack([read.seen.pixels for read in reads]).to(self.device))
        with self._autocast():
            spoken = network.speak(features, beam=beam)
        found: list[Answer] = []
        for read, tokens, cells, log_p in zip(
            reads, spoken.tokens.cpu(), spoken.cells.tolist(), spoken.log_p.tolist(), strict=True
        ):
            length = int((tokens != PAD).sum())
            words = tuple(network.vocabulary.decode(tokens).split())
            assert read.photo is not None
            found.append(Caption(read.photo, words, tuple(cells[:length]), network.grid, log_p))
        return found


def from_pretrained(name: str | Path, *, revision: str | None = None, inference: bool = True) -> Predictor:
    """A trained network by name, ready for images, on an accelerator if there is one.

    Args:
        name: see `wsram.models.pretrained.from_pretrained`.
        revision: on the Hugging Face Hub, a branch, tag or commit.
        inference: with its inference network, if it has one, which `Predictor.explain` draws by.

    Raises:
        UserError: there is none of that name, or it cannot be read.

    Example:
        >>> from_pretrained("translated").names
        ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    """
    folder = network_folder(name, revision=revision)
    # A run by its own name, since its network is calibrated in the run's folder; what was fetched, by where it lies.
    here = name if os.path.exists(os.path.expanduser(name)) else folder
    return Predictor(pretrained.from_pretrained(here, inference=inference).to(best_device()), folder)
