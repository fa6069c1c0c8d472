"""Difficulties that are learnt: a small network beside the model, with a loss of its own.

The one seam for trained maskers: a `TrainedDifficulty` has a network and says what its loss is, once the model has
reconstructed; the trainer gives it an optimizer, a place in the checkpoint, and averages its gradients over processes.

Shape suffixes: N images, L patches, M masked, W the network's width, G masks that a network proposes.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator, TrainingContext
from curriculum.mask import Mask
from curriculum.noise import Noise
from curriculum.schedulers import Scalar, values_of
from curriculum.teacher import Teacher


class PatchNetwork(nn.Module):
    """A shallow transformer over an image's patches, with a few numbers for each.

    Args:
        in_chans: channels of the images.
        patch_size: side of a patch in pixels.
        num_patches: L.
        width: of the tokens.
        depth: transformer layers.
        outputs: numbers for each patch.
        seed: of the initial weights.
    """

    def __init__(
        self, *, in_chans: int, patch_size: int, num_patches: int, width: int, depth: int, outputs: int, seed: int
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed % 2**63)
            self.embed = nn.Conv2d(in_chans, width, patch_size, stride=patch_size)
            self.positions = nn.Parameter(torch.randn(1, num_patches, width) * 0.02)
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    width,
                    max(1, width // 32),
                    4 * width,
                    dropout=0.0,
                    activation="gelu",
                    batch_first=True,
                    norm_first=True,
                )
                for _ in range(depth)
            )
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, outputs)
            nn.init.normal_(self.head.weight, std=0.02)  # every patch much alike at first
            nn.init.zeros_(self.head.bias)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """[N, L, outputs]."""
        tokens = self.embed(images_NCHW).flatten(2).transpose(1, 2) + self.positions
        for layer in self.layers:
            tokens = layer(tokens)
        return self.head(self.norm(tokens))


class TrainedDifficulty(DifficultyEstimator):
    """Base of the trained maskers.

    Args:
        width: of the network, a multiple of 32.
        depth: its transformer layers.
        lr: learning rate of its AdamW; follows no schedule.
        weight_decay: AdamW's.
        outputs: numbers that the network gives for each patch.
    """

    stateful = True

    def __init__(
        self, *, width: int = 96, depth: int = 1, lr: float = 1e-4, weight_decay: float = 0.0, outputs: int = 1
    ) -> None:
        owner = type(self).__name__
        if width < 32 or width % 32:
            raise ValueError(f"{owner}.width = {width} must be a multiple of 32")
        if depth < 1:
            raise ValueError(f"{owner}.depth = {depth} must be at least 1")
        if lr <= 0 or weight_decay < 0:
            raise ValueError(f"{owner}.lr = {lr} must be positive and {owner}.weight_decay = {weight_decay} at least 0")
        self.width = width
        self.depth = depth
        self.outputs = outputs
        self.lr = float(lr)
        self.weight_decay = float(weight_decay)

    def prepare(self, setting: TrainingContext) -> None:
        """Make the network."""
        network = PatchNetwork(
            in_chans=setting.in_chans,
            patch_size=setting.patch_size,
            num_patches=setting.grid[0] * setting.grid[1],
            width=self.width,
            depth=self.depth,
            outputs=self.outputs,
            seed=setting.seed,
        )
        self.module = network.to(setting.device)

    def outputs_of(self, batch: Batch) -> Tensor:
        """Float32 [N, L, outputs] of the network, with a graph."""
        if self.module is None:
            raise ValueError(f"{type(self).__name__} has no network yet; call Curriculum.prepare first")
        return self.module(batch.images.float()).float()

    @torch.no_grad()
    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        return self.scores(self.outputs_of(batch), noise)

    @abstractmethod
    def scores(self, outputs_NLG: Tensor, noise: Noise) -> Tensor:
        """[N, L]: the difficulty that the network's outputs mean."""

    @abstractmethod
    def loss(self, batch: Batch, mask: Mask, true_NM: Tensor, noise: Noise) -> Tensor:
        """What the network minimizes, a mean over the images; with a graph to its parameters and to nothing else.

        Args:
            batch: the images.
            mask: what was masked of them.
            true_NM: the reconstruction's loss of each masked patch, without a graph.
            noise: the estimator's stream, as when it was asked.
        """


class AdaMAE(TrainedDifficulty):
    """Policy gradient on the reconstruction's loss (AdaMAE, arXiv 2211.09120).

    The network's softmax is the weight with which patches are drawn to be *seen*, so use it with
    `Weighted(draw='visible')` and `Curriculum.polarity = 'easiest'`. Its loss is minus the mean over the masked
    patches of log-probability times loss: what is reconstructed badly is seen more often.

    Args:
        width: of the network, a multiple of 32.
        depth: its transformer layers.
        lr: learning rate of its AdamW.
        weight_decay: AdamW's.
    """

    def __init__(self, *, width: int = 96, depth: int = 1, lr: float = 1e-4, weight_decay: float = 0.0) -> None:
        super().__init__(width=width, depth=depth, lr=lr, weight_decay=weight_decay)

    def scores(self, outputs_NLG: Tensor, noise: Noise) -> Tensor:
        return outputs_NLG.squeeze(2)

    def loss(self, batch: Batch, mask: Mask, true_NM: Tensor, noise: Noise) -> Tensor:
        log_NL = self.outputs_of(batch).squeeze(2).log_softmax(dim=1)
        return -(mask.gather_masked(log_NL) * true_NM).mean()


