"""A frozen network of timm's, and its last map of features on a student's grid.

Shape suffixes: N images, C channels, H and W pixels, L patches, D width, S S height and width of what the
network sees.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curriculum.sizes import Size, as_size, pair
from hpm.errors import UserError
from hpm.models.architecture import grid_of
from hpm.models.base import MaskedModel
from hpm.models.patches import patch_grid, resample_positions
from hpm.models.weight_files import check_inflation
from hpm.runtime.files import expanded
from hpm.runtime.finite import not_finite, subject
from hpm.targets.find_model import encoder_weights


class FrozenNetwork:
    """A network of timm's for one kind of student; without memory until its weights are loaded.

    Args:
        model: a name of timm's, or "local-dir:FOLDER".
        student: whose images it sees, and to whose patches its map is brought.
        img_size: of the image that it sees in pixels, the side of a square or (height, width); None for the student's,
            or the next larger one that its patches divide.
        checkpoint: what names its weights, a file or a trained model; None for timm's own.
        pretrained: False leaves it at random weights.

    Attributes:
        network: timm's; on the meta device until its weights are loaded.
        img_size: of what it sees.
        grid: rows and columns of its own map.
        width: D.

    Raises:
        Exception: whatever timm raises where the network does not take such images.
    """

    def __init__(
        self, model: str, *, student: MaskedModel, img_size: Size | None, checkpoint: str | None, pretrained: bool
    ) -> None:
        self.model = model
        self.checkpoint = None if checkpoint is None else str(expanded(checkpoint))
        self.pretrained = pretrained
        self._in_chans = student.in_chans
        self._student_patch = student.patch_size
        with torch.device("meta"):
            plain: Any = timm.create_model(model, pretrained=False, num_classes=0)
            patches = pair(getattr(getattr(plain, "patch_embed", None), "patch_size", None) or 1)
            rows, columns = (
                -(-side // patch) * patch for side, patch in zip(pair(student.img_size), patches, strict=True)
            )
            self.img_size = img_size or as_size("FrozenNetwork", 1, img_size=(rows, columns))
            self._sized = bool(plain.pretrained_cfg.get("fixed_input_size"))
            channels, *usual = plain.pretrained_cfg["input_size"]
            as_it_is = channels == student.in_chans and (tuple(usual) == self._seen or not self._sized)
            self.network: Any = plain.eval().requires_grad_(False) if as_it_is else self._build()
            _, self.width, *grid = self._map(torch.zeros(1, student.in_chans, *self._seen)).shape
        self.grid = tuple(grid)
        self._loaded = False
        self._autocast: torch.dtype | None = None
        self._mean: Sequence[float] | None = None
        self._std: Sequence[float] | None = None
        self._scale_2C11: Tensor | None = None

    @property
    def _seen(self) -> tuple[int, int]:
        return pair(self.img_size)

    @property
    def num_parameters(self) -> int:
        """Of the network."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def _build(self, **options: Any) -> Any:
        sized = {"img_size": self.img_size} if self._sized else {}
        network = timm.create_model(self.model, num_classes=0, in_chans=self._in_chans, **sized, **options)
        return network.eval().requires_grad_(False)

    def _map(self, images_NCSS: Tensor) -> Tensor:
        """[N, D, rows, columns]: the last layer's map, without class and register tokens."""
        out = self.network.forward_features(images_NCSS)
        if out.ndim == 4:
            return out.permute(0, 3, 1, 2) if getattr(self.network, "output_fmt", "NCHW") == "NHWC" else out
        tokens_NLD = out[:, getattr(self.network, "num_prefix_tokens", 0) :]
        rows, columns = self.network.patch_embed.dynamic_feat_size(images_NCSS.shape[-2:])
        return tokens_NLD.transpose(1, 2).unflatten(2, (rows, columns))

    def load(self) -> None:
        """Read the weights.

        Raises:
            UserError: where they cannot be had, or are another model's.
        """
        if self._loaded:
            return
        binding = f"TimmFeatures.model = {self.model!r}"
        if self.checkpoint is None:
            fault = self._load_by_timm()
            if fault is not None:
                raise UserError(
                    f"{binding} cannot be loaded: {fault}; check the name and the connection, or bind "
                    "TimmFeatures.checkpoint to what holds the weights"
                )
        else:
            fault = self._load_checkpoint(Path(self.checkpoint))
            if fault is not None:
                raise UserError(f"TimmFeatures.checkpoint = {self.checkpoint!r} does not fit {binding}: {fault}")
        # Whoever read them: timm takes weights as they are.
        if broken := not_finite(self.network.state_dict()):
            where = binding if self.checkpoint is None else f"TimmFeatures.checkpoint = {self.checkpoint!r}"
            raise UserError(
                f"{where}: {subject(broken)} not finite, and a target of such features teaches nothing; name others"
            )
        self._loaded = True

    def _load_checkpoint(self, path: Path) -> str | None:
        """Load the weights of a file that timm reads, or the encoder of a trained model; why it failed, or None."""
        if path.suffix == ".npz":  # Google's, which timm reads and runs nothing of
            try:
                check_inflation(path)
            except UserError as error:
                raise UserError(f"TimmFeatures.checkpoint = {self.checkpoint!r}: {error}") from error
            except Exception as error:  # a damaged archive fails in any way there is
                return reason_of(error)
            return self._load_by_timm()
        try:
            state, said = encoder_weights(path)
        except UserError as error:
            raise UserError(f"TimmFeatures.checkpoint = {self.checkpoint!r}: {error}") from error
        network = self._build_seeded(pretrained=False)
        own = network.state_dict()
        if state.keys() != own.keys():
            return self._load_by_timm() if path.is_file() else "it is another network's"
        heads = next((module.num_heads for module in [*network.modules()][::-1] if hasattr(module, "num_heads")), None)
        if said.get("num_heads", heads) != heads:
            return f"its weights are for {said['num_heads']} heads, and the model has {heads}"
        positions = state.get("pos_embed")
        class_tokens = max(1, getattr(network, "num_prefix_tokens", 1))
        if positions is not None and (theirs := grid_of(positions, said.get("grid"), class_tokens=class_tokens)):
            grid, prefix = network.patch_embed.grid_size, positions.shape[1] - math.prod(theirs)
            if theirs != grid:
                state["pos_embed"] = resample_positions(positions, grid, theirs, num_prefix_tokens=prefix)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            return reason_of(error)
        network.pretrained_cfg |= {name: tuple(said[name]) for name in ("mean", "std") if name in said}
        self.network = network
        return None

    def _load_by_timm(self) -> str | None:
        """Load what timm finds; why it failed, or None."""
        try:
            with _missing_weights(type(self.network)) as missing:
                network = self._build_seeded(
                    pretrained=self.pretrained,
                    **{"pretrained_cfg_overlay": {"file": self.checkpoint, "source": ""}} if self.checkpoint else {},
                )
        except Exception as error:
            return reason_of(error)
        if missing:
            return f"it has no {missing[0]}" + (f", nor {len(missing) - 1} others" if len(missing) > 1 else "")
        self.network = network
        return None

    def _build_seeded(self, **options: Any) -> Any:
        """Built from one seed: weights that are not loaded are the same in every process."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.default_generator.manual_seed(0)
            return self._build(**options)

    def prepare(self, autocast: torch.dtype | None, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        """Say how images come and are computed; the network moves to them when it is first asked.

        Args:
            autocast: what it may compute in; None for float32.
            mean: which the data subtract from each channel; None where that is not known.
            std: by which they divide; likewise.
        """
        self._autocast = autocast
        self._mean = mean
        self._std = std
        self._scale_2C11 = None

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """Float32 [N, L, D] of the images, on the grid of the student's patches; it sees all at a size of its own."""
        if images_NCHW.device.type != "meta" and self._scale_2C11 is None:
            self.load()
            self.network = self.network.to(images_NCHW.device)
            self._scale_2C11 = self._normalization().to(images_NCHW.device)
        with torch.inference_mode():
            images = images_NCHW.float()
            if self._scale_2C11 is not None:
                images = images * self._scale_2C11[0] + self._scale_2C11[1]
            if images.shape[-2:] != self._seen:
                images = F.interpolate(images, self._seen, mode="bicubic", antialias=True)
            with nullcontext() if self._autocast is None else torch.autocast(images.device.type, self._autocast):
                map_NDHW = self._map(images)
            map_NDHW = map_NDHW.float()
            grid = patch_grid(images_NCHW, self._student_patch)
            if self.grid != grid:
                smaller = grid[0] < self.grid[0] or grid[1] < self.grid[1]
                map_NDHW = F.interpolate(map_NDHW, grid, mode="bilinear", antialias=smaller)
            return map_NDHW.flatten(2).transpose(1, 2)

    def _normalization(self) -> Tensor:
        """[2, C, 1, 1]: factor and summand that turn the data's normalization into the network's."""
        channels = self._in_chans
        mean = _per_channel(self.network.pretrained_cfg["mean"], channels)
        std = _per_channel(self.network.pretrained_cfg["std"], channels)
        if self._mean is None or self._std is None:
            return torch.stack([torch.ones_like(mean), torch.zeros_like(mean)]).view(2, channels, 1, 1)
        data_mean, data_std = _per_channel(self._mean, channels), _per_channel(self._std, channels)
        return torch.stack([data_std / std, (data_mean - mean) / std]).view(2, channels, 1, 1)


def _per_channel(values: Sequence[float], channels: int) -> Tensor:
    """[C]; the mean of all where there are others than the images have."""
    values_C = torch.tensor(list(values), dtype=torch.float32)
    return values_C if len(values_C) == channels else values_C.mean().expand(channels)


@contextmanager
def _missing_weights(kind: type[nn.Module]) -> Iterator[list[str]]:
    """What networks of this class lack when they are loaded: timm is lenient where a head differs, and tells nobody."""
    missing: list[str] = []
    load = kind.load_state_dict

    def load_and_note(self: nn.Module, *arguments: Any, **options: Any) -> Any:
        result = load(self, *arguments, **options)
        missing.extend(result.missing_keys)
        return result

    kind.load_state_dict = load_and_note  # type: ignore[method-assign]
    try:
        yield missing
    finally:
        kind.load_state_dict = load  # type: ignore[method-assign]


def reason_of(error: Exception) -> str:
    """Why something failed: the first line of the message, and the next where the first only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
