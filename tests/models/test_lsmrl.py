"""LSMRL as a module: features, ablations, banks, what test features may depend on."""

import pytest
import torch
import torch.nn.functional as F

from vireid_fast.clip import TEMPLATE_WORDS, TEMPLATES, WordVocabulary, build_clip
from vireid_fast.models import LSMRL

SIZE = (96, 48)  # 6 x 3 patches
OFF = {"grouped_blocks": 0, "shift_blocks": 0, "diffusion": False, "interaction": False}


def make_model(backend="fused", *, identities=5, size=SIZE, template="day_night", **options):
    torch.manual_seed(0)
    vocabulary = WordVocabulary(TEMPLATE_WORDS)
    clip = build_clip(
        "ViT-small", image_size=size, vocabulary_size=len(vocabulary), text_layers=2,
        visual_width=64, visual_layers=3, visual_heads=2, joint_width=32,
    )  # fmt: skip
    words = TEMPLATES[template]
    options = {"groups": 3, "grouped_blocks": 1, "shift_blocks": 1} | options
    ids = torch.tensor(words.ids_for(vocabulary))
    model = LSMRL(clip, identities, ids, words.context_start, backend=backend, **options)
    if model.diffusion is not None:
        # Far from its start, so that the diffusion shows.
        torch.nn.init.normal_(model.diffusion.gamma)
    return model.double().eval()


def make_clips(count, frames=3, size=SIZE):
    return torch.randn(count, frames, 3, *size, dtype=torch.float64)


def step(model, visible, infrared):
    """Everything that a training step reads."""
    bank = model.text_bank() if model.diffusion is not None else None
    features = model.encode_clips(visible, infrared, bank)
    if model.interaction is None:
        return [*features]
    count = len(visible)
    return [*features, *model.interact(features.rows(0, count), features.rows(count, 2 * count))]


