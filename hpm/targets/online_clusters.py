"""Clusters of the moving average's features, which are found while the student learns, as targets.

Shape suffixes: N images, C channels, H and W pixels, L patches, D width, P clusters.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curriculum.noise import hash_words
from curriculum.schedulers import Scalar
from curriculum.streams import Stream
from curriculum.validation import require_at_least, require_in, require_positive
from hpm.models.base import MaskedModel
from hpm.models.heads import CosineLinear, Head
from hpm.targets.assignments import Sinkhorn
from hpm.targets.base import TargetTeacher
from hpm.targets.soft_classes import SoftClasses


class OnlineClusters(SoftClasses):
    """Clusters of the moving average's patch tokens, learned beside the student (CAPI, Darcet et al. 2025,
    arXiv 2502.08769).

    A linear layer gives each L2-normalized patch token of the full image P logits. Sinkhorn's balancing over the images
    of a step, for each position of the grid apart, makes assignments of them: the student's target, and what the layer
    itself learns to predict from the token, by a cross-entropy and an AdamW of its own. The student's head gives the
    cosine with each of P prototypes.

    Not as published: the scales of the head's prototypes stay at 1, where they are learned.

    Args:
        clusters: P. Default 16384, as published.
        teacher_temperature: of the assignments, a number or a scheduler of time. Default 0.06, as published.
        student_temperature: of what is predicted, by the student and by the layer itself. Default 0.12, as published
            for both.
        iterations: of Sinkhorn's balancing. Default 3, as published.
        lr_scale: the layer's learning rate, relative to the student's at every step. Default 0.5, as published.
        weight_decay: of its AdamW. Default 0.01, torch's default, which published code leaves as it is.
        betas: likewise. Default (0.9, 0.95), as published.

    Raises:
        ValueError: naming the setting at fault.
    """

    needs = ("features",)
    trained = True
    needs_one_grid = True
    prototypes_name = "clusters"

    def __init__(
        self,
        *,
        clusters: int = 16384,
        teacher_temperature: Scalar = 0.06,
        student_temperature: float = 0.12,
        iterations: int = 3,
        lr_scale: float = 0.5,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        super().__init__(
            prototypes=clusters, teacher_temperature=teacher_temperature, student_temperature=student_temperature
        )
        require_in("OnlineClusters", "[1, 1000]", iterations=iterations)
        require_positive("OnlineClusters", lr_scale=lr_scale)
        require_at_least("OnlineClusters", 0, weight_decay=weight_decay)
        for beta in betas:
            require_in("OnlineClusters", "[0, 1)", betas=beta)
        self.iterations = iterations
        self.lr_scale = float(lr_scale)
        self.weight_decay = float(weight_decay)
        self.betas = betas

    def outputs(self, model: MaskedModel) -> int:
        self.layer = nn.Linear(model.encoder.num_features, self.prototypes)
        self.assignment: Sinkhorn = Sinkhorn(self.prototypes, groups=model.num_patches, iterations=self.iterations)
        self.module: nn.Module = nn.ModuleDict({"layer": self.layer, "sinkhorn": self.assignment})
        return super().outputs(model)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Weights N(0, 1), as published, so that logits of normalized tokens are N(0, 1) too."""
        generator = torch.Generator().manual_seed(hash_words(seed, Stream.CLUSTER_WEIGHTS) % 2**63)
        self.layer.weight.normal_(generator=generator)
        self.layer.bias.zero_()

    def head(self, width: int, outputs: int) -> Head:
        return CosineLinear(width, outputs)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.layer.parameters())

    def optimizer(self, lr: float) -> torch.optim.AdamW:
        groups = [{"params": list(self.layer.parameters()), "lr_scale": self.lr_scale}]
        return torch.optim.AdamW(
            groups, lr=lr * self.lr_scale, betas=self.betas, weight_decay=self.weight_decay, fused=True
        )

    def logits(self, images_NCHW: Tensor, teacher: TargetTeacher) -> Tensor:
        """[N, L, P], with a graph that reaches the layer alone."""
        tokens_NLD = F.normalize(teacher.features(images_NCHW), dim=-1)
        with self._low_precision(tokens_NLD.device):
            return self.layer(tokens_NLD)

    def _low_precision(self, device: torch.device) -> AbstractContextManager[object]:
        """bf16 where the student computes in it; never fp16, whose gradients would need a scale of their own."""
        if device.type == "meta":  # which has no autocast
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16, enabled=self.autocast == torch.bfloat16)
