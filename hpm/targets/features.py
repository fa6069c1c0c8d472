"""Features as targets: those of the moving average itself, or of any model that timm has.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, D width, S side of what a network sees.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curriculum import Mask, Teacher
from hpm.errors import UserError
from hpm.runtime.last_call_cache import LastCallCache
from hpm.runtime.precision import full_precision
from hpm.targets.base import Target

if TYPE_CHECKING:
    from hpm.models.base import MaskedModel


class FeatureTarget(Target):
    """Base of the feature targets: a vector for each patch of the full image, of which the direction counts."""

    def __call__(self, images_NCHW: Tensor, mask: Mask, patch_size: int, teacher: Teacher | None = None) -> Tensor:
        with torch.no_grad():
            return mask.gather_masked(self.features(images_NCHW, teacher))

    @abstractmethod
    def features(self, images_NCHW: Tensor, teacher: Teacher | None) -> Tensor:
        """[N, L, D] of the full image."""

    def loss(self, prediction_NMP: Tensor, target_NMP: Tensor) -> Tensor:
        """[N, M]: both sides L2-normalized, squared distance summed over the channels: 2 - 2 times the cosine."""
        sides = (F.normalize(full_precision(side), dim=-1) for side in (prediction_NMP, target_NMP))
        prediction_NMP, target_NMP = sides
        return (prediction_NMP - target_NMP).square().sum(dim=-1)


class TeacherFeatures(FeatureTarget):
    """The features of the moving average itself: the patch tokens of its encoder, of the full image.

    A difficulty that asks the teacher for its features too shares the forward pass.
    """

    needs = ("features",)

    def outputs(self, model: MaskedModel) -> int:
        return model.encoder.num_features

    def features(self, images_NCHW: Tensor, teacher: Teacher | None) -> Tensor:
        assert teacher is not None
        return teacher.features(images_NCHW)


class TimmFeatures(FeatureTarget):
    """The features of a frozen model of timm's: DINO, DINOv2 and v3, CLIP's vision tower, supervised ones, and others.

    The last layer's patch tokens, or the last map of a network without tokens, of the full image, once a step, in
    inference mode and in the training's precision. Where the model's patches are not the student's, its map is
    interpolated (bilinear). Images reach it normalized as it expects them. Its weights are in no checkpoint: a run
    that goes on needs them again.

    Args:
        model: a name of timm's, e.g. "vit_base_patch16_224.dino", "vit_base_patch14_dinov2",
            "vit_base_patch16_clip_224.openai", or "local-dir:FOLDER", which `hpm export` writes.
        checkpoint: a file of the model's weights, safetensors or a state dict; None for timm's own.
        img_size: side of the image that it sees, in pixels, resampled where the student's is another; None for the
            student's, or, where the model's patches do not divide that, the size nearest above that they do divide.
        pretrained: False leaves it at random weights, to compare with.
    """

    def __init__(
        self, *, model: str, checkpoint: str | None = None, img_size: int | None = None, pretrained: bool = True
    ) -> None:
        self.model = model
        self.checkpoint = checkpoint
        self.img_size = img_size
        self.pretrained = pretrained
        if img_size is not None and img_size < 1:
            raise ValueError(f"TimmFeatures.img_size = {img_size} must be at least 1")
        if checkpoint is not None and not pretrained:
            raise ValueError(
                "TimmFeatures.pretrained = False asks for random weights, and TimmFeatures.checkpoint for a file's; "
                "choose one"
            )
        folder = model.removeprefix("local-dir:")
        if folder != model and not Path(folder, "config.json").is_file():
            raise ValueError(f"TimmFeatures.model = {model!r}: {folder} is no folder with a config.json")
        if folder == model and not timm.is_model(model):
            close = timm.list_models(f"{model.split('_')[0]}*")[:5]
            such_as = f", such as {', '.join(close)}" if close else ""
            raise ValueError(
                f"TimmFeatures.model = {model!r} is no model of timm's{such_as}; timm.list_models() has all"
            )
        self._frozen: _Frozen | None = None
        self._answer = LastCallCache()

    def outputs(self, model: MaskedModel) -> int:
        """The width of its features; refuses a grid that cannot be mapped to the student's."""
        try:
            self._frozen = _Frozen(self, student=model)
        except Exception as error:
            raise ValueError(
                f"TimmFeatures.model = {self.model!r} does not fit images of {model.in_chans} channels and "
                f"{self.img_size or model.img_size} pixels: {_line(error)}; set TimmFeatures.img_size to a size that "
                "it takes, or choose another"
            ) from error
        rows, columns = self._frozen.grid
        if min(rows, columns) < 2:
            raise ValueError(
                f"TimmFeatures.model = {self.model!r} gives a map of {rows} x {columns} at {self._frozen.seen} pixels, "
                f"which cannot be mapped to the student's {model.grid[0]} x {model.grid[1]} patches; set a larger "
                "TimmFeatures.img_size, or choose a model of smaller patches"
            )
        return self._frozen.width

    @property
    def num_parameters(self) -> int:
        assert self._frozen is not None  # by `outputs`
        return self._frozen.num_parameters

    def load(self) -> None:
        assert self._frozen is not None  # by `outputs`
        self._frozen.load()

    def prepare(
        self,
        device: torch.device,
        *,
        autocast: torch.dtype | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        assert self._frozen is not None  # by `outputs`
        self._frozen.prepare(autocast, mean, std)
        self._answer.forget()

    def features(self, images_NCHW: Tensor, teacher: Teacher | None) -> Tensor:
        """Float32 [N, L, D] of the full image, on the student's grid."""
        assert self._frozen is not None  # by `outputs`
        return self._answer(images_NCHW, self._frozen)


class _Frozen:
    """The network, for one kind of student; without memory until its weights are loaded.

    Args:
        settings: which.
        student: whose images it sees, and to whose grid its map is brought.

    Attributes:
        seen: S.
        grid: rows and columns of its own map.
        width: D.
    """

    def __init__(self, settings: TimmFeatures, *, student: MaskedModel) -> None:
        self.settings = settings
        self._in_chans = student.in_chans
        self._student_grid = student.grid
        with torch.device("meta"):
            plain: Any = timm.create_model(settings.model, pretrained=False, num_classes=0)
            size = getattr(getattr(plain, "patch_embed", None), "patch_size", None) or 1
            patch = size[0] if isinstance(size, tuple) else size
            self.seen = settings.img_size or -(-student.img_size // patch) * patch
            self._sized = bool(plain.pretrained_cfg.get("fixed_input_size"))
            channels, *_, side = plain.pretrained_cfg["input_size"]
            as_it_is = channels == student.in_chans and (side == self.seen or not self._sized)
            self._network: Any = plain.eval().requires_grad_(False) if as_it_is else self._build()
            _, self.width, *grid = self._map(torch.zeros(1, student.in_chans, self.seen, self.seen)).shape
        self.grid = tuple(grid)
        self._loaded = False
        self._autocast: torch.dtype | None = None
        self._mean: Sequence[float] | None = None
        self._std: Sequence[float] | None = None
        self._scale_2C11: Tensor | None = None

    @property
    def num_parameters(self) -> int:
        """Of the network."""
        return sum(parameter.numel() for parameter in self._network.parameters())

    def _build(self, **more: Any) -> Any:
        sized = {"img_size": self.seen} if self._sized else {}
        settings = {"num_classes": 0, "in_chans": self._in_chans, **sized, **more}
        return timm.create_model(self.settings.model, **settings).eval().requires_grad_(False)

    def _map(self, images_NCSS: Tensor) -> Tensor:
        """[N, D, rows, columns]: the last layer's map, without class and register tokens."""
        out = self._network.forward_features(images_NCSS)
        if out.ndim == 4:
            return out.permute(0, 3, 1, 2) if getattr(self._network, "output_fmt", "NCHW") == "NHWC" else out
        tokens_NLD = out[:, getattr(self._network, "num_prefix_tokens", 0) :]
        rows, columns = self._network.patch_embed.dynamic_feat_size(images_NCSS.shape[-2:])
        return tokens_NLD.transpose(1, 2).unflatten(2, (rows, columns))

    def load(self) -> None:
        """Read the weights.

        Raises:
            UserError: where they cannot be had, or are another model's.
        """
        if self._loaded:
            return
        file, model = self.settings.checkpoint, f"TimmFeatures.model = {self.settings.model!r}"
        if file is not None and not Path(file).is_file():
            raise UserError(f"TimmFeatures.checkpoint = {file!r} is no file; give one of the weights of {model}")
        more = {} if file is None else {"pretrained_cfg_overlay": {"file": file, "source": ""}}
        try:
            with _missing_weights(type(self._network)) as missing:
                network = self._seeded(pretrained=self.settings.pretrained, **more)
        except Exception as error:
            if file is None:
                raise UserError(
                    f"{model} cannot be loaded: {_line(error)}; check the name and the connection, or give a file of "
                    "the weights by TimmFeatures.checkpoint"
                ) from error
            raise UserError(f"TimmFeatures.checkpoint = {file!r} does not fit {model}: {_line(error)}") from error
        if missing:
            others = f", nor {len(missing) - 1} others" if len(missing) > 1 else ""
            where = f"TimmFeatures.checkpoint = {file!r} does not fit {model}: it has" if file else f"{model} has"
            raise UserError(f"{where} no {missing[0]}{others}")
        self._network = network
        self._loaded = True

    def _seeded(self, **more: Any) -> Any:
        """Built from one seed: weights that are not loaded are the same in every process."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.default_generator.manual_seed(0)
            return self._build(**more)

    def prepare(self, autocast: torch.dtype | None, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        """See `Target.prepare`; the network moves to the images when it is first asked."""
        self._autocast = autocast
        self._mean = mean
        self._std = std
        self._scale_2C11 = None

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        if images_NCHW.device.type != "meta" and self._scale_2C11 is None:
            self.load()
            self._network = self._network.to(images_NCHW.device)
            self._scale_2C11 = self._normalization().to(images_NCHW.device)
        with torch.inference_mode():
            images = images_NCHW.float()
            if self._scale_2C11 is not None:
                images = images * self._scale_2C11[0] + self._scale_2C11[1]
            if images.shape[-1] != self.seen:
                images = F.interpolate(images, (self.seen, self.seen), mode="bicubic", antialias=True)
            low = nullcontext() if self._autocast is None else torch.autocast(images.device.type, self._autocast)
            with low:
                map_NDHW = self._map(images)
            map_NDHW = map_NDHW.float()
            if self.grid != self._student_grid:
                smaller = self._student_grid[0] < self.grid[0]
                map_NDHW = F.interpolate(map_NDHW, self._student_grid, mode="bilinear", antialias=smaller)
            return map_NDHW.flatten(2).transpose(1, 2)

    def _normalization(self) -> Tensor:
        """[2, C, 1, 1]: factor and summand that turn the data's normalization into the network's."""
        cfg, channels = self._network.pretrained_cfg, self._in_chans
        mean, std = (_per_channel(cfg[name], channels) for name in ("mean", "std"))
        if self._mean is None or self._std is None:
            return torch.stack([torch.ones_like(mean), torch.zeros_like(mean)]).view(2, channels, 1, 1)
        data_mean, data_std = _per_channel(self._mean, channels), _per_channel(self._std, channels)
        return torch.stack([data_std / std, (data_mean - mean) / std]).view(2, channels, 1, 1)


def _per_channel(values: Sequence[float], channels: int) -> Tensor:
    """[C]; the mean of all where there are others than the images have."""
    found = torch.tensor(list(values), dtype=torch.float32)
    return found if len(found) == channels else found.mean().expand(channels)


@contextmanager
def _missing_weights(kind: type[nn.Module]) -> Iterator[list[str]]:
    """What networks of this class lack when they are loaded: timm is lenient where a head differs, and tells nobody."""
    missing: list[str] = []
    load = kind.load_state_dict

    def noting(self: nn.Module, *arguments: Any, **settings: Any) -> Any:
        found = load(self, *arguments, **settings)
        missing.extend(found.missing_keys)
        return found

    kind.load_state_dict = noting  # type: ignore[method-assign]
    try:
        yield missing
    finally:
        kind.load_state_dict = load  # type: ignore[method-assign]


def _line(error: Exception) -> str:
    """Why, in one line: the first, and the one after it where the first only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
