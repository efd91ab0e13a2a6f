"""Text features of learned prompts: RN50's text tower, 12 layers of 512 with 8 heads, frozen.

The fused providers are the four templates. The 77-token peers take the same time whatever the
template says, so they run once, with the template "person", and every template is compared to them
in the same rounds. "forward + backward" is CLIP-ReID's stage 1: the gradient of the learned tokens.

CLIP-MC writes a prompt for every image, at test too: "one an image" are descriptions of its form,
which share start of text and the context of the missing modality.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from baselines.prompts import Prompts, TransformersTower, encode_all_tokens
from timing import Budget, Provider
from torch import Tensor
from torch.nn.functional import pad

from cases.case import Case, Workload, gemm_floor, peers_of
from vireid_fast.clip.architectures import architecture
from vireid_fast.clip.templates import CLIP_EOT, TEMPLATES, PromptTemplate
from vireid_fast.clip.text import TextTower
from vireid_fast.nn import PromptGroup, PromptLearner, PromptTextEncoder
from vireid_fast.testing import assert_error_budget, make_features

_PEER_TEMPLATE = "person"
_ALL_TOKENS = "77-token tower"
_GATE_PROMPTS = 3
# More prompts than this go through in chunks, as their activations would take gigabytes.
_LARGEST, _CHUNK = 500, 64
_SHARED_TOKENS, _OWN_TOKENS = 5, 7
_TARGETS = {"person": 9.0, "day_night": 5.0}
_MEMORY_TARGETS = {"person": 5.0, "day_night": 4.0}


class _Inputs(NamedTuple):
    """One tower, and for each template the learned prompts of all classes."""

    tower: TextTower
    learners: dict[str, PromptLearner]
    labels: Tensor
    grad: Tensor | None

    def all_tokens(self, name: str, labels: Tensor, dtype: torch.dtype) -> Prompts:
        """The prompts of one template padded to the context length."""
        ids = self.ids(TEMPLATES[name])
        tower, learner = self.tower, self.learners[name]
        parts = tower.token_embedding.weight[ids], tower.positional_embedding, learner.context
        return Prompts(*(part.to(dtype) for part in parts), labels, learner.start)

    def ids(self, template: PromptTemplate) -> Tensor:
        """Token ids of a template, zeros after EOT."""
        ids = torch.zeros(self.tower.context_length, dtype=torch.int64, device=self.labels.device)
        ids[: template.length] = torch.tensor(template.token_ids, device=self.labels.device)
        return ids


def _text(prompts: int, classes: int, backward: bool, huggingface: bool, device: torch.device
          ) -> Workload:  # fmt: skip
    inputs = _make_inputs(prompts, classes, backward, device)
    chunk = _CHUNK if prompts > _LARGEST else prompts
    encoder = PromptTextEncoder(inputs.tower)

    def provide(name: str, encode: Callable[[Tensor], Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        context = inputs.learners[name].context
        return lambda: _features(encode, inputs, context, chunk)

    providers = []
    for name, learner in inputs.learners.items():
        fused = partial(_encode_group, encoder, learner)
        providers.append(Provider(name, "fused", provide(name, fused)))
        flops = _flops(inputs.tower, TEMPLATES[name], prompts) * (2 if backward else 1)
        rows = chunk * (TEMPLATES[name].length - TEMPLATES[name].context_start)
        providers.append(
            gemm_floor(
                flops, rows, 512, 2048, device, inputs.tower.text_projection.dtype, only=name
            )
        )
    providers += _peers(inputs, provide, huggingface)

    def check(outputs: dict[str, tuple[Tensor, ...]]) -> None:
        for name in inputs.learners:
            same = [name, *(peers_of(providers, outputs) if name == _PEER_TEMPLATE else [])]
            _check(inputs, name, [outputs[one] for one in same])

    return Workload(tuple(providers), check)


def _descriptions(prompts: int, device: torch.device) -> Workload:
    """Prompts [SOS] [4 context tokens] [4 tokens of the image] [person] [.] [EOS], as constants."""
    tower = _make_inputs(prompts, 1, False, device).tower
    dtype = tower.text_projection.dtype
    own = make_features(prompts * _OWN_TOKENS, tower.width, dtype=dtype, device=device)
    shared = make_features(_SHARED_TOKENS, tower.width, seed=1, dtype=dtype, device=device)
    group = PromptGroup(shared, own.unflatten(0, (prompts, _OWN_TOKENS)))
    encoder = PromptTextEncoder(tower)
    full = partial(_encode_padded, tower)
    length = _SHARED_TOKENS + _OWN_TOKENS
    flops = _tokens_flops(tower, length, _SHARED_TOKENS, prompts)
    providers = (
        Provider("one an image", "fused", torch.no_grad()(partial(encoder, group))),
        Provider(_ALL_TOKENS, "peer", torch.no_grad()(partial(full, group))),
        gemm_floor(flops, prompts * _OWN_TOKENS, 512, 2048, device, dtype),
    )

    @torch.no_grad()
    def check(outputs: dict[str, Tensor]) -> None:
        few = PromptGroup(shared, group.suffix[:_GATE_PROMPTS])
        wide = PromptGroup(few.prefix.double(), few.suffix.double())
        exact = _encode_padded(copy.deepcopy(tower).double(), wide)
        for name in ("one an image", _ALL_TOKENS):
            assert_error_budget(outputs[name][:_GATE_PROMPTS], full(few), exact)

    return Workload(providers, check)


def _encode_padded(tower: TextTower, group: PromptGroup) -> Tensor:
    """Every token of the context length, zeros behind the prompts."""
    prefix, suffix, _ = group
    whole = torch.cat((prefix.expand(len(suffix), -1, -1), suffix), dim=1)
    length = whole.shape[1]
    rows = torch.full((len(whole),), length - 1, device=whole.device)
    return tower.encode_embeddings(pad(whole, (0, 0, 0, tower.context_length - length)), rows)


def _make_inputs(prompts: int, classes: int, backward: bool, device: torch.device) -> _Inputs:
    torch.manual_seed(0)
    sizes = architecture("RN50")
    tower = TextTower(
        vocabulary_size=sizes.vocabulary_size, context_length=sizes.context_length,
        width=sizes.text_width, layers=sizes.text_layers, heads=sizes.text_heads,
        projected_width=sizes.joint_width, activation=sizes.activation,
    )  # fmt: skip
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tower = tower.to(device, dtype).requires_grad_(False).eval()
    learners = {}
    for name, template in TEMPLATES.items():
        learner = PromptLearner(
            tower.token_embedding.weight[torch.tensor(template.token_ids, device=device)],
            tower.positional_embedding[: template.length],
            classes, template.context_start, template.context_length,
        )  # fmt: skip
        learners[name] = learner.to(device, dtype).requires_grad_(backward)
    labels = torch.randperm(classes, generator=torch.Generator().manual_seed(0))[:prompts]
    grad = make_features(prompts, sizes.joint_width, dtype=dtype, device=device)
    return _Inputs(tower, learners, labels.to(device), grad if backward else None)


def _encode_group(encoder: PromptTextEncoder, learner: PromptLearner, labels: Tensor) -> Tensor:
    return encoder(learner.prompt_group(labels))


def _features(
    encode: Callable[[Tensor], Tensor], inputs: _Inputs, context: Tensor, chunk: int
) -> tuple[Tensor, ...]:
    """Features and, where a gradient is asked for, that of the learned tokens."""
    if inputs.grad is None:
        with torch.no_grad():
            return (torch.cat([encode(labels) for labels in inputs.labels.split(chunk)]),)
    features = encode(inputs.labels)
    return features.detach(), *torch.autograd.grad(features, context, inputs.grad)


def _peers(inputs: _Inputs, provide: Callable[..., Any], huggingface: bool) -> list[Provider]:
    template = TEMPLATES[_PEER_TEMPLATE]
    dtype = inputs.tower.text_projection.dtype

    def all_tokens(labels: Tensor) -> Tensor:
        prompts = inputs.all_tokens(_PEER_TEMPLATE, labels, dtype)
        return encode_all_tokens(inputs.tower, prompts, template.eot)

    peers = [
        Provider(
            _ALL_TOKENS, "peer", provide(_PEER_TEMPLATE, all_tokens),
            target=_TARGETS, memory_target=_MEMORY_TARGETS,
        )
    ]  # fmt: skip
    if not huggingface:
        return peers
    try:
        other = TransformersTower(inputs.tower, architecture("RN50").text_heads, CLIP_EOT)
    except (ImportError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        return [*peers, Provider("transformers", "peer", None, absent=reason)]
    ids = inputs.ids(template)

    def by_transformers(labels: Tensor) -> Tensor:
        prompts = inputs.all_tokens(_PEER_TEMPLATE, labels, dtype)
        return other(prompts, ids.expand(len(labels), -1))

    run = provide(_PEER_TEMPLATE, by_transformers)
    return [*peers, Provider("transformers", "peer", run)]


def _check(inputs: _Inputs, name: str, outputs: list[tuple[Tensor, ...]]) -> None:
    """Hold the features, and the gradients of the learned tokens, of a few prompts to float64."""
    labels = inputs.labels[:_GATE_PROMPTS]
    exact, plain = (
        _few_features(inputs, name, labels, dtype)
        for dtype in (torch.float64, inputs.tower.text_projection.dtype)
    )
    for found in outputs:
        parts = [found[0][:_GATE_PROMPTS], *(gradient[labels] for gradient in found[1:])]
        for part, reference, value in zip(parts, plain, exact, strict=True):
            assert_error_budget(part, reference, value)


def _few_features(
    inputs: _Inputs, name: str, labels: Tensor, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    tower = copy.deepcopy(inputs.tower).to(dtype)
    prompts = inputs.all_tokens(name, labels, dtype)
    context = prompts.context.detach().requires_grad_()
    features = encode_all_tokens(tower, prompts._replace(context=context), TEMPLATES[name].eot)
    if inputs.grad is None:
        return (features.detach(),)
    (gradient,) = torch.autograd.grad(features, context, inputs.grad[: len(labels)].to(dtype))
    return features.detach(), gradient[labels]


def _flops(tower: TextTower, template: PromptTemplate, prompts: int) -> float:
    """Operations that no exact method can leave out, forward.

    Every layer but the last maps all tokens behind the shared prefix (24 W^2 each); the last one
    needs keys and values of them (4 W^2) and the rest for EOT alone (20 W^2). Backward to the
    learned tokens takes the same again: weights are frozen.
    """
    return _tokens_flops(tower, template.length, template.context_start, prompts)


def _tokens_flops(tower: TextTower, length: int, shared: int, prompts: int) -> float:
    """`_flops` of prompts of `length` tokens, of which `shared` are computed once."""
    width, layers = tower.width, len(tower.transformer.resblocks)
    own = length - shared
    visible = sum(range(shared + 1, length + 1))
    inner = (layers - 1) * (24 * width**2 * own + 4 * width * visible)
    last = 4 * width**2 * own + 20 * width**2 + 4 * width * length
    return prompts * (inner + last + 2 * width * tower.text_projection.shape[1])


def _case(
    prompts: int, backward: bool, *, device: str, huggingface: bool = False, **settings: Any
) -> Case:
    direction = "forward + backward" if backward else "forward"
    classes = max(prompts, 395)
    chunks = f" in chunks of {_CHUNK}" if prompts > _LARGEST else ""
    return Case(
        "text_tower", "PromptTextEncoder", f"{prompts} prompts{chunks}, {direction}",
        f"{prompts} prompts of {classes} classes",
        partial(_text, prompts, classes, backward, huggingface),
        dtype="bfloat16" if device == "cuda" else "float32", devices=(device,), **settings,
    )  # fmt: skip


def _instance_case(device: str) -> Case:
    return Case(
        "text_tower", "PromptTextEncoder", "64 prompts of CLIP-MC, forward",
        "64 prompts of their own", partial(_descriptions, 64),
        dtype="bfloat16" if device == "cuda" else "float32", devices=(device,),
        memory=("one an image", _ALL_TOKENS), budget=Budget(seconds=20.0),
    )  # fmt: skip


_MEASURED = ("person", "day_night", _ALL_TOKENS)
_GENEROUS = Budget(seconds=30.0)
# A round takes half a minute to a minute on a CPU.
_TWO_ROUNDS = Budget(least_rounds=2)
CASES = (
    _case(64, False, device="cpu", huggingface=True, memory=_MEASURED, budget=_GENEROUS),
    _case(64, True, device="cpu", huggingface=True, memory=_MEASURED, budget=_GENEROUS),
    _case(395, False, device="cpu", slow=True, budget=_TWO_ROUNDS),
    _case(395, True, device="cpu", slow=True, budget=_TWO_ROUNDS),
    _case(1074, False, device="cpu", slow=True, budget=_TWO_ROUNDS),
    _case(64, False, device="cuda", huggingface=True, memory=_MEASURED),
    _case(64, True, device="cuda", huggingface=True, memory=_MEASURED),
    _case(500, False, device="cuda", huggingface=True, microseconds=800.0),
    _case(500, True, device="cuda", huggingface=True),
    _case(1074, False, device="cuda"),
    _instance_case("cpu"),
    _instance_case("cuda"),
)
