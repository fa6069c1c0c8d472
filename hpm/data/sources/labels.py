"""Labels as data sets of others give them.

Shape suffixes: K images of the split.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def whole_labels(targets: Any) -> Tensor | None:
    """Int64 [K], where there is one whole number, 0 or more, for each image; else None.

    Args:
        targets: what the data set calls so: numbers, or anything else.
    """
    if targets is None or len(targets) == 0:
        return None
    try:
        labels_K = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        return None
    whole = not labels_K.is_floating_point() and labels_K.ndim == 1 and int(labels_K.min()) >= 0
    return labels_K.long() if whole else None
