"""Optimization: AdamW's settings, and what happens to gradients that are large or not finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from curriculum.validation import require_at_least, require_in


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """AdamW, and what happens to gradients that are large or not finite.

    Args:
        weight_decay: AdamW's, on parameters of two or more dimensions.
        betas: AdamW's.
        clip_grad: largest norm of the gradient; None for no limit.
        max_skipped: steps in a row that may be skipped because their gradient is not finite.

    Raises:
        ValueError: naming the setting at fault.
    """

    resume_free: ClassVar[frozenset[str]] = frozenset({"max_skipped"})

    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip_grad: float | None = None
    max_skipped: int = 20

    def __post_init__(self) -> None:
        require_at_least("Optimization", 0, weight_decay=self.weight_decay)
        require_in("Optimization", "[0, 1)", **{f"betas[{place}]": beta for place, beta in enumerate(self.betas)})
        if self.clip_grad is not None and not self.clip_grad > 0:
            raise ValueError(f"Optimization.clip_grad = {self.clip_grad} must be positive; None for no limit")
        require_at_least("Optimization", 1, max_skipped=self.max_skipped)
