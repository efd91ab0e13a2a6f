"""Several processes against one: every oracle is computed here, on the whole batch."""

import itertools
import os
import re
import socket
import time

import numpy as np
import pytest
import torch
from processes import run_like_torchrun, run_processes
from torch import nn

from vireid_fast._collectives import CollectiveError
from vireid_fast.clip import build_clip
from vireid_fast.data.samplers import IdentitySampler
from vireid_fast.engine import distributed, failures
from vireid_fast.engine.distributed import World
from vireid_fast.engine.precision import Precision
from vireid_fast.losses import cross_modal_contrast, supervised_contrast
from vireid_fast.models.two_stem import TwoStemEncoder
from vireid_fast.nn import global_batch_norm

EXACT = {"rtol": 1e-12, "atol": 1e-12}
"""float64 that was summed in another order."""


def _random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _parts(tensor, counts):
    return tensor.split(list(counts))


COUNTS = (2, 0, 3)


def _primitives(world, folder):
    rank = world.rank
    results = {"gathered": {}, "errors": []}
    for dtype in (torch.float64, torch.bfloat16, torch.int64, torch.bool):
        table = (10 * _random(5, 2, 3)).to(dtype)
        results["gathered"][dtype] = world.gather(_parts(table, COUNTS)[rank])
    own = _parts(_random(5, 4), COUNTS)[rank].clone().requires_grad_()
    (world.gather(own) * _random(5, 4, seed=rank + 1)).sum().backward()
    results["grad"] = own.grad
    results["empty"] = world.gather(torch.zeros(0, 3))

    one, some, none, late = (nn.Parameter(_random(2, 3)) for _ in range(4))
    half = nn.Parameter(torch.ones(2))
    one.grad = _random(3, 2, seed=rank).T
    half.grad = torch.full((2,), float(rank))
    if rank == 1:
        some.grad = _random(2, 3, seed=7)
    late.grad = torch.full((2, 3), 2.0**rank, dtype=torch.float64)
    distributed.BUCKET = 8
    world.sum_gradients(iter([one, some, none, half, late]))
    results["sums"] = [p.grad for p in (one, some, none, half, late)]

    for tensor in (torch.zeros(2, 3 + rank % 2), torch.zeros(2).requires_grad_(rank == 2)):
        with pytest.raises(ValueError) as caught:
            world.gather(tensor)
        results["errors"].append(str(caught.value))
    results["objects"] = world.gather_objects({"rank": rank, "rows": np.arange(rank)})
    results["chosen"] = world.broadcast_object(("best", 0.5) if world.is_main else None)

    cache = folder / "cache"

    def open_cache():
        if not cache.exists():
            time.sleep(0.2)
            cache.write_text(f"built by {rank}")
        return cache.read_text()

    results["cache"] = world.first(open_cache)
    return results


def test_primitives_agree_with_one_process(tmp_path):
    results = run_processes(_primitives, 3, tmp_path / "results", tmp_path)
    weights = sum(_random(5, 4, seed=rank + 1) for rank in range(3))
    for result, grad in zip(results, _parts(weights, COUNTS), strict=True):
        for dtype, gathered in result["gathered"].items():
            assert torch.equal(gathered, (10 * _random(5, 2, 3)).to(dtype))
        torch.testing.assert_close(result["grad"], grad, **EXACT)
        assert result["empty"].shape == (0, 3)
        one, some, none, half, late = result["sums"]
        torch.testing.assert_close(one, sum(_random(3, 2, seed=r) for r in range(3)).T, **EXACT)
        assert torch.equal(some, _random(2, 3, seed=7)) and none is None
        assert half.tolist() == [3.0, 3.0] and late.unique().tolist() == [7.0]
        assert "rows of one size" in result["errors"][0]
        sizes = r"\(rows, row size, gradient\) \(2, 1, 0\), \(2, 1, 0\), \(2, 1, 1\)"
        assert re.search(f"alike require a gradient .*, got {sizes}", result["errors"][1])
        assert [(o["rank"], len(o["rows"])) for o in result["objects"]] == [(0, 0), (1, 1), (2, 2)]
        assert result["chosen"] == ("best", 0.5)
        assert result["cache"] == "built by 0"
        # What has been reduced is the same to the last bit.
        assert torch.equal(one, results[0]["sums"][0])


def test_one_process_returns_what_it_is_given():
    world = World.single("cpu")
    tensor = torch.ones(2, requires_grad=True)
    parameter = nn.Parameter(torch.ones(1))
    with world:
        assert world.is_main and world.gather(tensor) is tensor
        world.sum_gradients([parameter])
        world.barrier()
        assert parameter.grad is None
        assert world.broadcast_object(tensor) is tensor and world.gather_objects(3) == [3]
        assert world.first(lambda: "built") == "built"
        assert world.row_slice(5) == slice(0, 5) and world.identity_slice(3, 2) == slice(0, 6)


LABELS = torch.tensor([4, 4, 0, 0, 9, 9, 1, 1])


