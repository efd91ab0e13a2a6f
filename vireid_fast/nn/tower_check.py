"""Whether the text encoder's shortcut is exact for a tower, and if not, why."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vireid_fast.nn.hooks import has_hooks, has_own_forward
from vireid_fast.nn.prompt_stream import Segment, last_tokens
from vireid_fast.nn.text_tower_view import TowerView
from vireid_fast.nn.tower_readers import view_tower

# Largest difference of the probe, relative to its largest value: rounding through a dozen blocks,
# far below what another structure would give.
_PROBE_TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-3,
    torch.float16: 5e-2,
    torch.bfloat16: 1e-1,
}


def check_tower(tower: nn.Module) -> None:
    """Refuse a tower for which the prompt encoder would not compute the same as the tower.

    The structure is read first; then two prompts run through the tower's own blocks and through
    the shortcut, which finds what names do not tell (post-norm blocks, another order of axes).
    The tower's weights, buffers, training mode and the random state stay as they are.

    Args:
        tower: What `PromptTextEncoder` takes.

    Raises:
        NotImplementedError: All reasons: unknown structure, no causal mask, unknown EOT, dropout
            that is active, hooks on inner modules, or a result that differs.
    """
    view = view_tower(tower)
    reasons = [*view.unclear, *view.not_causal, *state_problems(view)]
    refuse(view, reasons if reasons else probe_problems(view))


def refuse(view: TowerView, reasons: list[str]) -> None:
    """Raise NotImplementedError if there are reasons."""
    if reasons:
        listed = "; ".join(f"({number}) {reason}" for number, reason in enumerate(reasons, 1))
        raise NotImplementedError(
            f"PromptTextEncoder: tower must compute a causal pre-norm transformer and nothing "
            f"besides, got {type(view.tower).__name__}: {listed}. "
            f"Remove the causes or call the tower itself."
        )


def state_problems(view: TowerView) -> list[str]:
    """What may change after construction: active dropout, hooks, replaced forwards."""
    problems = []
    for name, module in _inner_modules(view):
        if module.training:
            rate = module.p if isinstance(module, nn.Dropout) else getattr(module, "dropout", 0)
            if isinstance(rate, float) and rate > 0:
                problems.append(f"dropout is active: {name} has rate {rate}")
        if has_hooks(module):
            problems.append(f"hooks on an inner module: {name}")
        if has_own_forward(module):
            problems.append(f"replaced forward of an inner module: {name}")
    return problems


@torch.no_grad()
def probe_problems(view: TowerView) -> list[str]:
    """Compare two prompts through the tower's own blocks and through the shortcut."""
    weight = view.positions
    if weight.is_meta:
        return []
    length = min(view.context_length, 6)
    prefix = min(2, length - 1)
    # A fixed sequence without structure; random numbers would disturb the caller's.
    x = torch.arange(2 * length * view.width, dtype=torch.float64, device=weight.device)
    x = torch.sin(x * x * 0.37).view(2, length, view.width).to(view.dtype)
    x[:, :prefix] = x[:1, :prefix].clone()
    with torch.autocast(weight.device.type, enabled=False):
        try:
            plain = view.run_plain(x)[:, length - 1]
            fast = _shortcut(view, x, prefix)
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            return [f"a probe through the tower failed: {error}"]
    scale = plain.abs().max()
    if not bool(torch.isfinite(scale)):
        return ["a probe through the tower gives no finite values; load its weights first"]
    difference = (fast - plain).abs().max() / scale.clamp_min(torch.finfo(plain.dtype).tiny)
    if bool(difference <= _PROBE_TOLERANCE[plain.dtype]):
        return []
    return [
        f"its blocks do not compute x + attention(norm(x)), then x + mlp(norm(x)), causally: "
        f"a probe differs by {difference.item():.2g} of its largest value"
    ]


def _shortcut(view: TowerView, x: Tensor, prefix: int) -> Tensor:
    length = x.shape[1]
    path = ((0, prefix),) if prefix else ()
    segments = [Segment(1, prefix, ())] if prefix else []
    num_nodes = len(segments)
    segments.append(Segment(2, length - prefix, path))
    stream = torch.cat([x[0, :prefix], x[:, prefix:].flatten(0, 1)])
    return last_tokens(view.blocks, stream, segments, num_nodes)[0]


def _inner_modules(view: TowerView) -> Iterator[tuple[str, nn.Module]]:
    """The modules that the shortcut passes by, or calls for fewer tokens."""
    yield from view.stack.named_modules(prefix=view.stack_name)
    yield from view.norm.named_modules(prefix=view.norm_name)
