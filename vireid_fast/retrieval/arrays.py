"""Arrays that callers bring, numpy or torch, as tensors that compute together."""

import warnings
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from vireid_fast import _checks

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def as_float_tensors(what: str, **arrays: Tensor | np.ndarray) -> list[Tensor]:
    """The arrays as tensors of one dtype on one device.

    16-bit floats become float32, in which they are exact; of mixed dtypes the widest is taken.
    numpy arrays go to the device of the tensors. Strides may be any, memory may be read-only.

    Args:
        what: Name of the caller, for its errors.
        arrays: The arrays by argument name; floating point.

    Returns:
        Tensors, float32 or float64, in the order of the arguments.

    Raises:
        ValueError: Two tensors live on different devices.
        TypeError: A value is no array, or its dtype does not fit.
        RuntimeError: A tensor requires a gradient.
    """
    given = {name: value for name, value in arrays.items() if isinstance(value, Tensor)}
    _checks.require_same_device(what, **given)
    device = next(iter(given.values())).device if given else torch.device("cpu")
    tensors = [_float_tensor(what, name, value) for name, value in arrays.items()]
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    return [tensor.to(device, dtype) for tensor in tensors]


def from_numpy(array: np.ndarray) -> Tensor:
    """The array as a tensor: a view, of read-only and mapped memory too; do not write to it.

    Only negative strides, which torch has none of, are copied.
    """
    if any(stride < 0 for stride in array.strides):
        array = np.ascontiguousarray(array)
    with warnings.catch_warnings():
        # torch warns that writing to read-only memory is undefined.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _float_tensor(what: str, name: str, value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, np.ndarray):
        _checks.require(
            value.dtype in (np.float16, np.float32, np.float64), what, name,
            "be float16, float32 or float64", value.dtype, "Convert with .astype(numpy.float32).",
            TypeError,
        )  # fmt: skip
        return from_numpy(value)
    _checks.require_dtype(what, name, value, _FLOATS)
    _checks.require_no_grad(what, **{name: value})
    return value
