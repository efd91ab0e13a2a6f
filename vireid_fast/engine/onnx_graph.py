"""From a module to an ONNX model with standard operators alone."""

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vireid_fast._checks import sentence
from vireid_fast._version import __version__

FIRST_OPSET, LAST_OPSET = 18, 23
"""18 is the first that torch's exporter writes, and what older runtimes read."""

_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
# At least two, so that the number of images is not taken for a constant; no other size is three.
_TRACED = 3


class GraphError(RuntimeError):
    """A network that cannot be written in standard ONNX operators."""


def require_packages() -> None:
    """Raise RuntimeError where a package that export needs is absent."""
    absent = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise RuntimeError(
            sentence("export", "onnx, onnxruntime and onnxscript", "be installed",
                     f"no {', '.join(absent)}", 'Run pip install "vireid_fast[onnx]".')
        )  # fmt: skip


def trace(
    module: nn.Module, size: tuple[int, int], batch: int | None, opset: int,
    notes: Mapping[str, Any],
) -> Any:  # fmt: skip
    """The graph of a module from images to features.

    Args:
        module: (N, 3, H, W) float32 to (N, D), in evaluation mode.
        size: H and W.
        batch: N; None: any number.
        opset: Version of the operators.
        notes: Written into the model as text.

    Returns:
        `onnx.ModelProto`, equal for equal arguments and versions of torch.

    Raises:
        GraphError: The module cannot be traced, fixes the number of images, or needs operators of
            its own.
    """
    example = torch.zeros(batch or _TRACED, 3, *size)
    shapes = None if batch else ({0: torch.export.Dim("N", min=1)},)
    with _quiet():
        try:
            # Not inside torch.onnx.export, which would try on with a fixed number of images.
            program = torch.export.export(
                module, (example,), dynamic_shapes=shapes, strict=False
            )
            # Unoptimised: the optimiser takes the sum with a small number, as the 1e-12 of AGW's
            # pooling, for the sum with zero. Runtimes have optimisers of their own.
            exported = torch.onnx.export(
                program, (), dynamo=True, opset_version=opset, input_names=["images"],
                output_names=["features"], external_data=False, verbose=False, optimize=False,
            )  # fmt: skip
            assert exported is not None  # with dynamo=True it never is
            model = exported.model_proto
        # The tracer raises many types; the cause stays attached.
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise GraphError(
                sentence("export", "the network", "be traceable", lines[0][:300],
                         "Report it with the model's card.")
            ) from error  # fmt: skip
    _clean(model, notes)
    _require_standard(model, batch)
    return model


def _clean(model: Any, notes: Mapping[str, Any]) -> None:
    """Keep the graph and our notes; the exporter also writes stack traces with local paths."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output,
                 *graph.initializer):  # fmt: skip
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.name = "vireid_fast"
    model.producer_name, model.producer_version = "vireid_fast", __version__
    for key in sorted(notes):
        value = notes[key]
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)


def _require_standard(model: Any, batch: int | None) -> None:
    foreign = sorted({f"{node.domain}::{node.op_type}" for node in model.graph.node
                      if node.domain not in ("", "ai.onnx")})  # fmt: skip
    if foreign or model.functions:
        raise GraphError(
            sentence("export", "the graph", "have standard operators alone", ", ".join(foreign))
        )
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    if batch is None and not first.dim_param:
        raise GraphError(
            sentence("export", "the graph", "take any number of images", first.dim_value)
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs what concerns its authors."""
    names = ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
