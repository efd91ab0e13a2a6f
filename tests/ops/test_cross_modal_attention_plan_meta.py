"""Launch plans of the Triton attention kernels, from sizes alone."""

import pytest
import torch


@pytest.fixture
def launchers():
    """The module under test."""
    pytest.importorskip("triton", reason="triton is not installed")
    from vireid_fast.ops.cross_modal_attention import triton

    return triton


def planned(launchers, tokens, head=64, element_size=2, **options):
    """The forward plan, and those of the backward pass, for sequences of `tokens`."""
    forward = launchers._plan_fwd(tokens, tokens, head, element_size)
    return forward, launchers._plan_bwd(tokens, tokens, head, element_size, **options)


@pytest.mark.parametrize(
    ("length", "chunks"),
    [
        (1, (16,)), (12, (16,)), (77, (64, 16)), (112, (128,)), (128, (128,)), (129, (128, 16)),
        (163, (128, 32, 16)), (258, (128, 128, 16)), (288, (128, 128, 32)),
    ],
)  # fmt: skip
def test_chunks(launchers, length, chunks):
    assert launchers._chunks(length) == chunks


def test_chunks_hold_every_length_and_waste_little(launchers):
    for length in range(1, launchers.SHORT_KEYS + 1):
        chunks = launchers._chunks(length)
        assert all(size in (16, 32, 64, 128) for size in chunks)
        assert length <= sum(chunks) < length + 32
        assert len([size for size in chunks if size < 128]) <= 2


@pytest.mark.parametrize("tokens", [1, 12, 16, 17, 65, 80, 81, 129, 163, 258, 289, 774, 100_000])
@pytest.mark.parametrize("head", [32, 40, 64, 80, 128])
@pytest.mark.parametrize("element_size", [2, 4])
def test_programs_cover_every_token(launchers, tokens, head, element_size):
    forward, backward = planned(launchers, tokens, head, element_size)
    assert (forward.blocks - 1) * forward.constants["BLOCK_Q"] < tokens
    assert forward.blocks * forward.constants["BLOCK_Q"] >= tokens
    for launch in (forward, *backward):
        assert launch.constants["BLOCK_HEAD"] >= head and launch.constants["HEAD"] == head
        if "CHUNKS" in launch.constants:
            assert sum(launch.constants["CHUNKS"]) >= tokens
        assert launch.num_warps in (1, 4, 8)
    if len(backward) == 2:
        by_query, by_key = backward
        assert by_query.blocks * by_query.constants["BLOCK_Q"] >= tokens
        assert by_key.blocks * by_key.constants["BLOCK_K"] >= tokens


@pytest.mark.parametrize("tokens", [12, 77, 129, 163, 258])
def test_one_program_computes_all_gradients_of_a_short_sequence(launchers, tokens):
    _, (backward,) = planned(launchers, tokens)
    assert backward.constants["RESIDENT"] == (tokens <= 144)


@pytest.mark.parametrize("options", [{"tokens": 774}, {"tokens": 129, "element_size": 4},
                                     {"tokens": 258, "shared_bytes": 99 * 1024}])  # fmt: skip
def test_two_passes_where_one_program_does_not_fit(launchers, options):
    assert len(planned(launchers, **options)[1]) == 2


def test_few_queries_beyond_the_full_blocks_take_a_small_tile(launchers):
    tails = {n: launchers._plan_fwd(n, 129, 64, 2).constants["TAIL_Q"]
             for n in (12, 64, 65, 129, 150, 163, 258)}  # fmt: skip
    assert tails == {12: 0, 64: 0, 65: 16, 129: 16, 150: 32, 163: 0, 258: 16}


class Recorder:
    """Stands in for a kernel: keeps what it is launched with."""

    def __init__(self, kernel):
        self.arg_names, self.calls = kernel.arg_names, []

    def __getitem__(self, grid):
        return lambda **arguments: self.calls.append((grid, arguments))


@pytest.fixture
def recorded(launchers, monkeypatch):
    recorders = {}
    for name in ("fwd", "fwd_long", "bwd", "bwd_query", "bwd_key"):
        module = launchers.triton_forward if "fwd" in name else launchers.triton_backward
        full = f"_attention_{name}_kernel"
        recorders[name] = Recorder(getattr(module, full))
        monkeypatch.setattr(module, full, recorders[name])
    return recorders


@pytest.mark.parametrize("tokens", [129, 1024])
def test_offsets_beyond_32_bits(launchers, recorded, tokens):
    """More than 2^31 elements: as meta tensors, nothing is allocated or computed."""
    sequences = 2**22 // tokens
    rows = sequences * tokens
    packed = torch.empty((rows, 3, 12, 64), dtype=torch.bfloat16, device="meta")
    query, key, value = packed.unbind(1)
    assert (rows - 1) * query.stride(0) > 2**31
    index = torch.empty(sequences, dtype=torch.int64, device="meta")
    out, lse = launchers.cross_modal_attention(
        query, key, value, None, None, index, index, None, index, index, rows, tokens, tokens, 0.125
    )
    assert out.shape == (rows, 12, 64) and lse.shape == (12, rows) and lse.dtype == torch.float32
    dq, dk, dv = launchers.cross_modal_attention_bwd(
        out, lse, query, key, value, None, None, index, index, None, None, index, index,
        rows, rows, tokens, tokens, 0.125,
    )  # fmt: skip
    assert dq.shape == dk.shape == dv.shape == out.shape
    used = {name: recorder.calls for name, recorder in recorded.items() if recorder.calls}
    long = tokens > launchers.SHORT_KEYS
    assert set(used) == ({"fwd_long", "bwd_query", "bwd_key"} if long else {"fwd", "bwd"})
    for ((programs,), arguments), in used.values():
        assert programs % (sequences * 12) == 0 and programs < 2**31
        assert arguments["stride_qn"] == 3 * 12 * 64 and arguments["stride_qh"] == 64


def test_addresses_are_computed_in_64_bits(launchers):
    """In the compiled kernels every product of a row and a stride is 64 bits wide."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    for case in {case.kernel.__name__: case for case in launchers.AHEAD_OF_TIME}.values():
        names = case.kernel.arg_names
        source = ASTSource(
            case.kernel, {name: case.signature.get(name, "constexpr") for name in names},
            {(names.index(name),): value for name, value in case.constants.items()}, {},
        )  # fmt: skip
        text = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ttir"]
        products = [line for line in text.splitlines() if "muli" in line and "tensor<" in line]
        assert products and all("xi64>" in line for line in products), case.kernel.__name__
