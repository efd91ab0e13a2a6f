"""Batch norm over processes against `nn.BatchNorm` on the concatenated batch."""

import copy

import pytest
import torch
from processes import run_processes
from torch import nn

from vireid_fast.engine.distributed import World
from vireid_fast.nn import global_batch_norm
from vireid_fast.testing import assert_error_budget

EXACT = {"rtol": 1e-12, "atol": 1e-12}
"""float64 that was summed in another order."""


def _random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


ROWS = (3, 0, 2)

NORMS = {
    "1d": (nn.BatchNorm1d, {}, (5, 4)),
    "1d over frames": (nn.BatchNorm1d, {"momentum": None}, (5, 4, 3)),
    "2d": (nn.BatchNorm2d, {"eps": 1e-3, "momentum": 0.3}, (5, 4, 3, 2)),
    "plain": (nn.BatchNorm2d, {"affine": False}, (5, 4, 3, 2)),
    "untracked": (nn.BatchNorm2d, {"track_running_stats": False}, (5, 4, 3, 2)),
}


def _norm(kind, dtype=torch.float64):
    cls, options, shape = NORMS[kind]
    torch.manual_seed(3)
    layer = cls(shape[1], **options)
    if layer.affine:
        nn.init.uniform_(layer.weight, 0.5, 2)
        nn.init.normal_(layer.bias)
    return layer.to(dtype)


def _normalize(layer, x, rows, world):
    """Two steps of a layer on some rows: outputs, gradients, buffers."""
    outputs, grads = [], []
    for step in range(2):
        own = x[rows].detach().clone().requires_grad_()
        y = layer(own * (step + 1))
        (y * _random(*x.shape, seed=5).to(y.dtype)[rows]).sum().backward()
        outputs.append(y.detach())
        grads.append(own.grad)
    world.sum_gradients(layer.parameters())
    return outputs, grads, [p.grad for p in layer.parameters()], dict(layer.named_buffers())


def _batch_norms(world):
    rows = slice(sum(ROWS[: world.rank]), sum(ROWS[: world.rank + 1]))
    results = {}
    for kind, (_, _, shape) in NORMS.items():
        layer = global_batch_norm(_norm(kind))
        assert layer.state_dict().keys() == _norm(kind).state_dict().keys()
        results[kind] = _normalize(layer, 3 + 2 * _random(*shape), rows, world)
    for name, dtype in (("far", torch.float32), ("half", torch.bfloat16)):
        x = (_random(5, 4, 3, 2) + (1000 if name == "far" else 0)).to(dtype)
        layer = global_batch_norm(_norm("2d", torch.float32))
        results[name] = _normalize(layer, x, rows, world)
    layer = global_batch_norm(nn.Sequential(_norm("2d"))).eval()
    if world.is_main:
        # Running statistics concern nobody else.
        results["eval"] = layer(_random(5, 4, 3, 2))
    layer.train()
    with pytest.raises(ValueError) as caught:
        layer(_random(1 if world.rank == 2 else 0, 4, 1, 1))
    results["error"] = str(caught.value)
    return results


@pytest.fixture(scope="module")
def norm_results(tmp_path_factory):
    return run_processes(_batch_norms, 3, tmp_path_factory.mktemp("norms"))


def test_global_batch_norm_is_batch_norm_of_the_whole_batch(norm_results):
    results, one = norm_results, World.single()
    for kind, (_, _, shape) in NORMS.items():
        layer, x = _norm(kind), 3 + 2 * _random(*shape)
        outputs, grads, parameters, buffers = _normalize(layer, x, slice(None), one)
        for step in range(2):
            for part, want in ((0, outputs), (1, grads)):
                got = torch.cat([result[kind][part][step] for result in results])
                torch.testing.assert_close(got, want[step], **EXACT)
        for result in results:
            torch.testing.assert_close(result[kind][2], parameters, **EXACT)
            torch.testing.assert_close(result[kind][3], buffers, **EXACT)
            # Statistics must not drift apart between processes.
            torch.testing.assert_close(result[kind][3], results[0][kind][3], rtol=0, atol=0)
    torch.testing.assert_close(results[0]["eval"], _norm("2d").eval()(_random(5, 4, 3, 2)))
    want = "batch of all processes must have more than 1 value per channel in training, got 1"
    assert all(want in result["error"] for result in results)


def test_global_batch_norm_errs_no_more_than_batch_norm_in_lower_precision(norm_results):
    for name, dtype in (("far", torch.float32), ("half", torch.bfloat16)):
        x = (_random(5, 4, 3, 2) + (1000 if name == "far" else 0)).to(dtype)
        every, one = slice(None), World.single()
        exact = _normalize(_norm("2d").double(), x.double(), every, one)
        plain = _normalize(_norm("2d", torch.float32), x, every, one)
        for part in (0, 1):
            got = torch.cat([result[name][part][0] for result in norm_results])
            assert_error_budget(got, plain[part][0], exact[part][0])


def test_global_batch_norm_alone_is_the_layer_it_was():
    seen = []
    model = nn.Sequential(_norm("2d"), nn.Sequential(_norm("2d")))
    plain = copy.deepcopy(model)
    model[0].register_forward_hook(lambda *_: seen.append(1))
    assert global_batch_norm(global_batch_norm(model)) is model
    assert all(isinstance(layer, nn.BatchNorm2d) for layer in (model[0], model[1][0]))
    x = _random(5, 4, 3, 2)
    assert torch.equal(model(x), plain(x)) and seen == [1]
    assert torch.equal(model[1][0].running_var, plain[1][0].running_var)
    with pytest.raises(TypeError, match=r"1 must be an nn\.BatchNorm1d or .*, got BatchNorm3d"):
        global_batch_norm(nn.Sequential(nn.ReLU(), nn.BatchNorm3d(2)))