def _contrast_loss(before, after, visible, infrared, world):
    """A loss with parameters before and after the gather, and labels of the whole batch."""
    own = world.identity_slice(4, 2)
    v, r = (world.gather(torch.tanh(before(x[own]))) for x in (visible, infrared))
    texts = world.gather(before(visible[world.row_slice(7)]) ** 2)
    loss = supervised_contrast(after(v), after(r), LABELS, LABELS)
    loss = loss + cross_modal_contrast(v, after(r), LABELS, LABELS)
    return loss + supervised_contrast(after(texts), v, LABELS[:7], LABELS)


def _contrast_gradients(world):
    torch.manual_seed(0)
    before, after = nn.Linear(5, 6).double(), nn.Linear(6, 6, bias=False).double()
    loss = _contrast_loss(before, after, _random(8, 5), _random(8, 5, seed=1), world)
    (loss / world.size).backward()
    parameters = [*before.parameters(), *after.parameters()]
    world.sum_gradients(parameters)
    return loss.detach(), [p.grad for p in parameters]


def _encoder():
    sizes = {"image_size": (64, 32), "vocabulary_size": 9, "text_layers": 1}
    encoder = TwoStemEncoder(build_clip("RN-small", **sizes).visual).double()
    for name, parameter in encoder.named_parameters():
        # CLIP starts the last batch norm of each block at 0, which would hide the others.
        if ".bn" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return encoder


def _encoder_gradients(world):
    """Gathered features of a two-stem encoder, whose batch norms see the whole batch."""
    torch.manual_seed(0)
    encoder = _encoder()
    head = nn.Linear(encoder.feature_width, 8, bias=False).double()
    if world.size > 1:
        encoder = global_batch_norm(encoder)
    visible, infrared = _random(8, 3, 64, 32), _random(8, 3, 64, 32, seed=1)
    own = world.identity_slice(4, 2)
    pooled, projected = encoder(visible[own], infrared[own])
    # Rows of a process are its visible ones, then its infrared ones.
    f, p = (torch.cat([world.gather(x) for x in y.chunk(2)]) for y in (pooled, projected))
    loss = cross_modal_contrast(f[:8], f[8:], LABELS, LABELS)
    loss = loss + nn.functional.cross_entropy(head(f), LABELS.repeat(2) % 8)
    loss = loss + supervised_contrast(p[:8], p[8:], LABELS, LABELS, temperature=10.0)
    (loss / world.size).backward()
    parameters = dict(encoder.named_parameters()) | {"head": head.weight}
    world.sum_gradients(parameters.values())
    grads = {name: p.grad for name, p in parameters.items()}
    return loss.detach(), grads, dict(encoder.named_buffers())


def _losses(world):
    return _contrast_gradients(world), _encoder_gradients(world)


def test_losses_and_gradients_are_those_of_one_process(tmp_path):
    (loss, grads), (deep_loss, deep_grads, buffers) = _losses(World.single())
    for (own_loss, own_grads), (own_deep, own_deep_grads, own_buffers) in run_processes(
        _losses, 2, tmp_path
    ):
        torch.testing.assert_close(own_loss, loss, **EXACT)
        torch.testing.assert_close(own_grads, grads, **EXACT)
        torch.testing.assert_close(own_deep, deep_loss, **EXACT)
        torch.testing.assert_close(own_buffers, buffers, **EXACT)
        torch.testing.assert_close(own_deep_grads, deep_grads, **EXACT)


def _fail(world, way):
    failures.PATIENCE = 0.5
    if world.rank == 1:
        if way == "raises":
            raise LookupError("no image 7.jpg")
        if way == "ends":
            os._exit(9)
        if way == "sleeps":
            time.sleep(1.5)
    if way == "raises":
        # One waits for rows, the other for an object.
        return world.gather(torch.ones(2)) if world.is_main else world.gather_objects(1)
    return world.gather(torch.ones(2))


RANK_1 = r"rank 1 \(pid \d+ on [^)]+\)"


def test_a_failing_process_stops_the_others_and_is_named(tmp_path):
    begin = time.monotonic()
    results = run_processes(_fail, 3, tmp_path / "raises", "raises")
    assert isinstance(results[1], LookupError)
    for error in (results[0], results[2]):
        assert isinstance(error, CollectiveError)
        want = rf"got {RANK_1} failed: LookupError: no image 7\.jpg\. Repair"
        assert re.search(want, str(error))
    assert [error.shown_elsewhere for error in results] == [False, False, True]
    results = run_processes(_fail, 2, tmp_path / "ends", "ends")
    assert results[1] is None and isinstance(results[0], CollectiveError)
    want = rf"got {RANK_1} ended without a word: killed, or out of memory\. Repair that one;"
    assert re.search(want, str(results[0]))
    assert time.monotonic() - begin < 30, "they waited for the timeout"
    results = run_processes(_fail, 2, tmp_path / "sleeps", "sleeps", timeout=0.5)
    assert re.search(r"Timed out waiting 500ms.* No sign of rank 1 \(pid", str(results[0]))
    assert isinstance(results[1], CollectiveError)
    want = r"got rank 0 \(.*\) gave up: distributed: all processes' all_gather"
    assert re.search(want, str(results[1]))


