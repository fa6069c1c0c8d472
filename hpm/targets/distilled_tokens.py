"""The moving average's own classes of patches as targets: self-distillation, with an online tokenizer.

Shape suffixes: N images, C channels, H and W pixels, L patches, P prototypes.
"""

from __future__ import annotations

from torch import Tensor, nn

from curriculum.schedulers import Scalar
from curriculum.validation import require_choice, require_in
from hpm.models.base import MaskedModel
from hpm.models.heads import Head, ProjectionHead
from hpm.targets.assignments import Assignment, Centering, Sinkhorn
from hpm.targets.base import TargetTeacher
from hpm.targets.soft_classes import SoftClasses

ASSIGNMENTS = ("centering", "sinkhorn")


class DistilledTokens(SoftClasses):
    """What the moving average, head and all, makes of each patch of the full image (iBOT, Zhou et al. 2022,
    arXiv 2111.07832).

    The student's head is DINO's: an MLP of three layers, and the cosine with each of P prototypes. The average's
    outputs for the patches that it sees, centered or balanced, are the distributions that the student's must match
    where the patches are masked. The head therefore has to read the encoder's tokens: `SimMIM`.

    Not as published: there are no two views of an image, and so neither the loss between their class tokens (DINO's)
    nor colors that are changed; the head is of patches alone; and the last layer learns from the first step on, where
    it is frozen for an epoch. Sinkhorn's balancing in the place of centering is DINOv2's (arXiv 2304.07193), over all
    patches of a step's images, where it is over the masked ones there.

    Args:
        prototypes: P. Default 8192, as published.
        hidden: width of the head's first two layers. Default 2048, as published.
        bottleneck: width of the third. Default 256, as published.
        teacher_temperature: of the average's distributions, a number or a scheduler of time. Default 0.07; published:
            rising to it from 0.04 in the first 30 epochs.
        student_temperature: of the student's. Default 0.1, as published.
        assignment: "centering", as published, or "sinkhorn".
        center_momentum: of "centering", how much of the center stays at each step, in [0, 1). Default None: 0.9, as
            published.
        iterations: of "sinkhorn". Default None: 3, as in DINOv2.

    Raises:
        ValueError: naming the setting at fault.
    """

    needs = ("head_outputs",)

    def __init__(
        self,
        *,
        prototypes: int = 8192,
        hidden: int = 2048,
        bottleneck: int = 256,
        teacher_temperature: Scalar = 0.07,
        student_temperature: float = 0.1,
        assignment: str = "centering",
        center_momentum: float | None = None,
        iterations: int | None = None,
    ) -> None:
        super().__init__(
            prototypes=prototypes, teacher_temperature=teacher_temperature, student_temperature=student_temperature
        )
        require_in("DistilledTokens", "[1, 65536]", hidden=hidden, bottleneck=bottleneck)
        require_choice("DistilledTokens", ASSIGNMENTS, assignment=assignment)
        others = {"centering": ("iterations", iterations), "sinkhorn": ("center_momentum", center_momentum)}
        name, value = others[assignment]
        if value is not None:
            raise ValueError(
                f"DistilledTokens.{name} = {value} does nothing where DistilledTokens.assignment = {assignment!r}; "
                "leave it at None"
            )
        self.hidden = hidden
        self.bottleneck = bottleneck
        self.balances = assignment == "sinkhorn"
        self.center_momentum = 0.9 if center_momentum is None else float(center_momentum)
        self.iterations = 3 if iterations is None else iterations
        require_in("DistilledTokens", "[0, 1)", center_momentum=self.center_momentum)
        require_in("DistilledTokens", "[1, 1000]", iterations=self.iterations)

    @property
    def kind(self) -> str:
        return f"{super().kind} by layers of {self.hidden} and {self.bottleneck}"

    def outputs(self, model: MaskedModel) -> int:
        self.assignment: Assignment = (
            Sinkhorn(self.prototypes, groups=1, iterations=self.iterations)
            if self.balances
            else Centering(self.prototypes, momentum=self.center_momentum)
        )
        self.module: nn.Module = self.assignment
        return super().outputs(model)

    def head(self, width: int, outputs: int) -> Head:
        return ProjectionHead(width, hidden=self.hidden, bottleneck=self.bottleneck, outputs=outputs)

    def logits(self, images_NCHW: Tensor, teacher: TargetTeacher) -> Tensor:
        return teacher.head_outputs(images_NCHW)
