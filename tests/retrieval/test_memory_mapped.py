"""A gallery in a file that is larger than the memory that the process may take."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from vireid_fast.retrieval.distance_rows import MatrixRows
from vireid_fast.retrieval.evaluation import evaluate_rows
from vireid_fast.retrieval.rerank import rerank
from vireid_fast.retrieval.sharded import rerank_sharded
from vireid_fast.retrieval.stored_features import StoredFeatures

MEGABYTE = 1 << 20

PROGRAM = """
import re, resource, sys
import numpy as np
import torch
from vireid_fast.retrieval.sharded import rerank_sharded
torch.set_num_threads(1)
path, budget = sys.argv[1], int(sys.argv[2])
gallery = np.load(path, mmap_mode="r")
query = np.array(gallery[:3]) + 1
ids = torch.arange(len(gallery)) % 50
cameras = torch.arange(len(gallery)) + 1
warm = rerank_sharded(query, gallery[:5])    # what is loaded when first used
warm.evaluate(ids[:3], ids[:5], cameras[-3:], cameras[:5])
status = open("/proc/self/status").read()
taken = int(re.search(r"VmData:\\s+(\\d+) kB", status).group(1)) << 10
resource.setrlimit(resource.RLIMIT_DATA, (taken + budget, taken + budget))
try:
    np.array(gallery)
    print("the gallery fits")
except MemoryError:
    pass
found = rerank_sharded(query, gallery, 5, 3, block_rows=32)
metrics = found.evaluate(ids[:3], ids, cameras[:3], cameras)
print(metrics.mAP, found.top_k(1).indices.flatten().tolist())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, sets RLIMIT_DATA")
def test_a_gallery_larger_than_the_memory_is_processed(tmp_path):
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((50, 8192), dtype=np.float32)
    path = tmp_path / "gallery.npy"
    gallery = np.lib.format.open_memmap(path, "w+", np.float32, (900, 8192))
    for row in range(len(gallery)):
        noise = generator.standard_normal(8192, dtype=np.float32)
        gallery[row] = centres[row % 50] + noise
    gallery.flush()
    budget = 20 * MEGABYTE
    assert gallery.nbytes > budget
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), str(budget)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ids = torch.arange(900) % 50
    distances = torch.from_numpy(rerank(gallery[:3] + 1, np.array(gallery), 5, 3))
    cameras = torch.arange(900) + 1
    rows = MatrixRows(distances)
    expected = evaluate_rows(rows, ids[:3], ids, cameras[:3], cameras).mAP
    assert done.stdout == f"{expected} {distances.argmin(1).tolist()}\n"


@pytest.mark.parametrize("layout", ["file", "big endian", "strided", "Fortran", "tensor view"])
def test_rows_wherever_they_lie(tmp_path, layout):
    points = np.random.default_rng(0).standard_normal((23, 8), dtype=np.float32)
    np.save(tmp_path / "points.npy", points)
    values = {
        "file": np.load(tmp_path / "points.npy", mmap_mode="r"),
        "big endian": points.astype(">f4"),
        "strided": np.repeat(points, 2, axis=1)[:, ::2],
        "Fortran": np.asfortranarray(points),
        "tensor view": torch.from_numpy(points).T.contiguous().T,
    }[layout]
    stored = StoredFeatures("test", "points", values)
    expected = torch.from_numpy(points)
    assert torch.equal(torch.cat([rows for _, rows in stored.blocks(5)]), expected)
    positions = torch.tensor([7, 0, 7, 22])
    assert torch.equal(stored.take(positions), expected[positions])
    found = rerank_sharded(values[:5], values[5:], 3, 2, block_rows=4).gather()
    assert torch.equal(found, rerank(expected[:5], expected[5:], 3, 2))


def test_halves_are_widened_and_mixed_dtypes_meet_in_the_wider():
    points = torch.randn(20, 4)
    query, gallery = points[:6].half(), points[6:].double()
    found = rerank_sharded(query, gallery.numpy(), 3, 2).gather()
    assert torch.equal(found, rerank(query.double(), gallery, 3, 2))
    found = rerank_sharded(query, points[6:].half().numpy(), 3, 2).gather()
    assert torch.equal(found, rerank(query, points[6:].half(), 3, 2))


def test_arrays_are_read_to_the_device_that_is_asked_for(device):
    points = torch.randn(30, 4)
    found = rerank_sharded(points[:6].numpy(), points[6:].numpy(), 3, 2, device=device)
    assert found.gather().device.type == device.type
    expected = rerank(points[:6].to(device), points[6:].to(device), 3, 2)
    # Sums of a GPU may be in another order for other shapes.
    tolerance = 0 if device.type == "cpu" else 1e-5
    torch.testing.assert_close(found.gather(), expected, rtol=0, atol=tolerance)
    ids = torch.arange(30) % 5
    ranks = found.rank_statistics(ids[:6], ids[6:].numpy())
    assert ranks.num_positives.tolist() == [4, 5, 5, 5, 5, 4]


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        (np.zeros((3, 4), int), TypeError, "be float16 or float32 or float64, got int64"),
        (np.zeros(3, np.float32), ValueError, r"have shape \(rows, D\) .* got \(3,\)"),
        (np.zeros((3, 0), np.float32), ValueError, r"have shape .* one column, got \(3, 0\)"),
        ([[1.0]], TypeError, "be a torch.Tensor, got list"),
    ],
)
def test_what_is_no_features_is_refused(values, error, text):
    with pytest.raises(error, match="rerank_sharded: gallery_shard must " + text):
        rerank_sharded(torch.zeros(2, 4), values)


def test_a_row_in_a_file_that_is_not_finite_is_named(tmp_path):
    points = np.ones((9, 4), np.float32)
    points[7, 2] = np.inf
    np.save(tmp_path / "points.npy", points)
    gallery = np.load(tmp_path / "points.npy", mmap_mode="r")
    with pytest.raises(ValueError, match="gallery_shard must be finite, got inf at row 7"):
        rerank_sharded(points[:2], gallery, block_rows=2)


def test_rows_whose_distances_are_all_zero_give_nan_and_a_warning():
    points = torch.ones(5, 3)
    with pytest.warns(RuntimeWarning, match="all distances of query 0 are 0"):
        found = rerank_sharded(points[:2], points[2:])
    assert found.gather().isnan().all()
    with pytest.raises(ValueError, match="hold no NaN, got nan in the row of query 0"):
        found.rank_statistics(torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    assert found.top_k(2).indices.tolist() == [[0, 1], [0, 1]]