def _fail_in_first_attempt():
    with World.from_environment("cpu", timeout=30) as world:
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and world.is_main:
            raise LookupError("no image 7.jpg")
        world.barrier()
        return world.gather(torch.tensor([world.rank])).tolist()


def test_processes_that_torchrun_restarts_forget_what_failed_before(tmp_path):
    results = run_like_torchrun(_fail_in_first_attempt, 2, tmp_path, restarts=1)
    assert results == [[0, 1], [0, 1]]


TORCHRUN = {
    "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}  # fmt: skip


def _environment(monkeypatch, **values):
    for name, value in (dict.fromkeys(TORCHRUN) | values).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("changed", "device", "message"),
    [
        ({"LOCAL_RANK": None}, "cpu", "got no LOCAL_RANK. Start with torchrun --nproc-per-node"),
        ({"RANK": None, "MASTER_PORT": None}, "cpu", "got no RANK, MASTER_PORT"),
        ({"WORLD_SIZE": "two"}, "cpu", "WORLD_SIZE must be a number, got 'two'"),
        ({"RANK": "2"}, "cpu", "RANK must be below WORLD_SIZE 2, got 2"),
        ({}, "cuda:1", "device must be cpu or cuda with several processes, got 'cuda:1'"),
        ({}, "cuda", "LOCAL_RANK must be below the 0 GPUs of this machine, got 0"),
    ],
    ids=str,
)
def test_an_environment_that_does_not_fit_is_refused(monkeypatch, changed, device, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    _environment(monkeypatch, **(TORCHRUN | changed))
    with pytest.raises(ValueError, match=re.escape(message)):
        World.from_environment(device)


def test_processes_that_do_not_come_are_not_waited_for(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    _environment(monkeypatch, **(TORCHRUN | {"MASTER_PORT": port}))
    with pytest.raises(CollectiveError, match=r"all 2 processes must meet within 0\.5 s, got"):
        World.from_environment("cpu", timeout=0.5)


@pytest.mark.parametrize("values", [{}, TORCHRUN | {"WORLD_SIZE": "1"}], ids=["none", "one"])
def test_one_process_needs_no_group(monkeypatch, values):
    _environment(monkeypatch, **values)
    world = World.from_environment("cuda:3")
    assert (world.rank, world.size, world.device) == (0, 1, "cuda:3")


def test_identities_are_shared_equally():
    worlds = [World(rank, 3, "cpu") for rank in range(3)]
    labels = np.repeat(np.arange(8), 4), np.repeat(np.arange(8), 6)
    sampler = IdentitySampler(*labels, identities_per_batch=6, instances=2, seed=0)
    for rows in itertools.islice(sampler.epoch(0), 3):
        for indices, modality in zip(rows, labels, strict=True):
            drawn = modality[indices]
            parts = [drawn[world.identity_slice(6, 2)] for world in worlds]
            assert np.array_equal(np.concatenate(parts), drawn)
            owned = [set(part) for part in parts]
            assert [len(people) for people in owned] == [2, 2, 2] and len(set.union(*owned)) == 6
            assert all((np.unique(part, return_counts=True)[1] == 2).all() for part in parts)
    with pytest.raises(ValueError, match=r"multiple of the 3 processes, got 8\. .* to 6 or 9, or"):
        worlds[0].identity_slice(8, 4)
    with pytest.raises(ValueError, match=r"got 2\. Set sampler\.identities to 3, or"):
        worlds[0].identity_slice(2, 4)


@pytest.mark.parametrize("count", [0, 1, 3, 7, 8])
def test_rows_are_shared_in_order(count):
    rows = np.arange(count)
    parts = [rows[World(rank, 3, "cpu").row_slice(count)] for rank in range(3)]
    assert np.array_equal(np.concatenate(parts), rows)
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1


@pytest.mark.parametrize(
    ("kind", "device", "chosen", "product"),
    [
        ("auto", "cpu", "float32", torch.float32),
        ("bfloat16", "cpu", "bfloat16", torch.bfloat16),
        ("float32", "cuda:0", "float32", None),
        ("auto", "cuda:1", "bfloat16", None),
    ],
)
def test_precision_chooses_by_device(kind, device, chosen, product):
    precision = Precision(kind, device)
    assert precision.kind == chosen
    if product is not None:
        layer = nn.Linear(3, 2)
        with precision.autocast():
            assert layer(torch.ones(1, 3)).dtype == product
        assert layer(torch.ones(1, 3)).dtype == torch.float32


def test_precision_refuses_other_formats():
    with pytest.raises(ValueError, match=r"kind must be one of .*, got 'float16'"):
        Precision("float16", "cpu")
