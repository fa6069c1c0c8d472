"""Checks of the sizes that every vision transformer has, each with one sentence that names the setting at fault."""

from __future__ import annotations

from collections.abc import Sequence

from curriculum.sizes import Size, as_size, divides, pair
from curriculum.validation import require_at_least, require_positive

# Beyond what anybody has trained, and below what fills a machine's memory while it is only looked at.
MOST_VALUES = 10**9  # of an image
MOST_PATCHES = 2**20
MOST_BLOCKS = 1000
MOST_CLASS_TOKENS = 1000
MOST_PARAMETERS = 10**11  # of a stack of blocks


def require_patches(owner: str, *, img_size: Size, patch_size: Size, in_chans: int) -> tuple[Size, Size]:
    """Refuse an image that patches do not fill.

    Args:
        owner: the part that the settings belong to, as a config writes it.
        img_size: of the image in pixels, the side of a square or (height, width).
        patch_size: of a patch in pixels, the side of a square or (height, width).
        in_chans: channels of the image.

    Returns:
        `img_size` and `patch_size` as they are kept; see `as_size`.

    Raises:
        ValueError: naming the setting.
    """
    img_size, patch_size = as_size(owner, 1, img_size=img_size), as_size(owner, 1, patch_size=patch_size)
    require_at_least(owner, 1, in_chans=in_chans)
    if not divides(patch_size, img_size):
        raise ValueError(f"{owner}.patch_size = {patch_size} does not divide {owner}.img_size = {img_size}")
    require_image(owner, img_size=img_size, patch_size=patch_size, in_chans=in_chans)
    return img_size, patch_size


def require_image(owner: str, *, img_size: Size, patch_size: Size, in_chans: int) -> None:
    """Refuse an image that no machine holds.

    Args:
        owner: the part that the settings belong to, as a config writes it.
        img_size: of the image in pixels, the side of a square or (height, width).
        patch_size: of a patch in pixels, the side of a square or (height, width).
        in_chans: channels of the image.

    Raises:
        ValueError: naming the settings.
    """
    (height, width), (patch_height, patch_width) = pair(img_size), pair(patch_size)
    values, patches = height * width * in_chans, (height // patch_height) * (width // patch_width)
    if values > MOST_VALUES or patches > MOST_PATCHES:
        raise ValueError(
            f"{owner}.img_size = {img_size}, patch_size = {patch_size} and in_chans = {in_chans} make images of "
            f"{values:.1e} values in {patches:.1e} patches; at most {MOST_VALUES:.1e} and {MOST_PATCHES:.1e} can be"
        )


def require_transformer(
    owner: str, *, embed_dim: int, depth: int, num_heads: int, mlp_ratio: float, prefix: str = ""
) -> None:
    """Refuse a stack of blocks that cannot be built, or whose width sin-cos positions or heads cannot share out.

    Args:
        owner: the part that the settings belong to, as a config writes it.
        embed_dim: width of the tokens.
        depth: number of blocks.
        num_heads: heads of each.
        mlp_ratio: hidden width of the feed-forward layers, relative to the width.
        prefix: of the settings' names, "decoder_" for `decoder_depth`. Default none.

    Raises:
        ValueError: naming the setting.
    """
    require_at_least(owner, 1, **{f"{prefix}depth": depth, f"{prefix}num_heads": num_heads})
    if embed_dim < 4 or embed_dim % 4 or embed_dim % num_heads:
        raise ValueError(
            f"{owner}.{prefix}embed_dim = {embed_dim} must be a multiple of 4 and of its {num_heads} heads"
        )
    require_positive(owner, mlp_ratio=mlp_ratio)
    require_buildable(owner, [(embed_dim, depth)], mlp_ratio, prefix=prefix)


def require_buildable(owner: str, stages: Sequence[tuple[int, int]], mlp_ratio: float, *, prefix: str = "") -> None:
    """Refuse blocks of more parameters than any machine holds: before they are built, which would take its memory.

    Args:
        owner: the part that the settings belong to, as a config writes it.
        stages: width and number of the blocks of each stage.
        mlp_ratio: hidden width of the feed-forward layers, relative to the width.
        prefix: of the settings' names. Default none.

    Raises:
        ValueError: naming the settings.
    """
    blocks = sum(depth for _, depth in stages)
    parameters = sum(depth * (4 + 2 * mlp_ratio) * width**2 for width, depth in stages)
    if blocks > MOST_BLOCKS or parameters > MOST_PARAMETERS:
        raise ValueError(
            f"{owner}.{prefix}embed_dim = {stages[0][0]} in {blocks} blocks of mlp_ratio = {mlp_ratio} makes "
            f"{parameters:.1e} parameters; at most {MOST_BLOCKS} blocks and {MOST_PARAMETERS:.1e} parameters can be"
        )


def require_class_tokens(owner: str, class_tokens: int) -> None:
    """Refuse a number of class tokens that cannot be.

    Raises:
        ValueError: naming the setting.
    """
    if not 1 <= class_tokens <= MOST_CLASS_TOKENS:
        raise ValueError(f"{owner}.class_tokens = {class_tokens} must be at least 1 and at most {MOST_CLASS_TOKENS}")


def require_loss_predictor_depth(owner: str, depth: int | None) -> None:
    """Refuse a number of the loss predictor's blocks that cannot be.

    Raises:
        ValueError: naming the setting.
    """
    if depth is not None and not 0 <= depth <= MOST_BLOCKS:
        raise ValueError(
            f"{owner}.loss_predictor_depth = {depth} must be at least 0 and at most {MOST_BLOCKS}; None for no loss "
            "predictor"
        )
