"""Several processes that train one network, over gloo."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file

from tests.processes import start
from tests.test_golden import differences
from tests.tiny import checkpoint, rows, same_bits, tiny_config, trained, weights, write_digits
from wsram.config import Config
from wsram.glimpse.actions import GlimpseDistribution
from wsram.glimpse.draws import SharedGenerator, drawn, exponential, own_stream

CPU = torch.device("cpu")
gloo = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")


def ways(data: Path) -> dict[str, Config]:
    """Runs in which everything that is drawn for an example is drawn, and nothing compares examples."""
    odd = dict(name="wake-sleep", defensive=0.2, sleep=0.3, sum_scale=True, temperature=1.3, location_entropy=0.01)
    odd |= dict(glimpse_growth=0.5)
    return {
        "odd": tiny_config(data, **odd),
        "map": tiny_config(data, name="variational", proposal="policy", policy="map", map_stride=2),
    }


def in_each_process(folder: Path, name: str) -> None:
    network = trained(folder / "run", ways(folder / "data")[name])
    state = PartialState()
    assert state.num_processes == 2
    save_file(
        {name: t.contiguous() for name, t in network.state_dict().items()},
        folder / f"rank-{state.process_index}.safetensors",
    )


def together(folder: Path, name: str) -> None:
    """Train in two processes that know of one another."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port))
    processes = [
        start(in_each_process, folder, name, said=folder / f"said-{n}", RANK=str(n), LOCAL_RANK=str(n), **shared)
        for n in (0, 1)
    ]
    for n, process in enumerate(processes):
        process.join(240)
        assert process.exitcode == 0, (folder / f"said-{n}").read_text()


@gloo
@pytest.mark.parametrize("name", ["odd", "map"])
def test_two_processes_learn_what_one_with_the_whole_batch_learns(name: str, tmp_path: Path) -> None:
    write_digits(tmp_path / "data")
    together(tmp_path, name)
    ranks = [load_file(tmp_path / f"rank-{rank}.safetensors") for rank in (0, 1)]
    assert same_bits(*ranks)
    assert same_bits(load_file(checkpoint(tmp_path / "run") / "model.safetensors"), ranks[0])
    found = rows(tmp_path / "run")
    assert [row["step"] for row in found] == [2, 4, 6]  # written once, not by each
    trained(tmp_path / "alone", ways(tmp_path / "data")[name])
    assert not differences(found, rows(tmp_path / "alone"), name)
    alone, both = weights(tmp_path / "alone"), weights(tmp_path / "run")
    assert max((alone[key] - both[key]).abs().max().item() for key in alone) < 1e-4


@pytest.mark.parametrize("fill", [torch.rand, torch.randn, exponential])
def test_each_process_takes_the_numbers_of_its_own_examples(fill: Callable[..., torch.Tensor]) -> None:
    like, plain = torch.zeros(0), torch.Generator().manual_seed(5)
    whole = drawn(fill, (3, 6, 2), plain, like)
    for process in range(3):
        generator = SharedGenerator(5, CPU, process, 3)
        assert torch.equal(drawn(fill, (3, 2, 2), generator, like), whole[:, process::3])


def test_actions_are_those_of_the_whole_batch() -> None:
    policy = GlimpseDistribution(torch.randn(6, 2), torch.zeros(6, 2), torch.zeros(6, 3))
    whole = policy.sample(torch.Generator().manual_seed(0), (4,))
    part = GlimpseDistribution(*(value[1::2] for value in vars(policy).values()))
    mine = part.sample(SharedGenerator(0, CPU, 1, 2), (4,))
    assert torch.equal(mine.location, whole.location[:, 1::2]) and torch.equal(mine.scale, whole.scale[:, 1::2])


def test_a_stream_of_ones_own_is_another_for_each_process_and_that_of_one_alone_for_the_first() -> None:
    streams = [torch.rand(4, generator=own_stream(SharedGenerator(7, CPU, n, 3))) for n in range(3)]
    assert len({tuple(s.tolist()) for s in streams}) == 3
    assert torch.equal(streams[0], torch.rand(4, generator=torch.Generator().manual_seed(7)))
