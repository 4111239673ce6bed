"""Networks that are trained once and then loaded."""

import math

import pytest
import torch
from torch import nn

from hardfast.recipes.cache import cached


class Counted:
    """Trains by writing a number into the network."""

    def __init__(self, value: float = 5.0) -> None:
        self.calls, self.value = 0, value

    def __call__(self, network: nn.Module) -> nn.Module:
        self.calls += 1
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(self.value)
        network[1].running_mean.fill_(2.0)
        return network.train()


def untrained() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_a_network_is_trained_once(tmp_path):
    train, cache = Counted(), tmp_path / "deep" / "cache"
    first, again = (cached(cache, "net", {"steps": 3, "widths": (1, 2)}, untrained(), train) for _ in range(2))
    assert train.calls == 1
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]
    assert next(cache.iterdir()).name.startswith("net-")
    for network in (first, again):
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())
        assert float(network[0].weight.unique()) == 5.0
        assert float(network[1].running_mean.unique()) == 2.0


@pytest.mark.parametrize("other", [{"steps": 4, "rate": 0.1}, {"steps": 3}, {"steps": 3, "rate": 0.1, "seed": 0}])
def test_other_settings_are_another_network(tmp_path, other):
    train = Counted()
    cached(tmp_path, "net", {"steps": 3, "rate": 0.1}, untrained(), train)
    cached(tmp_path, "net", other, untrained(), train)
    assert train.calls == 2
    cached(tmp_path, "net", {"rate": 0.1, "steps": 3}, untrained(), train)
    assert train.calls == 2
    cached(tmp_path, "other", {"steps": 3, "rate": 0.1}, untrained(), train)
    assert train.calls == 3


@pytest.mark.parametrize("content", [b"", b"nothing", None])
def test_a_damaged_file_is_named(tmp_path, content):
    cached(tmp_path, "net", {}, untrained(), Counted())
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-7] if content is None else content)
    with pytest.raises(ValueError, match=f"{path.name} cannot be loaded: .*; remove it, and it is made again"):
        cached(tmp_path, "net", {}, untrained(), Counted())
    path.unlink()
    assert float(cached(tmp_path, "net", {}, untrained(), Counted(7.0))[0].weight.unique()) == 7.0


def test_a_file_of_another_network_is_named(tmp_path):
    cached(tmp_path, "net", {}, untrained(), Counted())
    (path,) = tmp_path.iterdir()
    with pytest.raises(ValueError, match=rf"{path.name} cannot be loaded: (.|\n)*size mismatch"):
        cached(tmp_path, "net", {}, nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), Counted())


def test_a_training_that_fails_leaves_nothing(tmp_path):
    def fail(network: nn.Module) -> nn.Module:
        raise FloatingPointError("nan")

    with pytest.raises(FloatingPointError):
        cached(tmp_path, "net", {}, untrained(), fail)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_kept(tmp_path):
    def spoil(network: nn.Module) -> nn.Module:
        with torch.no_grad():
            next(network.parameters()).view(-1)[0] = math.nan
        return network

    with pytest.raises(FloatingPointError, match="net has weights that are not finite"):
        cached(tmp_path, "net", {}, untrained(), spoil)
    assert list(tmp_path.iterdir()) == []
