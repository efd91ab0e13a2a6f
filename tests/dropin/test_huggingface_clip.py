"""`accelerate` on transformers' CLIPModel."""

import copy
import pickle

import pytest
import torch

from vireid_fast import accelerate, revert

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def build(*, eos: int = 59, dtype=torch.float64, **text):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
             "num_attention_heads": 4}  # fmt: skip
    words = {**sizes, "vocab_size": 60, "max_position_embeddings": 16, "eos_token_id": eos,
             "bos_token_id": 58, "pad_token_id": 1, **text}  # fmt: skip
    config = transformers.CLIPConfig(
        text_config=words, vision_config={**sizes, "image_size": 16, "patch_size": 8},
        projection_dim=24, initializer_factor=8.0,
    )  # fmt: skip
    return transformers.CLIPModel(config).to(dtype).eval()


def make_texts(eos: int = 59):
    """Ids with padding after the end, and the mask that hides the padding."""
    ids = torch.ones(4, 16, dtype=torch.int64)
    for row, length in enumerate((3, 9, 15, 3)):
        ids[row, 0] = 58
        ids[row, 1:length] = torch.randint(3, 50, (length - 1,))
        ids[row, length] = eos
    return ids, (ids != 1).long()


def images(dtype=torch.float64):
    return torch.randn(4, 3, 16, 16, dtype=dtype)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eos", [59, 2])
def test_features_and_gradients_stay(eos):
    model = build(eos=eos)
    plain, (ids, mask), pixels = copy.deepcopy(model), make_texts(), images()
    report = accelerate(model)
    assert [(entry.name, entry.kind) for entry in report.replaced] == [("", "Hugging Face CLIP")]
    assert report.left == ()
    for arguments in ((ids,), (ids, mask)):
        assert_close(
            model.get_text_features(*arguments).pooler_output,
            plain.get_text_features(*arguments).pooler_output,
        )
    losses = [net(ids, pixels, mask, return_loss=True).loss for net in (model, plain)]
    assert_close(*losses)
    for loss in losses:
        loss.backward()
    for (name, mine), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), name
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("method", ["get_text_features", "get_image_features"])
def test_outputs_have_type_keys_and_token_states(method):
    model = build()
    plain, argument = copy.deepcopy(model), make_texts()[0] if "text" in method else images()
    accelerate(model)

    def call(net=model):
        return getattr(net, method)(argument)

    expected = call(plain)
    assert isinstance(call(), type(expected))
    assert type(call()).__name__ == type(expected).__name__
    assert list(call()) == list(call().keys()) == list(expected.keys())
    assert len(call()) == len(expected) and "last_hidden_state" in call()
    for read in (
        lambda out: out.last_hidden_state,
        lambda out: out["last_hidden_state"],
        lambda out: out[0],
        lambda out: out.to_tuple()[0],
        lambda out: dict(out)["last_hidden_state"],
        lambda out: next(iter(out.values())),
        lambda out: copy.deepcopy(out).last_hidden_state,
        lambda out: pickle.loads(pickle.dumps(torch.utils._pytree.tree_flatten(out)[0][0])),
    ):
        with torch.no_grad():
            assert_close(read(call()), expected.last_hidden_state.detach())
    assert_close(call()[1], expected.pooler_output)
    assert repr(call()).startswith("BaseModelOutputWithPooling(last_hidden_state=tensor(")
    late = call()
    with torch.no_grad():
        assert late.last_hidden_state.requires_grad, "the mode of the call counts"


def test_other_requests_run_the_models_own_way():
    model = build()
    plain, (ids, mask), pixels = copy.deepcopy(model), make_texts(), images()
    accelerate(model)
    for request in ({"output_hidden_states": True}, {"return_dict": False}):
        for name, value in (("text", ids), ("image", pixels)):
            actual = getattr(model, f"get_{name}_features")(value, **request)
            expected = getattr(plain, f"get_{name}_features")(value, **request)
            assert type(actual) is type(expected)
            assert_close(actual[1], expected[1])
    # The hooks that recorded the hidden states stay; the faster methods run again all the same.
    for name, value in (("text", ids), ("image", pixels)):
        actual, expected = (getattr(m, f"get_{name}_features")(value) for m in (model, plain))
        assert type(actual) is not type(expected), "an output that completes itself"
        assert_close(actual[1], expected[1])
    left_padded = torch.cat([mask.new_zeros(4, 2), mask.new_ones(4, 14)], dim=1)
    backwards = torch.arange(16).flip(0)[None]
    for options in ({"attention_mask": left_padded}, {"position_ids": backwards}):
        actual, expected = (net.get_text_features(ids, **options) for net in (model, plain))
        assert type(actual) is type(expected)
        assert_close(actual.pooler_output, expected.pooler_output)
    no_end = torch.randint(3, 50, (2, 16))
    assert_close(model.get_text_features(no_end)[1], plain.get_text_features(no_end)[1])


def test_state_dict_and_revert():
    model = build()
    before, pixels = copy.deepcopy(model.state_dict()), images()
    expected = model.get_image_features(pixels)
    accelerate(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert revert(model) == ("",)
    assert type(model) is transformers.CLIPModel
    assert torch.equal(model.get_image_features(pixels).pooler_output, expected.pooler_output)


def test_hooks_inside_bring_the_own_way_back():
    model, (ids, _) = build(), make_texts()
    accelerate(model)
    calls, expected = [], model.get_text_features(ids).pooler_output
    model.text_model.encoder.layers[1].register_forward_hook(lambda *_: calls.append(1))
    assert_close(model.get_text_features(ids).pooler_output, expected)
    assert calls == [1]


def test_compiles():
    model, pixels = build(dtype=torch.float32), images(torch.float32)
    expected = model.get_image_features(pixels).pooler_output
    accelerate(model)
    compiled = torch.compile(model.get_image_features, backend="eager")
    torch.testing.assert_close(compiled(pixels).pooler_output, expected)


def test_dropout_in_training_runs_the_own_way():
    model, (ids, _) = build(attention_dropout=0.5).train(), make_texts()
    report = accelerate(model)
    assert "dropout" in report.left[0].detail
    model.eval()
    assert accelerate(model).replaced
    model.train()
    first, second = (model.get_text_features(ids).pooler_output for _ in range(2))
    assert not torch.equal(first, second)
