"""Ahead-of-time compilation of the GPU kernels and the budgets that they are held to."""

import dataclasses
import shutil
import subprocess
from pathlib import Path

import kernels_check
import pytest
from kernels_check import Result, Usage, check_cuda, compile_triton, parse_ptxas, triton_budget

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is absent")
REPORT = """
ptxas info    : Compiling entry function 'void a::k<float>(float*)' for 'sm_80'
ptxas info    : Function properties for void a::k<float>(float*)
    8 bytes stack frame, 4 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 48 registers, used 1 barriers, 8320 bytes smem, 408 bytes cmem[0]
ptxas info    : Compiling entry function 'void a::k<double>(double*)' for 'sm_90a'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, 360 bytes cmem[0]
"""
# 32 doubles, all live through a loop of unknown length, in 32 registers of 4 bytes.
SPILLING = """
__global__ void __launch_bounds__(1024, 2) crowded_kernel(double* data, int steps) {
  double value[32];
#pragma unroll
  for (int i = 0; i < 32; ++i) value[i] = data[i];
  for (int step = 0; step < steps; ++step) {
#pragma unroll
    for (int i = 0; i < 32; ++i) value[i] += value[(i + 1) % 32] * data[step];
  }
#pragma unroll
  for (int i = 0; i < 32; ++i) data[i] = value[i];
}
"""
USAGE = Usage("k", "sm_80", registers=40, spill_bytes=0, shared_bytes=1024)
ROOMY = {"registers": 64, "spill_bytes": 0, "shared_bytes": 4096}


def test_what_was_compiled_is_remembered_until_something_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels_check, "REMEMBERED", tmp_path / "kernels")
    monkeypatch.setattr(kernels_check, "ROOT", Path("/"))
    source = tmp_path / "k.cu"
    source.write_text("one")
    compiled = []

    def compile_it() -> list[Usage]:
        compiled.append(1)
        return [USAGE]

    for text, tools, times in (("one", "a", 1), ("one", "a", 1), ("two", "a", 2), ("two", "b", 3)):
        source.write_text(text)
        assert kernels_check.remembered(compile_it, [source], tools) == [USAGE]
        assert len(compiled) == times


def triton_cases():
    pytest.importorskip("triton", reason="triton is not installed")
    return [case for _, case in kernels_check.triton_cases()]


def test_reads_the_report_of_ptxas():
    assert list(parse_ptxas(REPORT)) == [
        Usage("void a::k<float>(float*)", "sm_80", 48, 16, 8320),
        Usage("void a::k<double>(double*)", "sm_90a", 12, 0, 0),
    ]


@pytest.mark.parametrize("limit", kernels_check.LIMITS)
def test_each_limit_is_enforced(limit):
    assert Result(USAGE, ROOMY).excess == []
    assert Result(USAGE, {**ROOMY, limit: getattr(USAGE, limit) - 1}).excess == [limit]


def test_unbudgeted_kernel_is_an_error():
    with pytest.raises(kernels_check.CheckError, match="expected one entry"):
        kernels_check.budget_of("void k<float>()", {"other_kernel": ROOMY})


def test_too_few_tensor_core_instructions_break_the_budget():
    usage = dataclasses.replace(USAGE, tensor_core=3)
    assert Result(usage, {**ROOMY, "tensor_core": 3}).excess == []
    assert Result(usage, {**ROOMY, "tensor_core": 4}).excess == ["tensor_core"]


def test_tight_triton_budget_fails():
    case = dataclasses.replace(triton_cases()[0], registers=8, tensor_core=10**6)
    result = Result(compile_triton(case, case.targets[0]), triton_budget(case))
    assert result.excess == ["registers", "tensor_core"]


@pytest.mark.slow
def test_every_triton_kernel_meets_its_budget():
    pytest.importorskip("triton", reason="triton is not installed")
    results = kernels_check.check_triton()
    assert results and not [r for r in results if r.excess], kernels_check.table(results)


@needs_nvcc
def test_spilling_cuda_kernel_fails(tmp_path):
    (tmp_path / "crowded.cu").write_text(SPILLING)
    results = check_cuda(tmp_path, {"crowded_kernel": ROOMY})
    assert {result.usage.target for result in results} == {"sm_80", "sm_90a"}
    assert all(result.excess == ["spill_bytes"] for result in results)


@needs_nvcc
def test_broken_cuda_source_is_an_error(tmp_path):
    (tmp_path / "broken.cu").write_text("__global__ void k() { return 1; }")
    with pytest.raises(kernels_check.CheckError, match="nvcc failed"):
        check_cuda(tmp_path, {})


@needs_nvcc
@pytest.mark.slow
def test_cuda_library_meets_its_budgets():
    results = check_cuda()
    assert results and not [r for r in results if r.excess], kernels_check.table(results)


def test_exit_code_and_table(monkeypatch, capsys):
    monkeypatch.setattr(kernels_check.shutil, "which", lambda _: "nvcc")
    monkeypatch.setattr(kernels_check, "find_spec", lambda _: True)
    monkeypatch.setattr(kernels_check, "check_triton", lambda: [Result(USAGE, ROOMY)])
    monkeypatch.setattr(kernels_check, "check_cuda", list)
    assert kernels_check.main() == 0
    tight = Result(USAGE, {**ROOMY, "registers": 39})
    monkeypatch.setattr(kernels_check, "check_cuda", lambda: [tight])
    assert kernels_check.main() == 1
    assert "40/39" in (out := capsys.readouterr().out) and "over budget: registers" in out


def test_absent_compilers_are_named(monkeypatch, capsys):
    monkeypatch.setattr(kernels_check.shutil, "which", lambda _: None)
    monkeypatch.setattr(kernels_check, "find_spec", lambda _: None)
    assert kernels_check.main() == 3
    out = capsys.readouterr().out
    assert "nvcc is absent" in out and "triton is absent" in out


@needs_nvcc
def test_cuda_headers_hold_no_torch(tmp_path):
    # A .cuh must compile with nothing but the CUDA toolkit.
    sources = []
    for header in sorted((kernels_check.ROOT / "csrc" / "cuda").glob("*.cuh")):
        sources.append(tmp_path / f"{header.stem}.cu")
        sources[-1].write_text(f'#include "{header}"\n')
    command = ["nvcc", "-std=c++20", "-arch=sm_80", "-t", "0", "-ptx", *map(str, sources)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
