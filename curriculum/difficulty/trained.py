"""Difficulties that are trained: a small network beside the model, with a loss of its own.

Trained maskers connect to a trainer here alone: a `TrainedDifficulty` has a network and computes its loss once the
model has reconstructed; the trainer gives it an optimizer and a place in the checkpoint, and averages its gradients
over processes.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, G masks that a network proposes.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator, TrainingContext
from curriculum.mask import Mask
from curriculum.noise import Noise, hash_words
from curriculum.schedulers import Scalar, values_of
from curriculum.sizes import Size
from curriculum.streams import Stream
from curriculum.teacher import Teacher
from curriculum.validation import require_at_least, require_in, require_positive


class PatchNetwork(nn.Module):
    """A shallow transformer over an image's patches, with a few outputs for each.

    Args:
        in_chans: channels of the images.
        patch_size: of a patch in pixels, the side of a square or (height, width).
        num_patches: L.
        width: width of the tokens.
        depth: number of transformer layers.
        outputs: number of outputs for each patch.
        seed: the run's seed, which decides the initial weights.
    """

    def __init__(
        self, *, in_chans: int, patch_size: Size, num_patches: int, width: int, depth: int, outputs: int, seed: int
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(hash_words(seed, Stream.MASKER_WEIGHTS) % 2**63)
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
        """Return the outputs for each patch, [N, L, outputs]."""
        tokens = self.embed(images_NCHW).flatten(2).transpose(1, 2) + self.positions
        for layer in self.layers:
            tokens = layer(tokens)
        return self.head(self.norm(tokens))


class TrainedDifficulty(DifficultyEstimator):
    """Base of the trained maskers.

    Args:
        width: width of the network, a multiple of 32. Default 96.
        depth: number of its transformer layers. Default 1.
        lr: learning rate of its AdamW, constant over training. Default 1e-4.
        weight_decay: weight decay of its AdamW. Default 0.
        outputs: number of outputs that the network has for each patch. Default 1.
    """

    stateful = True
    outermost = True

    def __init__(
        self, *, width: int = 96, depth: int = 1, lr: float = 1e-4, weight_decay: float = 0.0, outputs: int = 1
    ) -> None:
        owner = type(self).__name__
        if width % 32:
            raise ValueError(f"{owner}.width = {width} must be a multiple of 32")
        require_in(owner, "[32, 65536]", width=width)
        require_in(owner, "[1, 1000]", depth=depth)
        require_positive(owner, lr=lr)
        require_at_least(owner, 0, weight_decay=weight_decay)
        self.width = width
        self.depth = depth
        self.outputs = outputs
        self.lr = float(lr)
        self.weight_decay = float(weight_decay)

    def prepare(self, context: TrainingContext) -> None:
        """Make the network."""
        network = PatchNetwork(
            in_chans=context.in_chans,
            patch_size=context.patch_size,
            num_patches=context.grid[0] * context.grid[1],
            width=self.width,
            depth=self.depth,
            outputs=self.outputs,
            seed=context.seed,
        )
        self.module = network.to(context.device)

    def outputs_of(self, batch: Batch) -> Tensor:
        """Return what the network gives for each patch, float32 [N, L, outputs], with a graph."""
        if self.module is None:
            raise ValueError(f"{type(self).__name__} has no network yet; call Curriculum.prepare first")
        return self.module(batch.images.float()).float()

    @torch.no_grad()
    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        return self.scores(self.outputs_of(batch), noise)

    @abstractmethod
    def scores(self, outputs_NLG: Tensor, noise: Noise) -> Tensor:
        """Return the difficulty of each patch, [N, L], that the network's outputs stand for."""

    @abstractmethod
    def loss(self, batch: Batch, mask: Mask, true_NM: Tensor, noise: Noise) -> Tensor:
        """Compute what the network minimizes, a mean over the images; its graph reaches the network alone.

        Args:
            batch: the images.
            mask: the mask that was drawn for them.
            true_NM: the reconstruction loss of each masked patch, without a graph.
            noise: the same noise that the batch was scored with.
        """


class AdaMAE(TrainedDifficulty):
    """Trains a network by policy gradient on the reconstruction loss (AdaMAE, arXiv 2211.09120).

    The network's softmax is the weight with which patches are drawn to be *seen*, so use it with
    `Weighted(draw='visible')` and `Curriculum.polarity = 'easiest'`. Its loss is minus the mean over the masked
    patches of log-probability times loss: what is reconstructed badly is seen more often.

    AdaMAE was made for videos, at a mask ratio of 0.95. Its network reads the model's own patch embeddings, and its
    loss is a part of the model's with a weight of 1e-4, so that one optimizer trains both. Here the network has patch
    embeddings and an optimizer of its own, to which a weight of its loss would mean nothing.

    Args:
        width: width of the network, a multiple of 32. Default 96.
        depth: number of its transformer layers. Default 1.
        lr: learning rate of its AdamW, constant over training. Default 1e-4.
        weight_decay: weight decay of its AdamW. Default 0.
    """

    def __init__(self, *, width: int = 96, depth: int = 1, lr: float = 1e-4, weight_decay: float = 0.0) -> None:
        super().__init__(width=width, depth=depth, lr=lr, weight_decay=weight_decay)

    def scores(self, outputs_NLG: Tensor, noise: Noise) -> Tensor:
        return outputs_NLG.squeeze(2)

    def loss(self, batch: Batch, mask: Mask, true_NM: Tensor, noise: Noise) -> Tensor:
        log_NL = self.outputs_of(batch).squeeze(2).log_softmax(dim=1)
        return -(mask.gather_masked(log_NL) * true_NM).mean()


