"""Each change of a training image does what it says, and depends on nothing but (seed, epoch, index)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from wsram.data.augment import BANK, DRAWS, Augmented, augment, augmented
from wsram.data.dataset import Batch, Spec
from wsram.image_settings import AugmentConfig

EVERYTHING = AugmentConfig("both", 20.0, 0.3, 0.1, 2.0, (0.5, 1.5), 0.5, 0.5, 0.2)
SMALL_BANK = torch.randn(1 << 12, generator=torch.Generator().manual_seed(3))


@dataclass(frozen=True)
class Images:
    """Images as a data set."""

    images: list[Tensor]
    spec: Spec = field(default_factory=lambda: Spec(1, "class", ("a", "b")))
    title: str = "images"

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor, epoch: int | None = None) -> Batch:
        images = [self.images[n] for n in index.tolist()]
        same = len({image.shape for image in images}) == 1
        return Batch(torch.stack(images) if same else images, index % 2)

    def to(self, device: torch.device) -> Images:
        return self

    def fingerprint(self) -> str:
        return "those"


def images(count: int = 6, sizes: tuple[tuple[int, int], ...] = ((9, 12),), channels: int = 1) -> Images:
    generator = torch.Generator().manual_seed(1)
    return Images([torch.rand(channels, *sizes[n % len(sizes)], generator=generator) for n in range(count)])


def with_bank(base: Images, settings: AugmentConfig, seed: int = 5) -> Augmented:
    """As `augmented`, with fewer numbers to draw."""
    return Augmented(base, settings, seed, SMALL_BANK)


def changed_by(image: Tensor, uniform: dict[int, float], **settings: Any) -> Tensor:
    """One image (height, width) changed with these draws, the others in the middle."""
    u = torch.full((1, DRAWS), 0.5)
    for n, value in uniform.items():
        u[0, n] = value
    found = augment(image.view(1, 1, *image.shape), u, AugmentConfig(**settings), SMALL_BANK)
    assert isinstance(found, Tensor)
    return found[0, 0]


TWO = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])


def test_without_settings_the_data_are_themselves() -> None:
    base = images()
    assert augmented(base, AugmentConfig(), 0) is base


def test_the_bank_belongs_to_the_seed() -> None:
    one, other = (augmented(images(), EVERYTHING, seed) for seed in (0, 1))
    assert isinstance(one, Augmented) and isinstance(other, Augmented)
    assert one.bank.shape == (BANK,)
    assert not torch.equal(one.bank, other.bank)


@pytest.mark.parametrize("sizes", [((9, 12),), ((9, 12), (14, 5))], ids=["one size", "two sizes"])
def test_an_image_is_changed_the_same_whatever_else_is_in_the_batch(sizes: tuple[tuple[int, int], ...]) -> None:
    data = with_bank(images(12, sizes), EVERYTHING)
    whole = data.batch(torch.arange(12), 3).images
    for n in range(12):
        for company in ([n], [n, 4], [7, n, n]):
            found = data.batch(torch.tensor(company), 3).images[company.index(n)]
            torch.testing.assert_close(found, whole[n], rtol=0, atol=1e-6)


def test_an_image_is_changed_anew_in_every_epoch_by_every_seed_and_otherwise_the_same() -> None:
    base, index = images(6), torch.arange(6)
    first = with_bank(base, EVERYTHING).batch(index, 0).images
    assert torch.equal(with_bank(base, EVERYTHING).batch(index, 0).images, first)
    for other in (with_bank(base, EVERYTHING).batch(index, 1), with_bank(base, EVERYTHING, 6).batch(index, 0)):
        assert not any(torch.allclose(a, b) for a, b in zip(other.images, first, strict=True))


def test_two_images_of_the_same_content_are_changed_differently() -> None:
    data = with_bank(Images([TWO.unsqueeze(0)] * 2), EVERYTHING)
    one, other = data.batch(torch.arange(2), 0).images
    assert not torch.allclose(one, other)


def test_evaluation_is_never_changed() -> None:
    base = images(6)
    data = with_bank(base, EVERYTHING)
    assert torch.equal(data.batch(torch.arange(6)).images, base.batch(torch.arange(6)).images)
    assert data.fingerprint() == base.fingerprint() and data.spec == base.spec and len(data) == 6


def test_answers_are_never_changed() -> None:
    assert torch.equal(with_bank(images(6), EVERYTHING).batch(torch.tensor([5, 2]), 0).answers, torch.tensor([1, 0]))


@pytest.mark.parametrize("channels", [1, 3])
def test_values_and_sizes_stay(channels: int) -> None:
    wild = replace(EVERYTHING, brightness=(0.0, 5.0), noise=3.0, background=1.0, blur=6.0)
    base = images(24, ((9, 12), (1, 1), (1, 7)), channels)
    found = with_bank(base, wild).batch(torch.arange(24), 0).images
    for image, own in zip(found, base.images, strict=True):
        assert image.shape == own.shape
        assert bool(torch.isfinite(image).all()) and float(image.min()) >= 0 and float(image.max()) <= 1


def test_an_image_larger_than_the_bank_gets_its_noise() -> None:
    image = torch.full((100, 100), 0.5)  # more than twice the bank
    found = changed_by(image, {13: 0.999, 14: 0.9, 15: 1.0}, noise=0.1)
    assert float(found.std()) == pytest.approx(0.1, rel=0.1)
    assert augmented(images(1), AugmentConfig(noise=0.1), 0).bank.numel() == BANK  # type: ignore[attr-defined]


def test_flips_mirror() -> None:
    for u, expected in ((0.4, TWO.flip(1)), (0.6, TWO)):
        torch.testing.assert_close(changed_by(TWO, {0: u, 1: 0.4}, flip="horizontal"), expected)
    for x, y, axes in ((0.4, 0.6, (1,)), (0.6, 0.4, (0,)), (0.4, 0.4, (0, 1)), (0.6, 0.6, ())):
        torch.testing.assert_close(changed_by(TWO, {0: x, 1: y}, flip="both"), TWO.flip(axes))


@pytest.mark.parametrize("x, y", [(0.6, 0.6), (0.4, 0.6), (0.6, 0.4), (0.4, 0.4)])
def test_a_quarter_turn_turns_whether_mirrored_or_not(x: float, y: float) -> None:
    image = torch.arange(16.0).view(4, 4) / 16
    found = changed_by(image, {0: x, 1: y, 2: 1.0}, flip="both", rotate=90.0)
    axes = [axis for axis, u in ((1, x), (0, y)) if u < 0.5]
    quarter = [torch.rot90(image.flip(axes), k) for k in (1, 3)]
    turned = [torch.rot90(image, k).flip(axes) for k in (1, 3)]
    assert any(torch.allclose(found, expected, atol=1e-5) for expected in quarter + turned)


def test_a_turn_keeps_the_aspects_of_what_is_in_a_wide_image() -> None:
    """A square in the middle, turned by a quarter, is that square."""
    image = torch.zeros(6, 20)
    image[2:4, 9:11] = torch.tensor([[0.2, 0.4], [0.6, 0.8]])
    found = changed_by(image, {2: 1.0}, rotate=90.0)
    assert float(found[2:4, 9:11].sum()) == pytest.approx(2.0, abs=1e-4)
    assert float(found.sum()) == pytest.approx(2.0, abs=1e-4)


def test_a_shift_moves_by_a_share_of_the_side_and_repeats_the_edge() -> None:
    image = torch.arange(20.0).view(1, 20).expand(10, 20) / 20
    found = changed_by(image, {4: 1.0, 5: 0.5}, shift=0.1)  # two pixels of twenty
    torch.testing.assert_close(found[:, :-2], image[:, 2:])
    torch.testing.assert_close(found[:, -2:], image[:, -1:].expand(10, 2))


def test_zoom_enlarges_and_shrinks() -> None:
    image = torch.zeros(40, 40)
    image[16:24, 16:24] = 1
    for u, factor in ((1.0, 2.0), (0.0, 0.5)):
        found = changed_by(image, {3: u}, zoom=0.6931472)
        assert float(found.sum()) == pytest.approx(64 * factor**2, rel=0.02)


def test_brightness_is_a_factor_of_half_of_the_images() -> None:
    torch.testing.assert_close(changed_by(TWO, {8: 0.5, 9: 0.25}, brightness=(0.4, 0.8)), TWO * 0.5)
    torch.testing.assert_close(changed_by(TWO, {8: 0.49, 9: 0.25}, brightness=(0.4, 0.8)), TWO)
    torch.testing.assert_close(changed_by(TWO, {8: 0.9, 9: 1.0}, brightness=(1.0, 3.0)), (3 * TWO).clamp(max=1))


def test_background_lifts_black_and_leaves_white() -> None:
    image = torch.tensor([[0.0, 0.5, 1.0]])
    found = changed_by(image, {10: 0.5, 11: 0.5}, background=0.8)
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.7, 1.0]]))
    torch.testing.assert_close(changed_by(image, {10: 0.4, 11: 0.5}, background=0.8), image)


def test_inversion_changes_light_and_dark() -> None:
    torch.testing.assert_close(changed_by(TWO, {12: 0.29}, invert=0.3), 1 - TWO)
    torch.testing.assert_close(changed_by(TWO, {12: 0.31}, invert=0.3), TWO)


def test_noise_is_a_stretch_of_the_bank() -> None:
    found = changed_by(TWO, {13: 0.25, 14: 0.5, 15: 0.5}, noise=0.02)
    first = int(0.25 * (len(SMALL_BANK) - 6))
    torch.testing.assert_close(found, TWO + 0.01 * SMALL_BANK[first : first + 6].view(2, 3))
    torch.testing.assert_close(changed_by(TWO, {13: 0.25, 14: 0.4, 15: 0.5}, noise=0.02), TWO)


def test_blur_is_gaussian_and_repeats_the_edge() -> None:
    image = torch.zeros(1, 9)
    image[0, 4] = 1.0
    weights = torch.exp(-0.5 * torch.arange(-2.0, 3.0) ** 2)
    expected = torch.zeros(1, 9)
    expected[0, 2:7] = weights / weights.sum()
    torch.testing.assert_close(changed_by(image, {7: 1.0}, blur=1.0), expected)
    torch.testing.assert_close(changed_by(image, {7: 0.0}, blur=1.0), image)
    flat = torch.full((3, 5), 0.7)
    torch.testing.assert_close(changed_by(flat, {7: 1.0}, blur=3.0), flat)