@pytest.mark.parametrize(
    "options",
    [{}, {"interaction_mode": "joint", "pattern": "bayer4"}, {"diffusion": False},
     {"interaction": False, "template": "person"}, {"shift_blocks": 0}, OFF],
    ids=str,
)  # fmt: skip
def test_backends_are_one_function_with_one_state_dict(options):
    fused, plain = make_model(**options), make_model("reference", **options)
    plain.load_state_dict(fused.state_dict())
    visible, infrared = make_clips(2), make_clips(2)
    outputs = [step(model, visible, infrared) for model in (fused, plain)]
    for model, values in zip((fused, plain), outputs, strict=True):
        sum(value.square().sum() for value in values).backward()
        model.refresh_bank()
        values.append(model.test_features(visible, "visible"))
    for own, other in zip(*outputs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-11, atol=1e-11)
    for (name, own), other in zip(fused.named_parameters(), plain.parameters(), strict=True):
        assert (own.grad is None) == (other.grad is None), name
        if own.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-8, atol=1e-7)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_everything_off_is_clip_on_frames_averaged(backend):
    model, clips = make_model(backend, **OFF), make_clips(3, 4)
    features = model.encode_clips(None, clips)
    plain = model.encoder.visual(clips.flatten(0, 1))
    pooled = plain.pooled.unflatten(0, (3, 4)).mean(1)
    projected = plain.projected.unflatten(0, (3, 4)).mean(1)
    torch.testing.assert_close(features.pooled, pooled, rtol=0, atol=1e-12)
    torch.testing.assert_close(features.projected, projected, rtol=0, atol=1e-12)
    rows = torch.cat([F.normalize(pooled), F.normalize(projected)], 1)
    torch.testing.assert_close(model.test_features(clips, "infrared"), rows.float())
    assert model.diffusion is model.interaction is model.interaction_neck is model.bank is None
    assert not any("diffusion" in name or "bank" in name for name in model.state_dict())


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("size", [SIZE, (48, 80)], ids=str)
def test_any_number_of_frames_and_any_grid(frames, size):
    model = make_model(size=size)
    visible, infrared = make_clips(2, frames, size), make_clips(2, frames, size)
    features = model.encode_clips(visible, infrared, model.text_bank())
    assert features.tokens.shape == (4, 1 + size[0] * size[1] // 256, 64)
    torch.testing.assert_close(features.classes.mean(1), features.tokens[:, 0])
    trunk = model.encoder.visual.trunk
    torch.testing.assert_close(features.projected, features.pooled @ trunk.proj)
    if frames == 1:
        # The sequence is the frame: f and h are the class token after ln_post.
        torch.testing.assert_close(features.pooled, trunk.ln_post(features.tokens[:, 0]))
        h = model.interact(features.rows(0, 2), features.rows(2, 4))
        tokens = model.interaction(features.tokens[:2], features.tokens[2:])
        for own, whole in zip(h, tokens, strict=True):
            torch.testing.assert_close(own, trunk.ln_post(whole[:, 0]))


def test_diffusion_reads_the_bank_and_moves_every_frame_alike():
    model, clips = make_model(), make_clips(2)
    before = model.encoder(clips)
    bank = model.text_bank()
    after = model.encode_clips(clips, None, bank)
    torch.testing.assert_close(after.tokens, model.diffusion(before.tokens, bank))
    moved = after.classes - before.classes
    torch.testing.assert_close(moved, (after.tokens - before.tokens)[:, :1].expand_as(moved))
    shuffled = model.encode_clips(clips, None, bank[torch.randperm(5)])
    torch.testing.assert_close(shuffled.pooled, after.pooled)
    other = model.encode_clips(clips, None, bank + torch.randn_like(bank))
    assert (other.pooled - after.pooled).abs().max() > 1e-3


def test_swapping_modalities_swaps_the_interaction():
    model = make_model()
    features = model.encode_clips(make_clips(2), make_clips(2), model.text_bank())
    visible, infrared = features.rows(0, 2), features.rows(2, 4)
    forth, back = model.interact(visible, infrared), model.interact(infrared, visible)
    for own, other in zip(forth, back[::-1], strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)
    # Each modality's h reads its partner, and no other clip.
    (forth[0][0].sum()).backward()
    assert model.encoder.visual.stem.conv1.weight.grad.abs().sum() > 0
    partner = infrared._replace(tokens=infrared.tokens.detach().clone())
    partner.tokens[1] = torch.randn_like(partner.tokens[1])
    again = model.interact(visible, partner)
    torch.testing.assert_close(again[0][0], forth[0][0])
    assert (again[0][1] - forth[0][1]).abs().max() > 1e-3


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_features_of_a_modality_do_not_depend_on_the_other_one(backend):
    model, visible = make_model(backend), make_clips(3)
    model.refresh_bank()
    alone = model.test_features(visible, "visible")
    bank = model.bank
    for infrared in (make_clips(2), 100 * make_clips(4)):
        features = model.encode_clips(visible, infrared, bank).rows(0, 3)
        rows = [F.normalize(features.pooled), F.normalize(features.projected)]
        torch.testing.assert_close(alone, torch.cat(rows, 1).float())
        model.test_features(infrared, "infrared")
        assert torch.equal(model.test_features(visible, "visible"), alone)
    # One encoder serves both, and rows of a batch do not touch.
    assert torch.equal(model.test_features(visible, "infrared"), alone)
    torch.testing.assert_close(model.test_features(visible[1:2], "visible"), alone[1:2])
    assert alone.shape == (3, model.feature_width) == (3, 64 + 32)


@pytest.mark.parametrize("template", ["day_night", "person"])
def test_bank_is_the_towers_and_trains_the_prompts_alone(template):
    model = make_model(template=template, identities=7)
    bank = model.text_bank()
    prompts = model.prompts(torch.arange(7))
    plain = model.text.encode_embeddings(prompts, prompts.shape[1] - 1)
    torch.testing.assert_close(bank, plain, rtol=1e-12, atol=1e-12)
    bank[[1, 4]].square().sum().backward()
    grad = model.prompts.context.grad.abs().sum((1, 2))
    assert (grad > 0).tolist() == [False, True, False, False, True, False, False]
    assert all(p.grad is None for p in model.text.parameters())


def test_bank_of_testing_is_constant_and_saved():
    model, clips = make_model(), make_clips(2)
    with pytest.raises(
        RuntimeError, match=r"bank must hold the texts, got zeros. Call refresh_bank"
    ):
        model.test_features(clips, "visible")
    model.refresh_bank()
    before = model.test_features(clips, "visible")
    with torch.no_grad():
        model.prompts.context.normal_()
    assert torch.equal(model.test_features(clips, "visible"), before)
    other = make_model()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.test_features(clips, "visible"), before)
    model.refresh_bank()
    assert not torch.equal(model.test_features(clips, "visible"), before)
    assert not model.bank.requires_grad


def test_trains_in_mixed_precision():
    model = make_model(identities=2).float().train()
    labels = torch.tensor([0, 1] * 2)
    visible, infrared = make_clips(2).float(), make_clips(2).float()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(4):
        with torch.autocast("cpu", torch.bfloat16):
            _, _, _, pooled, projected, *h = step(model, visible, infrared)
            logits = [
                model.pooled_neck(pooled.float()).logits,
                model.projected_neck(projected.float()).logits,
                model.interaction_neck(torch.cat(h).float()).logits,
            ]
        loss = sum(F.cross_entropy(values.float(), labels) for values in logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    used = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in used)


def test_errors():
    model, clips = make_model(), make_clips(2)
    bank = model.text_bank()
    with pytest.raises(ValueError, match="visible or infrared must be given, got neither"):
        model.encode_clips(None, None, bank)
    with pytest.raises(ValueError, match=r"infrared must have shape \(B, 3, 3, 96, 48\)"):
        model.encode_clips(clips, make_clips(2, 2), bank)
    with pytest.raises(ValueError, match=r"bank must be given .* got None. Pass text_bank\(\)"):
        model.encode_clips(clips, None)
    with pytest.raises(ValueError, match="modality must be one of"):
        model.test_features(clips, "thermal")
    with pytest.raises(ValueError, match="num_identities must be at least 1"):
        make_model(identities=0)
    with pytest.raises(ValueError, match="groups must divide the 6 rows of patches, got 5"):
        make_model(groups=5)
    with pytest.raises(ValueError, match="mode must be one of"):
        make_model(interaction_mode="self")
    features = make_model(**OFF).encode_clips(clips, None)
    assert features.tokens.shape == (2, 1, 64)
    with pytest.raises(ValueError, match="interact must be called with an interaction"):
        make_model(**OFF).interact(features, features)
