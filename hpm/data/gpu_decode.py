"""JPEGs that are read by loader processes and decoded in batches by the device: nvJPEG on a CUDA device.

A loader process reads a file and its header, and draws the crop. It decodes by Pillow what is not a plain JPEG, and a
file that ends early, of which a decoder may make an image nevertheless.

Shape suffixes: N images of a micro-batch, B bytes, J JPEGs decoded together, M images decoded by Pillow, C channels,
H W pixels of an image or of a crop, S S output height and width.
"""

from __future__ import annotations

import io
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

import torch
import torchvision
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from curriculum.sizes import Size, pair
from hpm.data.crops import resample
from hpm.data.prefetch import move
from hpm.data.sources.encoded import EncodedSplit, cut
from hpm.data.sources.split import Choose, Crops, Split
from hpm.errors import UserError

_END_OF_IMAGE = b"\xff\xd9"
_RGB_COMPONENTS = [ord("R"), ord("G"), ord("B")]  # of a JPEG that stores RGB rather than YCbCr

# Pixels decoded together, padding included: 32 images of 512 x 512. As float32 they take 100 MB.
_PIXELS_AT_ONCE = 1 << 23


class Encoded(NamedTuple):
    """The images of a micro-batch, JPEGs not decoded yet. (A tuple, which PyTorch knows how to pin.)

    Args:
        bytes_B: uint8 [B], the JPEG files, one after the other.
        layout_N4: int64 [N, 4], each image's bytes in there (0 where Pillow has decoded it), height, width, and
            whether its JPEG is gray.
        crops_MCSS: uint8 [M, C, S, S], the crops of the images that Pillow has decoded.
    """

    bytes_B: Tensor
    layout_N4: Tensor
    crops_MCSS: Tensor


class _Jpeg(NamedTuple):
    content: bytes
    height: int
    width: int
    gray: bool


class JpegSplit(Split):
    """A split whose crops come as an `Encoded`, by `take`. For a loader process.

    Args:
        split: of encoded images.
        refused: images that the device cannot decode, and Pillow is to. Default none.
    """

    def __init__(self, split: EncodedSplit, refused: Container[int] = ()) -> None:
        self.split = split
        self.refused = refused
        self._kept: dict[int, _Jpeg | Tensor] = {}

    def __len__(self) -> int:
        return len(self.split)

    def sizes(self, indices_N: Tensor) -> Tensor:
        """Int64 [N, 2], from the headers."""
        return self.split.sizes(indices_N)

    def crop(self, indices_N: Tensor, boxes_N4: Tensor, flips_N: Tensor, size: Size) -> Tensor:
        """Uint8 [N, C, S, S], decoded by Pillow."""
        return self.split.crop(indices_N, boxes_N4, flips_N, size)

    def view(self, indices_N: Tensor, size: Size, choose: Choose) -> Crops:
        """Boxes and flips; the images, [N, 0], are kept until `take` asks for them."""

        def keep(row: int, image: Image.Image, box: Sequence[float], flip: bool) -> None:
            index = int(indices_N[row])
            jpeg = None if index in self.refused else _plain_jpeg(image)
            self._kept[index] = cut(image, box, flip, size, self.split.mode) if jpeg is None else jpeg

        return self.split.visit(indices_N, choose, keep, torch.zeros(len(indices_N), 0))

    def take(self, indices_N: Tensor, size: Size) -> Encoded:
        """What `view` has kept of these images; the rest is forgotten. What could not be read is black."""
        black = torch.zeros(self.split.channels, *pair(size), dtype=torch.uint8)
        kept = [self._kept.get(index, black) for index in indices_N.tolist()]
        self._kept.clear()
        layout = [(len(x.content), x.height, x.width, x.gray) if isinstance(x, _Jpeg) else (0, 0, 0, 0) for x in kept]
        joined = bytearray().join(x.content for x in kept if isinstance(x, _Jpeg))
        return Encoded(
            _bytes(joined),
            torch.tensor(layout, dtype=torch.int64).view(-1, 4),
            torch.stack([black, *(x for x in kept if isinstance(x, Tensor))])[1:],
        )


