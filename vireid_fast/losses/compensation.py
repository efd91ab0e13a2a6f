"""CLIP-MC's own losses. They are ours: of the paper, the abstract alone is public."""

import torch.nn.functional as F
from torch import Tensor

from vireid_fast._checks import require, require_shape
from vireid_fast.losses.contrast import supervised_contrast
from vireid_fast.losses.precision import at_least_float32, common_precision


def compensation_contrast(
    visible_images: Tensor,
    infrared_images: Tensor,
    missing_infrared: Tensor,
    missing_visible: Tensor,
    visible_labels: Tensor,
    infrared_labels: Tensor,
    temperature: float = 0.07,
) -> Tensor:
    """Descriptions of the missing modality against real images of it.

    L = 1/2 (S(t_R(x_V) -> stop(p_R)) + S(t_V(x_R) -> stop(p_V))), with S the supervised contrast
    of L2-normalised rows. No gradient reaches the images, so that real features do not collapse
    onto compensated ones.

    Args:
        visible_images: p of visible images. Shape (A, d).
        infrared_images: p of infrared images. Shape (B, d).
        missing_infrared: Visible images described in the infrared context. Shape (A, d).
        missing_visible: Infrared images described in the visible context. Shape (B, d).
        visible_labels: Shape (A,), int64.
        infrared_labels: Shape (B,), int64, the same identities.
        temperature: Divisor of the cosines.

    Returns:
        Scalar, float64 for float64 features, else float32.
    """
    what = "compensation_contrast"
    require_shape(what, "missing_infrared", missing_infrared, tuple(visible_images.shape))
    require_shape(what, "missing_visible", missing_visible, tuple(infrared_images.shape))
    of_visible = _cosine_contrast(
        what, missing_infrared, infrared_images.detach(), visible_labels, infrared_labels,
        temperature,
    )  # fmt: skip
    of_infrared = _cosine_contrast(
        what, missing_visible, visible_images.detach(), infrared_labels, visible_labels,
        temperature,
    )  # fmt: skip
    return 0.5 * (of_visible + of_infrared)


def token_alignment(
    instance: Tensor, projected: Tensor, labels: Tensor, temperature: float = 0.07
) -> Tensor:
    """Instance tokens against image features: S(s(x_i) -> p_j : y_j = y_i), rows L2-normalised.

    Args:
        instance: Tokens of each image, averaged and mapped to the space of p. Shape (B, d).
        projected: p. Shape (B, d).
        labels: Shape (B,), int64.
        temperature: Divisor of the cosines.

    Returns:
        Scalar, float64 for float64 features, else float32.
    """
    require_shape("token_alignment", "instance", instance, tuple(projected.shape))
    return _cosine_contrast("token_alignment", instance, projected, labels, labels, temperature)


def context_separation(
    visible_texts: Tensor, infrared_texts: Tensor, margin: float = 0.2
) -> Tensor:
    """Hinge that keeps the two contexts different: [cos(mean(t_V), mean(t_R)) - margin]_+.

    Args:
        visible_texts: Descriptions in the visible context. Shape (A, d).
        infrared_texts: Descriptions in the infrared context, best of the same images, so that the
            means differ by the context alone. Shape (B, d).
        margin: Cosine up to which the loss is 0.

    Returns:
        Scalar, float64 for float64 features, else float32.
    """
    require_shape("context_separation", "visible_texts", visible_texts, ("A", "d"))
    require_shape("context_separation", "infrared_texts", infrared_texts,
                  ("B", visible_texts.shape[1]))  # fmt: skip
    first, second = common_precision(visible_texts, infrared_texts)
    return F.relu(F.cosine_similarity(first.mean(dim=0), second.mean(dim=0), dim=0) - margin)


def _cosine_contrast(
    what: str,
    anchors: Tensor,
    others: Tensor,
    anchor_labels: Tensor,
    other_labels: Tensor,
    temperature: float,
) -> Tensor:
    require(temperature > 0, what, "temperature", "be positive", temperature)
    require_shape(what, "labels", anchor_labels, (len(anchors),))
    require_shape(what, "labels", other_labels, (len(others),))
    first, second = (F.normalize(at_least_float32(x)) for x in (anchors, others))
    return supervised_contrast(first, second, anchor_labels, other_labels, temperature)
