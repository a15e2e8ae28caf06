"""Networks from settings: the one place where a config becomes a model."""

from __future__ import annotations

from wsram.config import CaptionModelConfig, EstimatorConfig, ModelConfig
from wsram.glimpse import Sensor
from wsram.models.captioner import AttentionCaptioner, CaptionDecoder, CaptionInference
from wsram.models.classifier import AttentionClassifier, InferenceNetwork, PredictionNetwork


def build_classifier(
    model: ModelConfig, estimator: EstimatorConfig, *, channels: int, classes: int
) -> AttentionClassifier:
    """The classifier these settings describe, freshly initialised from torch's global generator.

    Args:
        model: the networks' settings.
        estimator: decides whether there is an inference network.
        channels: of the images.
        classes: number of labels.
    """
    prediction = PredictionNetwork(
        Sensor(model.patch, model.scales, model.sensor),
        glimpses=model.glimpses,
        channels=channels,
        classes=classes,
        lower_units=model.lower_units,
        upper_units=model.upper_units,
        recurrence=model.recurrence,
        encoder=model.encoder,
        widths=model.widths,
        view=model.view,
        std_range=model.std_range,
    )
    inference = None
    if estimator.proposal == "inference":
        inference = InferenceNetwork(
            classes=classes, hidden=model.upper_units, outputs=prediction.policy_head.out_features
        )
    return AttentionClassifier(prediction, inference)


def build_captioner(
    model: CaptionModelConfig, estimator: EstimatorConfig, *, channels: int, words: int
) -> AttentionCaptioner:
    """The captioner these settings describe, freshly initialised from torch's global generator.

    Args:
        model: the networks' settings.
        estimator: decides whether there is an inference network.
        channels: features of a cell.
        words: size of the vocabulary.
    """
    decoder = CaptionDecoder(
        channels=channels,
        words=words,
        embedding=model.embedding,
        units=model.units,
        attention_units=model.attention_units,
        dropout=model.dropout,
        attention=model.attention,
    )
    inference = None
    if estimator.proposal == "inference":
        inference = CaptionInference(channels=channels, words=words, units=model.units)
    return AttentionCaptioner(decoder, inference)
