"""Contract of the raw ops `vireid_fast::prompt_injection_fwd` and `prompt_injection_bwd`."""

from torch import Tensor

from vireid_fast.ops._registration import register_op
from vireid_fast.ops.prompt_injection import reference


def _fake(
    template: Tensor, positions: Tensor, context: Tensor, labels: Tensor, start: int
) -> Tensor:
    return template.new_empty((labels.shape[0], *template.shape))


def _fake_bwd(
    grad: Tensor, labels: Tensor, num_classes: int, context_length: int, start: int
) -> Tensor:
    return grad.new_empty((num_classes, context_length, grad.shape[2]))


def _cuda(
    template: Tensor, positions: Tensor, context: Tensor, labels: Tensor, start: int
) -> Tensor:
    from vireid_fast.ops.prompt_injection import triton

    return triton.prompt_injection(template, positions, context, labels, start)


def _cuda_bwd(
    grad: Tensor, labels: Tensor, num_classes: int, context_length: int, start: int
) -> Tensor:
    from vireid_fast.ops.prompt_injection import triton

    return triton.prompt_injection_bwd(grad, labels, num_classes, context_length, start)


prompt_injection_fwd_op = register_op(
    "prompt_injection_fwd(Tensor template, Tensor positions, Tensor context, Tensor labels, "
    "int start) -> Tensor",
    fake=_fake,
    reference=reference.prompt_injection,
    cuda=_cuda,
)

prompt_injection_bwd_op = register_op(
    "prompt_injection_bwd(Tensor grad, Tensor labels, int num_classes, int context_length, "
    "int start) -> Tensor",
    fake=_fake_bwd,
    reference=reference.prompt_injection_bwd,
    cuda=_cuda_bwd,
)
