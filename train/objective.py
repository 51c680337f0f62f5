"""What a network is trained for: the loss of a label, known or in part, and the figures of an epoch."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F


def allowed_classes(label_names: Sequence[str]) -> Tensor:
    """(K + 1, K) bool: the classes that a label of each index allows; the last is PNEUMONIA of unknown subtype."""
    unknown = torch.tensor([name != "NORMAL" for name in label_names])
    return torch.cat([torch.eye(len(label_names), dtype=torch.bool), unknown[None]])


def label_loss(logits: Tensor, allowed: Tensor, smoothing: float = 0.0) -> Tensor:
    """(B,): minus the log of the probability that the classes allowed have together, with label smoothing.

    Args:
        logits: (B, K).
        allowed: (B, K) bool; one class, or BACTERIAL and VIRAL where the subtype is unknown.
        smoothing: the share of the loss that is that of even probabilities.
    """
    log_p = F.log_softmax(logits, dim=1)
    own = log_p.masked_fill(~allowed, -torch.inf).logsumexp(1)
    return -(1 - smoothing) * own - smoothing * log_p.mean(1)


def validation_figures(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Figures of an epoch from logits (N, K), NORMAL first, labels (N,) and groups (N,).

    The loss is the mean over groups (source, NORMAL or not, with text or without), and the accuracy is at even odds:
    no group counts more for being larger.
    """
    log_p = F.log_softmax(torch.from_numpy(logits), dim=1)
    names = ("NORMAL", *map(str, range(1, logits.shape[1])))
    losses = label_loss(log_p, allowed_classes(names)[torch.from_numpy(labels)]).numpy()
    pneumonia = 1 - log_p[:, 0].exp().numpy()
    right = (pneumonia >= 0.5) == (labels != 0)
    members = [groups == group for group in np.unique(groups)]
    return {
        "val_loss": float(np.mean([losses[member].mean() for member in members])),
        "val_accuracy": float(np.mean([right[member].mean() for member in members])),
        "val_worst_group": float(min(right[member].mean() for member in members)),
        "val_auroc": float(roc_auc_score(labels != 0, pneumonia)),
    }
