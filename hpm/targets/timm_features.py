"""Features of any model that timm has as targets.

Shape suffixes: N images, C channels, H and W pixels, L patches, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor

from curriculum import Teacher
from curriculum.sizes import Size, as_size, spell_size
from hpm.models.base import MaskedModel
from hpm.runtime.files import expanded
from hpm.runtime.last_call_cache import LastCallCache
from hpm.targets.features import FeatureTarget
from hpm.targets.frozen_network import FrozenNetwork, reason_of

_LOCAL = "local-dir:"


class TimmFeatures(FeatureTarget):
    """The features of a frozen model of timm's: DINO, DINOv2 and v3, CLIP's vision tower, supervised ones, and others.

    The last layer's patch tokens, or the last map of a network without tokens, of the full image, once a step, in
    inference mode and in the training's precision. Where the model's patches are not the student's, its map is
    interpolated (bilinear). Images reach it normalized as it expects them. Its weights are in no checkpoint: a run
    that goes on needs them again.

    Args:
        model: a name of timm's, e.g. "vit_base_patch16_224.dino", "vit_base_patch14_dinov2",
            "vit_base_patch16_clip_224.openai", or "local-dir:FOLDER", which `hpm export` writes.
        checkpoint: what names the model's weights, a file that timm reads or a trained model whose encoder it is; None
            for timm's own.
        img_size: of the image that it sees in pixels, the side of a square or (height, width), resampled where the
            student's is another; None for the
            student's, or, where the model's patches do not divide that, the size nearest above that they do divide.
        pretrained: False leaves it at random weights, to compare with.
    """

    def __init__(
        self, *, model: str, checkpoint: str | None = None, img_size: Size | None = None, pretrained: bool = True
    ) -> None:
        if model.startswith(_LOCAL):
            model = f"{_LOCAL}{expanded(model.removeprefix(_LOCAL))}"
        self.model = model
        self.checkpoint = checkpoint
        self.img_size = None if img_size is None else as_size("TimmFeatures", 1, img_size=img_size)
        self.pretrained = pretrained
        if checkpoint is not None and not pretrained:
            raise ValueError(
                "TimmFeatures.pretrained = False asks for random weights, and TimmFeatures.checkpoint for a file's; "
                "choose one"
            )
        _require_model(model)
        self._frozen: FrozenNetwork | None = None
        self._answer = LastCallCache()

    def outputs(self, model: MaskedModel) -> int:
        """The width of its features; refuses a grid that cannot be mapped to the student's."""
        try:
            self._frozen = FrozenNetwork(
                self.model,
                student=model,
                img_size=self.img_size,
                checkpoint=self.checkpoint,
                pretrained=self.pretrained,
            )
        except Exception as error:
            size = spell_size(self.img_size or model.img_size)
            raise ValueError(
                f"TimmFeatures.model = {self.model!r} does not fit images of {model.in_chans} channels and "
                f"{size} pixels: {reason_of(error)}; set TimmFeatures.img_size to a size "
                "that it takes, or choose another"
            ) from error
        rows, columns = self._frozen.grid
        if min(rows, columns) < 2:
            raise ValueError(
                f"TimmFeatures.model = {self.model!r} gives a map of {rows} x {columns} at "
                f"{spell_size(self._frozen.img_size)} pixels, "
                f"which cannot be mapped to the student's {model.grid[0]} x {model.grid[1]} patches; set a larger "
                "TimmFeatures.img_size, or choose a model of smaller patches"
            )
        return self._frozen.width

    @property
    def network(self) -> FrozenNetwork:
        """The frozen network; there is one once `outputs` was asked."""
        assert self._frozen is not None
        return self._frozen

    @property
    def num_parameters(self) -> int:
        return self.network.num_parameters

    def load(self) -> None:
        self.network.load()

    def frozen_weights(self) -> Mapping[str, Tensor]:
        self.load()
        return self.network.network.state_dict()

    def prepare(
        self,
        device: torch.device,
        *,
        autocast: torch.dtype | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self.network.prepare(autocast, mean, std)
        self._answer.forget()

    def features(self, images_NCHW: Tensor, teacher: Teacher | None) -> Tensor:
        """Float32 [N, L, D] of the full image, on the student's grid."""
        return self._answer(images_NCHW, self.network)


def _require_model(model: str) -> None:
    """Refuse what is neither a model of timm's nor a folder that holds one.

    Raises:
        ValueError: naming the setting, and models with similar names.
    """
    folder = model.removeprefix(_LOCAL)
    if folder != model:
        if not Path(folder, "config.json").is_file():
            raise ValueError(f"TimmFeatures.model = {model!r}: {folder} is not a folder with a config.json")
        return
    if not timm.is_model(model):
        close = timm.list_models(f"{model.split('_')[0]}*")[:5]
        such_as = f", such as {', '.join(close)}" if close else ""
        raise ValueError(
            f"TimmFeatures.model = {model!r} is not a model of timm's{such_as}; timm.list_models() has all"
        )
