"""`accelerate` on OpenAI- and CLIP-ReID-shaped models: same function, same state, undoable."""

import copy
import io

import pytest
import torch
from foreign_models import (
    CLIP,
    WIDTH,
    AttentionPool2d,
    ModifiedResNet,
    ReIdModel,
    VisionTransformer,
    all_tokens_transformer,
    make_ids,
)
from torch import nn

from vireid_fast import accelerate, revert


def build(kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    model = {
        "clip-vit": lambda: CLIP(),
        "clip-resnet": lambda: CLIP(ModifiedResNet()).eval(),
        "reid-vit": lambda: ReIdModel(),
        "reid-resnet": lambda: ReIdModel(ModifiedResNet()).eval(),
    }[kind]().to(dtype)
    if kind.startswith("reid"):
        model.text_encoder.dtype = dtype
    return model


def make_inputs(kind: str, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(4, 3, 32, 16, dtype=dtype)
    return images, make_ids(4) if kind.startswith("clip") else torch.tensor([0, 3, 3, 1])


KINDS = ["clip-vit", "clip-resnet", "reid-vit", "reid-resnet"]
REPLACED = {
    "clip-vit": {"": "CLIP", "visual": "vision transformer"},
    "clip-resnet": {"": "CLIP", "visual.attnpool": "attention pool"},
    "reid-vit": {
        "image_encoder": "vision transformer", "prompt_learner": "prompt learner",
        "text_encoder": "text encoder",
    },
    "reid-resnet": {
        "image_encoder.attnpool": "attention pool", "prompt_learner": "prompt learner",
        "text_encoder": "text encoder",
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_stay(kind):
    model = build(kind)
    plain, inputs = copy.deepcopy(model), make_inputs(kind)
    report = accelerate(model)
    assert {entry.name: entry.kind for entry in report.replaced} == REPLACED[kind]
    assert report.left == ()
    actual, expected = model(*inputs), plain(*inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    actual.square().sum().backward()
    expected.square().sum().backward()
    compared = 0
    for (name, mine), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is None:
            assert mine.grad is None or not mine.grad.any(), name
            continue
        # Gradients that are sums over many tokens exceed 1 by far.
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-10, atol=1e-12, msg=name)
        compared += 1
    assert compared > 10


@pytest.mark.parametrize("kind", KINDS)
def test_float32_differs_by_rounding(kind):
    model = build(kind, torch.float32)
    exact, inputs = copy.deepcopy(model).double(), make_inputs(kind, torch.float32)
    plain = copy.deepcopy(model)
    if kind.startswith("reid"):
        exact.text_encoder.dtype = torch.float64
    accelerate(model)
    truth = exact(inputs[0].double(), inputs[1])
    mine, theirs = ((m(*inputs) - truth).abs().max() for m in (model, plain))
    # Logits reach some hundreds; eps is 1.2e-7.
    assert mine <= 2 * theirs + 4 * torch.finfo(torch.float32).eps * truth.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_types_and_mode_stay(kind):
    model = build(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    types = [type(m) for m in model.modules()]
    random_state, mode = torch.get_rng_state(), [m.training for m in model.modules()]
    accelerate(model)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [m.training for m in model.modules()] == mode
    assert all(isinstance(m, t) for m, t in zip(model.modules(), types, strict=True))
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_revert_restores_classes_and_bits(kind):
    model, inputs = build(kind), make_inputs(kind)
    types, expected = [type(m) for m in model.modules()], model(*inputs)
    attributes = [set(vars(m)) for m in model.modules()]
    report = accelerate(model)
    assert [type(m) for m in model.modules()] != types
    assert set(revert(model)) == {entry.name for entry in report.replaced}
    assert all(type(m) is t for m, t in zip(model.modules(), types, strict=True))
    assert [set(vars(m)) for m in model.modules()] == attributes
    assert torch.equal(model(*inputs), expected)
    assert revert(model) == ()


@pytest.mark.parametrize("kind", KINDS)
def test_accelerating_twice_is_harmless(kind):
    model, inputs = build(kind), make_inputs(kind)
    original = [type(m) for m in model.modules()]
    accelerate(model)
    types, expected = [type(m) for m in model.modules()], model(*inputs)
    again = accelerate(model)
    assert again.replaced == ()
    assert {entry.detail for entry in again.left} == {"already accelerated"}
    assert [type(m) for m in model.modules()] == types
    assert torch.equal(model(*inputs), expected)
    revert(model)
    assert [type(m) for m in model.modules()] == original


@pytest.mark.parametrize("kind", KINDS)
def test_weights_loaded_later_are_used(kind):
    model, other, inputs = build(kind), build(kind), make_inputs(kind)
    accelerate(model)
    for assign in (False, True):
        model.load_state_dict(copy.deepcopy(other.state_dict()), assign=assign)
        torch.testing.assert_close(model(*inputs), other(*inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_fast_and_independent(kind):
    model, inputs = build(kind), make_inputs(kind)
    accelerate(model)
    expected = model(*inputs).detach().clone()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
        assert torch.equal(twin(*inputs), expected)
        with torch.no_grad():
            for value in twin.parameters():
                value.mul_(0.9)
        changed = twin(*inputs)
        assert not torch.equal(changed, expected)
        assert torch.equal(model(*inputs), expected)
        revert(twin)
        torch.testing.assert_close(twin(*inputs), changed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_the_same_way(kind):
    model = build(kind)
    plain, inputs = copy.deepcopy(model), make_inputs(kind)
    accelerate(model)
    losses = []
    for net in (model, plain):
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
        losses.append([])
        for _ in range(4):
            optimizer.zero_grad()
            loss = net(*inputs).square().mean()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert losses[0][-1] < losses[0][0]


def test_hooks_keep_firing():
    model, inputs = build("reid-vit"), make_inputs("reid-vit")
    calls = []
    for name in ("image_encoder", "prompt_learner", "text_encoder"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    accelerate(model)
    assert calls == [], "the probe must not call hooks"
    expected = model(*inputs)
    assert sorted(calls) == ["image_encoder", "prompt_learner", "text_encoder"]
    # A hook on a module that the fast way passes by brings the module's own way back.
    inner = [model.image_encoder.transformer.resblocks[-1], model.text_encoder.ln_final]
    for module in inner:
        module.register_forward_hook(lambda m, *_: calls.append(type(m).__name__))
    torch.testing.assert_close(model(*inputs), expected, rtol=1e-12, atol=1e-12)
    assert {"ResidualAttentionBlock", "HalfNorm"} <= set(calls)


def test_replaced_inner_modules_are_used():
    model, inputs = build("reid-resnet"), make_inputs("reid-resnet")
    accelerate(model)
    before = model(*inputs)
    model.text_encoder.transformer.resblocks[0].mlp[2] = nn.Linear(4 * WIDTH, WIDTH).double()
    changed = model(*inputs)
    revert(model)
    torch.testing.assert_close(changed, model(*inputs), rtol=1e-12, atol=1e-12)
    assert (changed - before).abs().max() > 1e-3


def test_patched_and_overridden_methods_are_left():
    class Louder(VisionTransformer):
        def forward(self, x):
            return 2 * super().forward(x)

    louder = Louder()
    (entry,) = accelerate(louder).left
    assert entry.detail == "forward is overridden by a subclass (Louder)"
    assert type(louder) is Louder
    patched = VisionTransformer()
    patched.forward = lambda x: x
    assert "forward is patched on the instance" in str(accelerate(patched))
    clip = CLIP()
    clip.encode_text = lambda text: text
    entries = {entry.name: entry.detail for entry in accelerate(clip).left}
    assert entries == {"": "encode_text is patched on the instance"}
    hooked = VisionTransformer()
    hooked.ln_post.register_forward_hook(lambda *_: None)
    assert "ln_post" in accelerate(hooked).left[0].detail
    report = accelerate(CLIP(hooked))
    assert [entry.name for entry in report.replaced] == [""]
    assert [entry.name for entry in report.left] == ["visual"]


def test_unsuitable_modules_are_left_with_the_reason():
    all_tokens = all_tokens_transformer()
    assert "all tokens are read" in accelerate(all_tokens).left[0].detail
    pool = AttentionPool2d(8, WIDTH, 4)
    pool.keep = 9
    assert "every query is read" in accelerate(pool).left[0].detail
    no_mask = {entry.kind: entry.detail for entry in accelerate(CLIP(mask=False)).left}
    assert "causal" in no_mask["CLIP"]
    dropout = accelerate(CLIP(dropout=0.5))
    assert any("dropout" in entry.detail for entry in dropout.left)
    with torch.device("meta"):
        meta = AttentionPool2d(8, WIDTH, 4)
    assert "meta" in accelerate(meta).left[0].detail
    broken = AttentionPool2d(8, WIDTH, 4)
    nn.init.constant_(broken.v_proj.weight, torch.nan)
    assert "not finite" in accelerate(broken).left[0].detail


def test_same_names_with_another_function_are_left():
    class TemperedPool(AttentionPool2d):
        """Same parts, but not the same maths."""

    class Tempered(nn.Module):
        def __init__(self):
            super().__init__()
            for name, value in AttentionPool2d(8, WIDTH, 4).named_children():
                self.add_module(name, value)
            self.positional_embedding = nn.Parameter(torch.randn(9, WIDTH))
            self.num_heads = 4

        def forward(self, x):
            return self.c_proj(self.v_proj(x.flatten(2).mean(2)))

    assert accelerate(TemperedPool(8, WIDTH, 4)).replaced
    module = Tempered()
    assert "differ by" in accelerate(module).left[0].detail
    assert type(module) is Tempered


def test_unknown_models_and_wrong_types():
    report = accelerate(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    assert report.replaced == () and report.left == ()
    assert "nothing to accelerate" in str(report)
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got dict"):
        accelerate({})
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got int"):
        revert(3)


def test_report_is_a_readable_table():
    model = ReIdModel(all_tokens_transformer())
    lines = str(accelerate(model)).splitlines()
    assert lines[0].split() == ["module", "kind", "detail"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["replaced", "prompt_learner"], ["replaced", "text_encoder"], ["left", "image_encoder"],
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights(dtype):
    model = build("reid-resnet", dtype)
    # OpenAI's conversion leaves these in float32.
    model.text_encoder.positional_embedding.data = (
        model.text_encoder.positional_embedding.data.float()
    )
    plain, labels = copy.deepcopy(model), torch.tensor([0, 3, 3, 1])
    report = accelerate(model)
    assert {entry.name for entry in report.replaced} >= {"text_encoder", "prompt_learner"}
    actual, expected = model.encode_text(labels), plain.encode_text(labels)
    assert actual.dtype == expected.dtype == dtype
    # Three halves of eight bits, on values of order one.
    torch.testing.assert_close(actual.float(), expected.float(), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind):
    model = build(kind, torch.float32)
    plain, inputs = copy.deepcopy(model), make_inputs(kind, torch.float32)
    accelerate(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, expected = model(*inputs), plain(*inputs)
    assert actual.dtype == expected.dtype
    scale = expected.float().abs().max()
    # bfloat16 keeps eight bits.
    assert (actual.float() - expected.float()).abs().max() <= 0.05 * scale


@pytest.mark.parametrize("kind", KINDS)
def test_compiles_in_one_graph(kind):
    model, inputs = build(kind), make_inputs(kind)
    accelerate(model)
    expected = model(*inputs)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.gpu
def test_same_on_a_gpu():
    model = build("reid-vit", torch.float32).cuda()
    model.prompt_learner.tokenized_prompts = model.prompt_learner.tokenized_prompts.cuda()
    inputs = [x.cuda() for x in make_inputs("reid-vit", torch.float32)]
    expected = model(*inputs)
    assert len(accelerate(model).replaced) == 3
    # Rounding of logits that reach some hundreds.
    torch.testing.assert_close(model(*inputs), expected, rtol=1e-4, atol=1e-3)


def test_behaviour_in_training_alone_is_noticed():
    class TrainingNoise(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = AttentionPool2d(8, WIDTH, 4)

    def noisy(self, x):
        pooled = AttentionPool2d.forward(self, x)
        return pooled + torch.randn_like(pooled) if self.training else pooled

    model = TrainingNoise().eval()
    names = {**vars(AttentionPool2d), "forward": noisy}
    names = {k: v for k, v in names.items() if k not in ("__dict__", "__weakref__")}
    model.pool.__class__ = type("AttentionPool2d", (nn.Module,), names)
    state = torch.get_rng_state()
    assert "differ by" in accelerate(model).left[0].detail
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.pool.training
