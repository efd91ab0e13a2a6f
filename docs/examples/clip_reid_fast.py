"""The model of `clip_reid_style.py` with this package's layers: what changes, and that it is equal.

python docs/examples/clip_reid_fast.py
"""

import copy

import clip_reid_style as before
import numpy as np
import torch
from torch.nn import functional as F

from vireid_fast import accelerate, losses, ops, revert
from vireid_fast.retrieval import eval_func

CLASSES, PER_CLASS = 16, 4


def prompt_loss(model, features, labels):
    texts = model.encode_text(labels)  # the model's own method, faster after `accelerate`
    # changed: the loss of the package
    return losses.supervised_contrast(features, texts, labels, labels) + losses.supervised_contrast(
        texts, features, labels, labels
    )


def image_loss(model, images, labels, texts):
    features = model.image_encoder(images)
    logits = model.classifier(model.bottleneck(features))
    return (
        F.cross_entropy(logits, labels, label_smoothing=0.1)
        # changed: distances whose small values do not cancel
        + before.batch_hard_triplet(ops.pairwise_distance(features, features), labels)
        # changed: scores of all texts in blocks
        + losses.image_to_text(features, texts, labels)
    )


def train(model, images, labels, stage_1, stage_2):
    """Some steps of both stages as CLIP-ReID does them; the losses of every step."""
    values = []
    with torch.no_grad():
        stored = model.image_encoder(images)
    optimizer = torch.optim.Adam(model.prompt_learner.parameters(), lr=3e-3)
    for _ in range(4):
        values.append(step(optimizer, stage_1(model, stored, labels)))
    with torch.no_grad():
        texts = model.encode_text(torch.arange(CLASSES))
    rest = [*model.image_encoder.parameters(), *model.bottleneck.parameters(),
            *model.classifier.parameters()]  # fmt: skip
    optimizer = torch.optim.Adam(rest, lr=1e-4)
    for _ in range(4):
        values.append(step(optimizer, stage_2(model, images, labels, texts)))
    return torch.tensor(values, dtype=torch.float64)


def step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def main():
    torch.manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    images = torch.randn(CLASSES, 3, 128, 64)[labels] + torch.randn(len(labels), 3, 128, 64)
    plain = before.ReIdModel(CLASSES).double()
    fast = copy.deepcopy(plain)
    images = images.double()

    print(accelerate(fast))  # changed: this one line

    old = train(plain, images, labels, before.prompt_loss, before.image_loss)
    new = train(fast, images, labels, prompt_loss, image_loss)
    torch.testing.assert_close(new, old, rtol=1e-9, atol=1e-9)
    print("the losses of 8 steps are equal to 1e-9")

    # A checkpoint of one is a checkpoint of the other.
    plain.load_state_dict(fast.state_dict())
    with torch.no_grad():
        found, expected = (model.eval().image_encoder(images) for model in (fast, plain))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    print("the features after them are equal to 1e-9")

    people, cameras = labels.numpy(), np.arange(len(labels)) % PER_CLASS
    distances = torch.cdist(found, found).numpy()
    query = cameras == 0
    who = people[query], people[~query], cameras[query], cameras[~query]
    matrix = distances[np.ix_(query, ~query)]
    old_curve, old_precision = before.eval_func(matrix, *who, max_rank=20)
    curve, precision = eval_func(matrix, *who, max_rank=20)  # changed: the import
    assert np.allclose(curve, old_curve) and abs(precision - old_precision) < 1e-12
    print("CMC and mAP are equal to 1e-12")
    print("as they were again:", *revert(fast))


if __name__ == "__main__":
    main()
