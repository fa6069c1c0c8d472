"""Checks of the sizes that every vision transformer has, each with one sentence that names the setting at fault."""

from __future__ import annotations

from curriculum.validation import require_at_least


def require_patches(owner: str, *, img_size: int, patch_size: int, in_chans: int) -> None:
    """Refuse an image that patches do not fill.

    Args:
        owner: the part that the settings belong to, as a config writes it.
        img_size: side of the square image in pixels.
        patch_size: side of a square patch in pixels.
        in_chans: channels of the image.

    Raises:
        ValueError: naming the setting.
    """
    require_at_least(owner, 1, img_size=img_size, patch_size=patch_size, in_chans=in_chans)
    if img_size % patch_size:
        raise ValueError(f"{owner}.patch_size = {patch_size} does not divide {owner}.img_size = {img_size}")


def require_transformer(owner: str, *, embed_dim: int, depth: int, num_heads: int, prefix: str = "") -> None:
    """Refuse a stack of blocks that cannot be built, or whose width sin-cos positions or heads cannot share out.

    Args:
        owner: the part that the settings belong to, as a config writes it.
        embed_dim: width of the tokens.
        depth: number of blocks.
        num_heads: heads of each.
        prefix: of the settings' names, "decoder_" for `decoder_depth`. Default none.

    Raises:
        ValueError: naming the setting.
    """
    require_at_least(owner, 1, **{f"{prefix}depth": depth, f"{prefix}num_heads": num_heads})
    if embed_dim < 4 or embed_dim % 4 or embed_dim % num_heads:
        raise ValueError(
            f"{owner}.{prefix}embed_dim = {embed_dim} must be a multiple of 4 and of its {num_heads} heads"
        )


def require_loss_predictor_depth(owner: str, depth: int | None) -> None:
    """Refuse a negative number of the loss predictor's blocks.

    Raises:
        ValueError: naming the setting.
    """
    if depth is not None and depth < 0:
        raise ValueError(f"{owner}.loss_predictor_depth = {depth} must be at least 0; None for no loss predictor")