class Decoder:
    """Decodes JPEGs on a device, and crops and resamples them there.

    Pixels differ slightly from Pillow's: decoders round differently and interpolate subsampled color differently, a
    large image is not decoded at a fraction of its size, and crops are not rounded.

    Args:
        mode: what the images are converted to, "RGB" or "L" (gray).
        device: nvJPEG decodes on a CUDA device, libjpeg on the CPU.

    Raises:
        UserError: if torchvision cannot decode on the device.
    """

    def __init__(self, mode: str, device: torch.device) -> None:
        self.mode = mode
        self.device = device
        # nvJPEG writes on a stream that PyTorch's allocator does not know of. Memory of this stream is used by nothing
        # else, so none that a queued kernel still reads is written to.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        file = io.BytesIO()
        Image.new("RGB", (16, 16)).save(file, "JPEG")
        try:
            _decode_jpegs([_bytes(bytearray(file.getvalue()))], device, gray=False)
        except (RuntimeError, AttributeError) as error:
            raise UserError(
                "Loading.gpu_decode = True needs a torchvision with nvJPEG, and the installed one reports: "
                f"{str(error).splitlines()[0]}; set it to False"
            ) from error

    def __call__(self, encoded: Encoded, boxes_N4: Tensor, flips_N: Tensor) -> tuple[Tensor, list[int]]:
        """Decode and crop a micro-batch.

        Args:
            encoded: the images, on the CPU, and of which size crops are.
            boxes_N4: float32 [N, 4], (left, top, width, height) in pixels of the stored image; on the CPU.
            flips_N: bool [N], whether to mirror the crop left to right; on the CPU.

        Returns:
            Float32 [N, C, S, S] in [0, 255], on the device; and the rows that could not be decoded, which are black.
        """
        layout = encoded.layout_N4.tolist()
        files = encoded.bytes_B.split([length for length, *_ in layout])
        by_pillow = iter(move(encoded.crops_MCSS, self.device).float())
        _, *size = encoded.crops_MCSS.shape[1:]
        black_CSS = torch.zeros(encoded.crops_MCSS.shape[1:], device=self.device)
        crops = [black_CSS if length else next(by_pillow) for length, *_ in layout]
        failed = []
        for rows in _together(layout):
            gray = self.mode == "L" or bool(layout[rows[0]][3])
            images = self._decode([files[row] for row in rows], gray=gray)
            decoded = {row: image for row, image in zip(rows, images, strict=True) if image is not None}
            failed += [row for row in rows if row not in decoded]
            if decoded:
                places = list(decoded)
                crops_JCSS = self._crop(list(decoded.values()), boxes_N4[places], flips_N[places], (size[0], size[1]))
                for row, crop_CSS in zip(places, crops_JCSS.expand(-1, len(black_CSS), -1, -1), strict=True):
                    crops[row] = crop_CSS
        return torch.stack(crops), failed

    def _decode(self, files: list[Tensor], *, gray: bool) -> Sequence[Tensor | None]:
        """Uint8 [1 or 3, H, W] of each file, None where it cannot be decoded."""
        if self._stream is None:
            return self._try(files, gray)
        with torch.cuda.stream(self._stream):
            images = self._try(files, gray)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        for image in images:
            if image is not None:
                image.record_stream(current)
        return images

    def _try(self, files: list[Tensor], gray: bool) -> Sequence[Tensor | None]:
        try:
            return _decode_jpegs(files, self.device, gray=gray)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # of one file or another: all of them are lost
            return [None] if len(files) == 1 else [image for file in files for image in self._try([file], gray)]

    def _crop(self, images: Sequence[Tensor], boxes_J4: Tensor, flips_J: Tensor, size: Size) -> Tensor:
        """Float32 [J, 1 or 3, S, S]."""
        # The pixels in each box are put into the corner of an image of the largest one's size.
        first_J2, last_J2 = boxes_J4[:, :2].floor(), (boxes_J4[:, :2] + boxes_J4[:, 2:]).ceil()
        W, H = (last_J2 - first_J2).amax(dim=0).int().tolist()
        images_JCHW = images[0].new_zeros(len(images), len(images[0]), H, W)
        for place, (image, (left, top), (right, bottom)) in enumerate(
            zip(images, first_J2.int().tolist(), last_J2.int().tolist(), strict=True)
        ):
            images_JCHW[place, :, : bottom - top, : right - left] = image[:, top:bottom, left:right]
        boxes_J4 = torch.cat([boxes_J4[:, :2] - first_J2, boxes_J4[:, 2:]], dim=1)
        return resample(images_JCHW, move(boxes_J4, self.device), move(flips_J, self.device), size)


def _decode_jpegs(files: list[Tensor], device: torch.device, *, gray: bool) -> list[Tensor]:
    """Uint8 [1 or 3, H, W] of each file, in one call."""
    # Not imported by name: torchvision 0.29 announces that a later version will be without these.
    modes = torchvision.io.ImageReadMode
    return torchvision.io.decode_jpeg(files, modes.GRAY if gray else modes.RGB, device)


def _plain_jpeg(image: Image.Image) -> _Jpeg | None:
    """The file of an image that any decoder of JPEGs shows as Pillow does; None for another."""
    if not isinstance(image, JpegImageFile) or image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None  # the second is "MPO" for a file of several pictures
    if image.fp is None:  # decoded already
        return None
    stored_as_rgb = image.info.get("adobe_transform") == 0 or [part[0] for part in image.layer] == _RGB_COMPONENTS
    if image.mode == "RGB" and stored_as_rgb:  # rather than as YCbCr
        return None
    image.fp.seek(0)
    content = image.fp.read()
    return _Jpeg(content, image.height, image.width, image.mode == "L") if content.endswith(_END_OF_IMAGE) else None


def _together(layout: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Rows of JPEGs that are decoded together: all gray or none, and few enough for the memory."""
    for wanted in (False, True):
        rows: list[int] = []
        highest = widest = 0
        for row, (length, height, width, gray) in enumerate(layout):
            if not length or bool(gray) != wanted:
                continue
            highest, widest = max(highest, height), max(widest, width)
            if rows and (len(rows) + 1) * highest * widest > _PIXELS_AT_ONCE:
                yield rows
                rows = []
                highest = height
                widest = width
            rows.append(row)
        if rows:
            yield rows


def _bytes(content: bytearray) -> Tensor:
    """Uint8 [B], of the same memory."""
    return torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
