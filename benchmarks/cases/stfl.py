"""LSMRL's grouped and shifted blocks against permuted and rolled copies.

One block of CLIP's image tower on 2 clips, with trained weights: grouped into G horizontal stripes
of all frames, or with patches shifted in time (pattern "tps9"). ViT-B/16 on 288x144 images has 18 x
9 patches and width 768, ViT-small on 128x64 8 x 4 and 192. The floor is the plain block, in which
every frame attends within itself.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from timing import Budget, Provider
from torch import Tensor, nn

from cases.case import Case, Workload, in_turn, input_sets
from vireid_fast.clip.architectures import architecture
from vireid_fast.clip.transformer import Block
from vireid_fast.nn import clip_blocks, clip_blocks_reference
from vireid_fast.nn.clip_layouts import ClipGrid, ClipLayout, GroupedLayout, ShiftedLayout
from vireid_fast.testing import assert_error_budget

_CLIPS = 2
_COPIES = "copies"
Outputs = tuple[Tensor, ...]
Apply = Callable[[nn.Module, Tensor], Tensor]


class _Sizes(NamedTuple):
    """A tower's block and the sizes of its clips."""

    name: str
    width: int
    heads: int
    grid: ClipGrid
    groups: int

    def layout(self, kind: str) -> ClipLayout:
        return GroupedLayout(self.groups) if kind == "grouped" else ShiftedLayout("tps9")


def _sizes(name: str, size: tuple[int, int], frames: int, groups: int) -> _Sizes:
    known = architecture(name, image_size=size, vocabulary_size=100)
    rows, columns = (side // known.patch_size for side in size)
    grid = ClipGrid(frames, rows, columns)
    return _Sizes(name, known.visual_width, known.visual_heads, grid, groups)


def _block(sizes: _Sizes, kind: str, backward: bool, device: torch.device) -> Workload:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    block = Block(sizes.width, sizes.heads, 12, "quick_gelu").to(device, dtype)
    shape = (_CLIPS * sizes.grid.frames, sizes.grid.tokens, sizes.width)
    sets = [
        torch.randn(shape).to(device, dtype).requires_grad_(backward)
        for _ in range(input_sets(device))
    ]
    grad = torch.randn(shape).to(device, dtype) if backward else None
    grid, layout = sizes.grid, sizes.layout(kind)

    def provide(apply: Apply) -> Callable[[], Outputs]:
        return in_turn([partial(_directed, apply, block, tokens, grad) for tokens in sets])

    fused = partial(clip_blocks.run_block, grid=grid, layout=layout)
    plain = partial(clip_blocks_reference.run_block, grid=grid, layout=layout)
    providers = (
        Provider("fused", "fused", provide(fused)),
        Provider(_COPIES, "reference", provide(plain)),
        Provider("plain block, frame by frame", "floor", provide(lambda own, x: own(x))),
    )

    def check(outputs: dict[str, Outputs]) -> None:
        wide = copy.deepcopy(block).double()
        tokens = sets[0].detach().double().requires_grad_(backward)
        exact = _directed(plain, wide, tokens, None if grad is None else grad.double())
        for found, reference, value in zip(
            outputs["fused"], outputs[_COPIES], exact, strict=True
        ):
            assert_error_budget(found, reference, value)

    return Workload(providers, check)


def _directed(apply: Apply, block: nn.Module, tokens: Tensor, grad: Tensor | None) -> Outputs:
    """The block's output and, with a gradient, those of the tokens and of all weights."""
    if grad is None:
        with torch.no_grad():
            return (apply(block, tokens),)
    out = apply(block, tokens)
    return (out.detach(), *torch.autograd.grad(out, [tokens, *block.parameters()], grad))


def _case(sizes: _Sizes, kind: str, backward: bool, device: str) -> Case:
    direction = "forward + backward" if backward else "forward"
    grid = sizes.grid
    groups = f", G {sizes.groups}" if kind == "grouped" else ""
    return Case(
        "stfl", "run_block", f"{kind}, {sizes.name}, T {grid.frames}{groups}, {direction}",
        f"{_CLIPS} x {grid.frames} x (1 + {grid.rows} x {grid.columns}) x {sizes.width}",
        partial(_block, sizes, kind, backward),
        dtype="bfloat16" if device == "cuda" else "float32", devices=(device,),
        budget=Budget(seconds=5.0),
    )  # fmt: skip


_SIZES = (
    _sizes("ViT-B/16", (288, 144), 6, 6),
    _sizes("ViT-B/16", (288, 144), 10, 9),
    _sizes("ViT-small", (128, 64), 4, 4),
)
CASES = tuple(
    _case(sizes, kind, backward, device)
    for device in ("cpu", "cuda")
    for sizes in _SIZES
    for kind in ("grouped", "shifted")
    for backward in (False, True)
)
