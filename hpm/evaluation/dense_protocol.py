"""What fine-tuning on annotated pixels and on annotated objects have in common as evaluations.

Shape suffixes: N images of a batch, C channels, S S height and width in pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from curriculum import Batch
from curriculum.noise import hash_words
from curriculum.sizes import Size
from curriculum.streams import Stream
from curriculum.validation import require_at_least, require_choice, require_in, require_positive
from hpm.data import AnnotatedBatch, Annotating, ImageSource, RandomResizedCrop, Split
from hpm.evaluation.augmentation import AugmentingLoader, isolated_rng
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.gallery import Gallery, Panel
from hpm.evaluation.samples import sample_indices
from hpm.evaluation.supervised import SupervisedTraining
from hpm.evaluation.supervised_protocol import PRECISIONS
from hpm.evaluation.trained_encoders import keep_encoder
from hpm.metrics import metric_on
from hpm.models.base import MaskedModel
from hpm.optim.param_groups import head_groups, layer_groups
from hpm.optim.schedule import Schedule
from hpm.runtime.devices import choose_precision


class DenseProtocol(Evaluation):
    """What a network on the student's encoder, and one on its random initialization, make of annotated images.

    Args:
        schedule: how long and how fast; its `owner` is the evaluation's name.
        crop: augmentation, of images and annotations alike.
        layer_decay: factor between the learning rates of neighboring layers of the encoder. From scratch every layer
            has everything to learn, and the factor is 1.
        weight_decay: AdamW's, on weights alone.
        clip_grad: largest norm of the gradient; None for no limit.
        drop_path: stochastic depth of the encoder's last block.
        precision: "auto" is bf16 where a CUDA device has it, else fp32; "bf16" or "fp32".
        num_workers: processes that load images; 0 for none but this one.
        test_images: at most so many test images, and as many validation images; None for all.
        baselines: whether to train from the random initialization too.

    Attributes:
        prefix: what the metrics' names begin with.

    Raises:
        ValueError: naming the setting at fault.
    """

    shared = True
    prefix: ClassVar[str]

    def __init__(
        self,
        *,
        schedule: Schedule,
        crop: RandomResizedCrop,
        layer_decay: float,
        weight_decay: float,
        clip_grad: float | None,
        drop_path: float,
        precision: str,
        num_workers: int,
        test_images: int | None,
        baselines: bool,
    ) -> None:
        owner = type(self).__name__
        require_positive(owner, blr=schedule.blr, clip_grad=clip_grad)
        require_in(owner, "(0, 1]", layer_decay=layer_decay)
        require_in(owner, "[0, 1)", drop_path=drop_path)
        require_at_least(owner, 0, weight_decay=weight_decay)
        require_choice(owner, PRECISIONS, precision=precision)
        require_in(owner, "[0, 1024]", num_workers=num_workers)
        require_at_least(owner, 1, test_images=test_images)
        self.schedule = schedule
        self.crop = crop
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.clip_grad = clip_grad
        self.drop_path = drop_path
        self.precision = precision
        self.num_workers = num_workers
        self.test_images = test_images
        self.baselines = baselines
        self.check_world_size(1)

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        super().check(source, model)
        self.schedule.clock(len(source.train()))

    def check_world_size(self, world_size: int) -> None:
        self.schedule.micro_batch_size(world_size)

    @abstractmethod
    def num_classes(self, source: ImageSource) -> int:
        """How many classes the network tells apart, of what the data know."""

    @abstractmethod
    def network(self, model: MaskedModel, num_classes: int) -> nn.Module:
        """The network that is trained, whose `encoder` has timm's model as its `network`. Its head is random.

        Args:
            model: whose encoder it begins with.
            num_classes: that it tells apart.
        """

    @abstractmethod
    def parts(self, network: nn.Module, images_1CSS: Tensor) -> dict[str, Callable[[], Any]]:
        """What computes a training step's forward pass of one image, by what it is called: for counting operations.

        Args:
            network: as `network` made it, on any device.
            images_1CSS: one image, on the same.
        """

    @abstractmethod
    def annotating(self, split: Split, size: Size) -> Annotating:
        """What gives that which `loss` learns from, in the processes that load training images.

        Args:
            split: the training images.
            size: of the crops in pixels, S for squares or (height, width).
        """

    @abstractmethod
    def loss(self, network: nn.Module, batch: AnnotatedBatch, precision: str) -> Tensor:
        """The mean loss of a micro-batch.

        Args:
            network: as `network` made it.
            batch: training images with what `annotating` gives.
            precision: "bf16" or "fp32".
        """

    @abstractmethod
    def measure_split(
        self, context: EvaluationContext, network: nn.Module, name: str, split_name: str, precision: str, *, show: bool
    ) -> dict[str, float]:
        """What a trained network makes of a held-out split: metrics by what stands behind the network's name.

        The context's processes share the work, and the main one gives the metrics, the others none.

        Args:
            context: gives images and annotations.
            network: as it was trained.
            name: of the network, "pretrained" or "scratch".
            split_name: "validation" or "test".
            precision: "bf16" or "fp32".
            show: whether to add a panel of this network to the protocol's gallery, see `add_panel`.
        """

    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        precision = choose_precision(self.precision, context.device)
        metrics: dict[str, float] = {}
        for name, model in self._models(context):
            training = self._start(context, name, model, precision)
            training.run()
            network: Any = training.trained.eval()
            keep_encoder(context, f"{self.protocol}-{name}", network.encoder.network)
            shown = list(context.held_out)[-1]
            for split_name in context.held_out:
                measured = self.measure_split(context, network, name, split_name, precision, show=split_name == shown)
                for what, value in measured.items():
                    metrics[metric_on(split_name, f"{self.prefix}/{name}{what}")] = value
        return metrics

    def add_panel(
        self,
        context: EvaluationContext,
        panel: Panel,
        start: Callable[[], tuple[str, Panel]],
        shown_on: Split,
        rows: Tensor,
    ) -> None:
        """Add what a network made of some images to the protocol's gallery, which the first one begins.

        Args:
            context: has the galleries.
            panel: the network's.
            start: gives the gallery's title, and the panel of what is annotated.
            shown_on: the images' split.
            rows: which of its images are shown, int64.
        """
        if self.protocol in context.galleries and panel.title.startswith("scratch"):
            context.galleries[self.protocol] = context.galleries[self.protocol].beside(panel)
            return
        title, truth = start()
        pixels = context.source.denormalize(context.source.load(shown_on, rows))
        context.galleries[self.protocol] = Gallery(title, pixels, context.model.grid, (truth, panel))

    def scored(self, split: Split) -> Tensor:
        """Which images of a held-out split are looked at, int64."""
        return sample_indices(self.test_images, len(split))

    def _models(self, context: EvaluationContext) -> Iterator[tuple[str, MaskedModel]]:
        yield "pretrained", context.model
        if self.baselines:
            yield "scratch", context.initial()

    def _start(self, context: EvaluationContext, name: str, model: MaskedModel, precision: str) -> SupervisedTraining:
        # The same first weights of everything but the encoder for both networks, and in every process.
        with isolated_rng(hash_words(context.seed, Stream.DENSE_HEAD)):
            network: Any = self.network(model, self.num_classes(context.source))
        network.to(context.device).train()
        if context.processes.world_size > 1 and context.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        encoder = network.encoder.network
        groups = layer_groups(
            encoder,
            lr=1.0,
            layer_decay=self.layer_decay if name == "pretrained" else 1.0,
            weight_decay=self.weight_decay,
        )
        own = {id(parameter) for parameter in encoder.parameters()}
        rest = [parameter for parameter in network.parameters() if id(parameter) not in own]

        def loss_of(batch: Batch) -> Tensor:
            assert isinstance(batch, AnnotatedBatch)
            return self.loss(network, batch, precision)

        return SupervisedTraining(
            network,
            torch.optim.AdamW([*groups, *head_groups(rest, weight_decay=self.weight_decay)], fused=True),
            loss_of,
            AugmentingLoader(
                source=context.source,
                transform=None,
                seed=context.seed,
                batch_size=self.schedule.batch_size,
                patch_size=model.patch_size,
                crop=self.crop,
                num_workers=self.num_workers,
                accumulate=self.schedule.accumulate,
                device=context.device,
                processes=context.processes,
                unreadable=context.unreadable,
                annotate=self.annotating(context.source.train(), context.source.img_size),
            ),
            self.schedule,
            context,
            name=f"{self.protocol}-{name}",
            remedy=self._remedy(precision),
            logits_with=lambda trained, images_NCSS: trained(images_NCSS),
            clip_grad=self.clip_grad,
        )

    def _remedy(self, precision: str) -> str:
        owner = type(self).__name__
        advice = [f"Lower {owner}.blr"]
        if precision != "fp32":
            advice.append(f"set {owner}.precision = 'fp32'")
        if self.clip_grad is None:
            advice.append(f"set {owner}.clip_grad = 1.0")
        return ", or ".join(advice) + "."