class _SoftMasks(TrainedDifficulty):
    """Base of the networks that propose soft masks, and whose gradient passes straight through the sampler's choice."""

    reversible = False  # the loss assumes that the highest values are masked

    def soft(self, outputs_NLG: Tensor) -> Tensor:
        """Turn outputs into G soft masks, [N, L, G] in (0, 1)."""
        return outputs_NLG.softmax(dim=2) if self.outputs > 1 else outputs_NLG.sigmoid()

    def chosen(self, outputs_NLG: Tensor, noise: Noise) -> Tensor:
        """Choose one of the G soft masks of each image uniformly, [N, L]."""
        soft_NLG = self.soft(outputs_NLG)
        choice_N = (noise.fold(Stream.SOFT_MASK_CHOICE).uniform(1).squeeze(1) * self.outputs).long()
        return soft_NLG.gather(2, choice_N.view(-1, 1, 1).expand(-1, soft_NLG.shape[1], 1)).squeeze(2)

    def scores(self, outputs_NLG: Tensor, noise: Noise) -> Tensor:
        return self.chosen(outputs_NLG, noise)

    def caused(self, soft_NL: Tensor, mask: Mask, true_NM: Tensor) -> Tensor:
        """Compute the mean loss of the masked patches, each weighted by its value in the soft mask.

        It is relative to the image's mean loss, so that its scale does not depend on the target.
        """
        weight_NM = mask.gather_masked(soft_NL)
        soft_N = (weight_NM * true_NM).sum(dim=1) / weight_NM.sum(dim=1)
        return (soft_N / true_NM.mean(dim=1).clamp(min=1e-12)).mean()


class ADIOS(_SoftMasks):
    """Trains an adversary that proposes several masks to raise the reconstruction loss.

    ADIOS (arXiv 2201.13100) multiplies images with soft masks and trains through them. Here tokens are dropped, which
    has no gradient: the sampler hides the highest values of one of the proposed masks, and the gradient goes straight
    through, as if each patch counted by its value. Its penalty, the mean over masks of 1 / sin(pi * mean value),
    keeps every mask from becoming empty or full.

    ADIOS applies all of its masks in each step, each with a penalty of its own, and its network, a U-Net on pixels,
    raises a contrastive loss (SimCLR, BYOL, SimSiam). Here one of the masks is drawn for each image, the network is a
    small transformer on patches, and the loss is the reconstruction's.

    Args:
        masks: how many masks the network proposes; a softmax over them divides each patch among them. Default 4;
            published: 6.
        penalty: weight of the penalty. Default 0.1; published: about 0.9 for each mask.
        width: width of the network, a multiple of 32. Default 96.
        depth: number of its transformer layers. Default 1.
        lr: learning rate of its AdamW, constant over training. Default 1e-4.
        weight_decay: weight decay of its AdamW. Default 0.
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
        require_in("ADIOS", "[2, 1000]", masks=masks)
        require_at_least("ADIOS", 0, penalty=penalty)
        super().__init__(width=width, depth=depth, lr=lr, weight_decay=weight_decay, outputs=masks)
        self.penalty = float(penalty)

    def loss(self, batch: Batch, mask: Mask, true_NM: Tensor, noise: Noise) -> Tensor:
        outputs_NLG = self.outputs_of(batch)
        sparsity = (1 / (math.pi * self.soft(outputs_NLG).mean(dim=1)).sin().clamp(min=1e-6)).mean()
        return self.penalty * sparsity - self.caused(self.chosen(outputs_NLG, noise), mask, true_NM)


class CLMAE(_SoftMasks):
    """Trains a mask network that turns from partner to adversary: CL-MAE (arXiv 2308.16572).

    It is trained to lower the reconstruction loss while `factor` is positive and to raise it once it is negative.
    The penalty holds the mean of its soft mask at the mask ratio. As in `ADIOS` the gradient goes straight through
    the sampler.

    CL-MAE multiplies the tokens by the soft mask in a pass of its own and trains through them. In the penalty's place
    it has three losses: one that drives the values to 0 and 1 (Gauss, weight 1.0), one that makes the masks of a batch
    differ (diversity, 2.0) and one that holds the mask ratio (KL divergence, 0.1). Its network has five layers and
    reads the model's patch embeddings.

    Args:
        factor: a number in [-1, 1], or a scheduler of it; published: from 1 to -1 over training. Default -1.
        penalty: weight of the squared distance between the soft mask's mean and the mask ratio. Default 1.
        width: width of the network, a multiple of 32. Default 96.
        depth: number of its transformer layers. Default 1.
        lr: learning rate of its AdamW, constant over training. Default 1e-4.
        weight_decay: weight decay of its AdamW. Default 0.
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
        for value in values_of(factor):
            require_in("CLMAE", "[-1, 1]", factor=value)
        require_at_least("CLMAE", 0, penalty=penalty)
        super().__init__(width=width, depth=depth, lr=lr, weight_decay=weight_decay)
        self.factor = factor
        self.penalty = float(penalty)

    def loss(self, batch: Batch, mask: Mask, true_NM: Tensor, noise: Noise) -> Tensor:
        assert isinstance(self.factor, float | int)  # `at` has put the scheduler's value here
        soft_NL = self.chosen(self.outputs_of(batch), noise)
        ratio = mask.num_masked / mask.num_patches
        kept = (soft_NL.mean(dim=1) - ratio).square().mean()
        return self.factor * self.caused(soft_NL, mask, true_NM) + self.penalty * kept
