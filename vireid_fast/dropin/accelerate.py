"""`accelerate` and `revert`: faster methods for a model's modules, in place."""


import torch
from torch import Tensor, nn

from vireid_fast._checks import require
from vireid_fast.dropin.guards import method_problem, touched_names
from vireid_fast.dropin.kinds import KINDS, Kind
from vireid_fast.dropin.kinds.base import Probe, UnsuitableError
from vireid_fast.dropin.kinds.multihead_attention import self_attentions
from vireid_fast.dropin.probe import (
    compare,
    in_mode,
    placement_problem,
    tolerance,
    value_and_gradients,
)
from vireid_fast.dropin.report import AccelerationReport, ReportEntry
from vireid_fast.dropin.swap import FastModule, restore, swap


def accelerate(model: nn.Module) -> AccelerationReport:
    """Give the modules of a model that we know faster methods for the same functions, in place.

    Known are modules shaped like OpenAI's CLIP and its descendants in CoOp and CLIP-ReID (CLIP,
    TextEncoder, PromptLearner, VisionTransformer, AttentionPool2d), `transformers.CLIPModel`, and
    `nn.MultiheadAttention` used as cross attention. They are recognised by their structure, and
    each is compared with its replacement on a tiny input before it is replaced.

    Parameters, state dict, hooks, training mode and `isinstance` stay as they are; only the class
    of a replaced module is exchanged for a subclass. Calls that the faster method does not cover
    (attention weights asked for, masks, hooks on inner modules, ...) run the module's own method.
    Outputs and gradients differ by rounding alone. Calling it twice changes nothing further.

    Args:
        model: Any module, of a known kind itself or holding some; on a CPU or a CUDA device.

    Returns:
        What was replaced, and what was recognised but left, with the reason.

    Raises:
        TypeError: `model` is no module.
    """
    _require_module("accelerate", model)
    replaced, left = [], []
    passed_by = self_attentions(model)
    for name, module in list(model.named_modules()):
        kind = _kind_of(module)
        if kind is None or module in passed_by:
            continue
        try:
            # The probes look at gradients, whatever the caller's mode is.
            with torch.inference_mode(False):
                _replace(module, kind, model)
        except UnsuitableError as reason:
            left.append(ReportEntry(name, kind.name, str(reason)))
        else:
            replaced.append(ReportEntry(name, kind.name, kind.detail))
    return AccelerationReport(tuple(replaced), tuple(left))


def revert(model: nn.Module) -> tuple[str, ...]:
    """Undo `accelerate`: every module gets its own class back.

    Args:
        model: The model, or a part or a copy of it.

    Returns:
        Names of the modules that were changed back.

    Raises:
        TypeError: `model` is no module.
    """
    _require_module("revert", model)
    return tuple(name for name, module in model.named_modules() if restore(module))


def _require_module(what: str, model: object) -> None:
    require(
        isinstance(model, nn.Module), what, "model", "be a torch.nn.Module", type(model).__name__,
        error=TypeError,
    )  # fmt: skip


def _kind_of(module: nn.Module) -> Kind | None:
    # The class of a scripted module cannot be exchanged.
    if isinstance(module, torch.jit.ScriptModule):
        return None
    return next((kind for kind in KINDS if kind.matches(module)), None)


def _replace(module: nn.Module, kind: Kind, model: nn.Module) -> None:
    """Swap the module's class once everything speaks for it; else raise `UnsuitableError`."""
    if isinstance(module, FastModule):
        raise UnsuitableError("already accelerated")
    if type(module).__module__.startswith("vireid_fast."):
        raise UnsuitableError("it is a fast layer of its own")
    reasons = [method_problem(module, method) for method in kind.methods]
    reasons.append(placement_problem(module))
    touched = touched_names(module, kind.inner(module))
    if touched:
        reasons.append(f"inner modules have hooks or a patched forward: {', '.join(touched)}")
    if any(reasons):
        raise UnsuitableError("; ".join(reason for reason in reasons if reason))
    try:
        state, probes = kind.prepare(module, model), kind.probes(module)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise UnsuitableError(f"it has another structure: {error}") from error
    expected = _results(module, type(module), kind, probes)
    try:
        swap(module, kind.fast, state)
    except TypeError as error:
        raise UnsuitableError(f"its class cannot be exchanged: {error}") from error
    try:
        actual = _results(module, type(module), kind, probes)
        allowed = tolerance(module)
        differences = [compare(*pair, allowed) for pair in zip(actual, expected, strict=True)]
        if any(differences):
            raise UnsuitableError(next(filter(None, differences)))
    except BaseException:
        restore(module)
        raise


def _results(
    module: nn.Module, cls: type[nn.Module], kind: Kind, probes: list[Probe]
) -> list[Tensor]:
    """What the methods of `cls` give, in evaluation and in training mode, and their gradients."""
    results = []
    for training in (False, True):
        with in_mode(module, training):
            for probe in probes:
                results += _probe(module, cls, kind, probe)
    return results


def _probe(
    module: nn.Module, cls: type[nn.Module], kind: Kind, probe: Probe
) -> list[Tensor]:
    """What a method gives; called on the class, so that no hook of the module runs."""
    method, args, kwargs = probe
    device = next(module.parameters()).device
    try:
        return value_and_gradients(
            lambda: kind.result(getattr(cls, method)(module, *args, **kwargs)), module, device
        )
    except UnsuitableError:
        raise
    except Exception as error:
        # Foreign code may fail in any way on an input it was not made for.
        raise UnsuitableError(f"the probe failed: {type(error).__name__}: {error}") from error
