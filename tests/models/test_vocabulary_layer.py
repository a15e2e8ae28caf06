"""Log-probabilities of given words are those of the whole table, and so are their gradients."""

from __future__ import annotations

import pytest
import torch

from wsram.glimpse.actions import at_least_float32
from wsram.models.vocabulary_layer import ROWS, log_probability_of


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_log_probability_of_a_word_is_that_of_the_whole_table(dtype: torch.dtype) -> None:
    rows, vocabulary = 2 * ROWS + 3, 11
    logits = torch.randn(2, rows, vocabulary, generator=torch.Generator().manual_seed(0)).mul(4).to(dtype)
    index = torch.arange(2 * rows).view(2, rows) % vocabulary
    upstream = torch.linspace(-1, 1, 2 * rows).view(2, rows)
    ours, table = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = log_probability_of(ours, index)
    expected = at_least_float32(table).log_softmax(-1).gather(-1, index.unsqueeze(-1)).squeeze(-1)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found, expected)
    (found * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(ours.grad, table.grad)