class _SoftMasks(TrainedDifficulty):
    """Networks that propose soft masks, and whose gradient passes straight through the sampler's choice."""

    reversible = False  # the loss takes it that the highest values are masked

    def soft(self, outputs_NLG: Tensor) -> Tensor:
        """[N, L, G] in (0, 1)."""
        return outputs_NLG.softmax(dim=2) if self.outputs > 1 else outputs_NLG.sigmoid()

    def chosen(self, outputs_NLG: Tensor, noise: Noise) -> Tensor:
        """[N, L]: of each image one of its G soft masks, drawn uniformly."""
        soft_NLG = self.soft(outputs_NLG)
        choice_N = (noise.uniform(1).squeeze(1) * self.outputs).long()
        return soft_NLG.gather(2, choice_N.view(-1, 1, 1).expand(-1, soft_NLG.shape[1], 1)).squeeze(2)

    def scores(self, outputs_NLG: Tensor, noise: Noise) -> Tensor:
        return self.chosen(outputs_NLG, noise)

    def caused(self, soft_NL: Tensor, mask: Mask, true_NM: Tensor) -> Tensor:
        """The mean loss of the masked patches as if the mask were soft: each patch counts by its value.

        Relative to the image's mean loss, so that its scale does not depend on the target.
        """
        weight_NM = mask.gather_masked(soft_NL)
        soft_N = (weight_NM * true_NM).sum(dim=1) / weight_NM.sum(dim=1)
        return (soft_N / true_NM.mean(dim=1).clamp(min=1e-12)).mean()


class ADIOS(_SoftMasks):
    """An adversary that proposes several masks and is trained to raise the reconstruction's loss.

    ADIOS (arXiv 2201.13100) multiplies images with soft masks and trains through them. Here tokens are dropped, which
    has no gradient: the sampler hides the highest values of one of the proposed masks, and the gradient goes straight
    through, as if each patch counted by its value. Its penalty, the mean over masks of 1 / sin(pi * mean value),
    keeps every mask from becoming empty or full.

    Args:
        masks: how many the network proposes; a patch belongs to one of them, softly.
        penalty: weight of the penalty.
        width: of the network, a multiple of 32.
        depth: its transformer layers.
        lr: learning rate of its AdamW.
        weight_decay: AdamW's.
    """

    def __init__(
        self,
        *,
        masks: int = 4,
        penalty: float = 0.1,
        width: int = 96,
        depth: int = 1,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
    ) -> None:
        if masks < 2:
            raise ValueError(f"ADIOS.masks = {masks} must be at least 2")
        if penalty < 0:
            raise ValueError(f"ADIOS.penalty = {penalty} must not be negative")
        super().__init__(width=width, depth=depth, lr=lr, weight_decay=weight_decay, outputs=masks)
        self.penalty = float(penalty)

    def loss(self, batch: Batch, mask: Mask, true_NM: Tensor, noise: Noise) -> Tensor:
        outputs_NLG = self.outputs_of(batch)
        sparsity = (1 / (math.pi * self.soft(outputs_NLG).mean(dim=1)).sin().clamp(min=1e-6)).mean()
        return self.penalty * sparsity - self.caused(self.chosen(outputs_NLG, noise), mask, true_NM)


class CLMAE(_SoftMasks):
    """A mask network that turns from partner to adversary: CL-MAE (arXiv 2308.16572).

    It is trained to lower the reconstruction's loss while `factor` is positive and to raise it once it is negative.
    The penalty holds the mean of its soft mask at the mask ratio. As in `ADIOS` the gradient goes straight through
    the sampler. The paper's network is larger, and has further terms for diversity.

    Args:
        factor: a number or a scheduler; published: from 1 to -1 over training.
        penalty: weight of the squared distance between the soft mask's mean and the mask ratio.
        width: of the network, a multiple of 32.
        depth: its transformer layers.
        lr: learning rate of its AdamW.
        weight_decay: AdamW's.
    """

    def __init__(
        self,
        *,
        factor: Scalar = -1.0,
        penalty: float = 1.0,
        width: int = 96,
        depth: int = 1,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
    ) -> None:
        if any(not -1 <= value <= 1 for value in values_of(factor)):
            raise ValueError(f"CLMAE.factor = {factor} must stay in [-1, 1]: 1 is a partner, -1 an adversary")
        if penalty < 0:
            raise ValueError(f"CLMAE.penalty = {penalty} must not be negative")
        super().__init__(width=width, depth=depth, lr=lr, weight_decay=weight_decay)
        self.factor = factor
        self.penalty = float(penalty)

    def loss(self, batch: Batch, mask: Mask, true_NM: Tensor, noise: Noise) -> Tensor:
        assert isinstance(self.factor, float | int)  # `at` has put the scheduler's value here
        soft_NL = self.chosen(self.outputs_of(batch), noise)
        ratio = mask.num_masked / mask.num_patches
        kept = (soft_NL.mean(dim=1) - ratio).square().mean()
        return self.factor * self.caused(soft_NL, mask, true_NM) + self.penalty * kept
