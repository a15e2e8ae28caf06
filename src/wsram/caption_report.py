"""What a person is shown of a captioner: scores, captions of their own images, where it looked for each word."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from wsram.caption_evaluation import caption_images, evaluate_likelihood, score_captions
from wsram.config import CaptionConfig, CaptionDataConfig
from wsram.data.features import read_image
from wsram.data.vocabulary import PAD, Vocabulary
from wsram.errors import UserError
from wsram.models.build import build_captioner
from wsram.models.captioner import AttentionCaptioner
from wsram.models.encoder import build_encoder
from wsram.plots import plot_caption, plot_caption_training
from wsram.report import autocast_of, device_of
from wsram.runs import Run, load_model, load_state
from wsram.tasks.captions import VOCABULARY, examples_of, features_of, load_splits


def load_vocabulary(run: Run[CaptionConfig]) -> Vocabulary:
    """The words of a run; `UserError` if its file cannot be read."""
    path = run.folder / VOCABULARY
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"expected the run's vocabulary at {path}, got: {error}; name the folder of a run") from error
    return Vocabulary.from_json(text, path)


def load_captioner(run: Run[CaptionConfig], vocabulary: Vocabulary, channels: int) -> AttentionCaptioner:
    """The run's captioner at its best evaluation, without an inference network.

    Args:
        run: the run, or what was released of one.
        vocabulary: its words.
        channels: of the features it was trained on.
    """
    alone = replace(run.config.estimator, proposal="policy")
    captioner = build_captioner(run.config.model, alone, channels=channels, words=len(vocabulary))
    load_model(captioner, run.best_checkpoint(), without="inference")
    return captioner


def report_features(data: CaptionDataConfig, console: Console) -> None:
    """Extract features, or say that they are there, after telling what is wrong with the data."""
    splits = load_splits(data)
    for flaw in dict.fromkeys(flaw for part in splits.values() for flaw in part.flaws):
        console.print(f"Note: {flaw}", markup=False)
    features = features_of(data, splits, console)
    images, cells, channels = features.array.shape
    console.print(f"Features of {images:,} images, {cells} cells of {channels} channels each, are ready.")


def report_caption_training(run: Run[CaptionConfig], console: Console) -> None:
    """Print the best figures of a finished run and draw its curves."""
    evaluated = [row for row in run.metrics() if "nll_word" in row]
    best = min(evaluated, key=lambda row: row["nll_word"])
    curves = plot_caption_training(run.folder / "training.png", run.metrics())
    console.print(
        f"Best on dev, after {best['step']:,} updates: {best['nll_word']:.3f} nats a word, greedy BLEU-1 "
        f"{best['bleu1_greedy']:.1f} and BLEU-4 {best['bleu4_greedy']:.1f} (protocol papers)."
    )
    console.print(f"Curves: {curves}")


def report_caption_evaluation(
    folder: Path,
    console: Console,
    *,
    test: bool,
    samples: int,
    beam: int,
    captions: Path | None = None,
    features: Path | None = None,
) -> dict[str, Any]:
    """Print and save (evaluation-SPLIT.json) a captioner's BLEU under every protocol, and its likelihood.

    Args:
        folder: the run's.
        console: prints there.
        test: measure on the test split rather than dev.
        samples: sequences of cells that the likelihood is estimated from.
        beam: captions kept for each image while they grow.
        captions, features: where the data set and its features are now, if they have moved.

    Raises:
        UserError: no run, checkpoint or data there, fewer than 1 sample or beam.
    """
    run = Run.open(folder, CaptionConfig)
    data = run.config.data
    data = replace(data, captions=captions or data.captions, features=features or data.features)
    splits = load_splits(data)
    cache = features_of(data, splits)
    vocabulary = load_vocabulary(run)
    device = device_of()
    captioner = load_captioner(run, vocabulary, cache.array.shape[-1]).to(device)
    name = "test" if test else "dev"
    part = splits[name]
    examples = examples_of(part, cache, vocabulary)
    autocast = autocast_of(run.config.schedule, device)
    rows = cache.index([image.path for image in part.images])
    if run.config.model.attention == "soft":
        samples = 1
    found: dict[str, Any] = {
        "set": name,
        "images": len(part),
        "step": load_state(run.best_checkpoint())["step"],
        "samples": samples,
    }
    found |= evaluate_likelihood(
        captioner, cache, examples.rows, examples.tokens, examples.lengths, samples=samples, autocast=autocast
    )
    references = [image.captions for image in part.images]
    table = Table(title=f"{folder}: {len(part):,} images of {name}; best update, {found['step']:,}")
    for column in ("captions", "protocol", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "length ratio"):
        table.add_column(column, justify="left" if column in ("captions", "protocol") else "right")
    for width in dict.fromkeys((1, beam)):
        said = caption_images(captioner, cache, rows, vocabulary, beam=width, autocast=autocast)
        way = "greedy" if width == 1 else f"beam {width}"
        found[way.replace(" ", "_")] = scores = score_captions(said, references)
        for protocol, score in scores.items():
            cells = [f"{value:.1f}" for value in score["bleu"]]
            table.add_row(way, protocol, *cells, f"{score['length_ratio']:.2f}")
    console.print(table)
    console.print(
        f"{found['nll_word']:.4f} nats a word ({samples} samples), {found['bound_word']:.4f} under the bound F"
    )
    path = folder / f"evaluation-{name}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    console.print(f"Saved: {path}")
    return found


def report_captions(folder: Path, images: Sequence[Path], console: Console, *, beam: int, pictures: Path) -> list[str]:
    """Print what images show and draw where the captioner looked for each word.

    Args:
        folder: the captioner's run.
        images: files.
        console: prints there.
        beam: captions kept for each image while they grow.
        pictures: folder for NAME.png, made if it is not there.

    Returns:
        The captions.

    Raises:
        UserError: no run there, no image, an image that cannot be read, a folder that cannot be written.
    """
    if not images:
        raise UserError("expected image files to caption, got none; name at least one")
    run = Run.open(folder, CaptionConfig)
    vocabulary = load_vocabulary(run)
    encoder = build_encoder(run.config.data.encoder, run.config.data.grid)
    captioner = load_captioner(run, vocabulary, encoder.channels).eval()
    read = [read_image(path, encoder.resolution) for path in images]  # a bad one is told before anything is made
    try:
        pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {pictures} ({error.strerror}); name another") from error
    said = []
    for path, pixels in zip(images, read, strict=True):
        with torch.no_grad():
            spoken = captioner.speak(encoder(pixels.unsqueeze(0)), beam=beam)
        tokens = spoken.tokens[0]
        length = int((tokens != PAD).sum())
        words = [*vocabulary.decode(tokens).split(), "(end)"]
        said.append(" ".join(words[:-1]))
        picture = plot_caption(
            pictures / f"{path.stem}.png", pixels.float() / 255, words, spoken.cells[0, :length], encoder.grid
        )
        console.print(f"{path}: {said[-1]}", markup=False, highlight=False)
        console.print(f"  where it looked: {picture}")
    return said
