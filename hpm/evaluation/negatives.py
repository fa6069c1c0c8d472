"""Negatives: how hard are the patches that a contrastive target tells a masked patch from, and are they negatives?

Shape suffixes: N images, L patches, M masked.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from curriculum import Batch, Mask, Noise, Random
from curriculum.validation import require_at_least, require_in
from hpm.errors import Notice
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.samples import held_out_batches
from hpm.metrics import DECLARED, metric_on
from hpm.models.base import MaskedModel

PERCENTS = (10, 50, 90, 99)


class Negatives(Evaluation):
    """What a contrastive target compares, as `Target.similarities` has it, under random masks; means over images.

    A masked patch's positive is its own target, and its negatives are those of the other patches of its image. Nothing
    is measured of a target that compares no patches, and a notice says so.

    Metrics, all `negatives/...`:
        similarity_10, _50, _90, _99: percentiles of the similarity of the negatives, over all pairs of an image.
        positive_10, _50, _90, _99: the same of the positives.
        above_positive: share of the negatives that are more similar than the positive.
        same_object: share of the negatives of masked patches of the object that hold the object themselves, as it would
            be by chance; same_object_hardest: the same among the most similar negatives, which are false if the
            patches of an object are alike. Only where the data know the object.

    Args:
        images: of each held-out split, at most. Default 256.
        hardest: share of a patch's negatives that count as the hardest, in (0, 1]; rounded, but at least one. Default
            0.1.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "negatives"
    metrics = DECLARED[protocol]

    def __init__(self, *, images: int = 256, hardest: float = 0.1) -> None:
        require_at_least("Negatives", 1, images=images)
        require_in("Negatives", "(0, 1]", hardest=hardest)
        self.images = images
        self.hardest = float(hardest)

    def needs_trained(self, model: MaskedModel) -> frozenset[str]:
        return frozenset({"reconstructor"})

    @torch.no_grad()
    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for name, split in context.held_out.items():
            values: dict[str, list[Tensor]] = {}
            for indices, batch, noise in held_out_batches(context, split, self.images):
                compared = _compare(context, batch, noise)
                if compared is None:
                    told = f"Negatives measures nothing of Method.target = {type(context.target).__name__}"
                    warnings.warn(f"{told}, which compares no patches; PatchContrast does", Notice, stacklevel=2)
                    return {}
                object_NL = context.source.object_map(split, indices, patch_size=batch.patch_size)
                for what, value_N in self._measure(*compared, object_NL).items():
                    values.setdefault(what, []).append(value_N)
            means = {what: torch.cat(of_batches).double().nanmean().item() for what, of_batches in values.items()}
            known = {what: mean for what, mean in means.items() if math.isfinite(mean)}
            metrics |= {metric_on(name, f"negatives/{what}"): mean for what, mean in known.items()}
        return metrics

    def _measure(self, similarity_NML: Tensor, mask: Mask, object_NL: Tensor | None) -> dict[str, Tensor]:
        """[N] each."""
        own_NM1 = mask.masked.unsqueeze(2)
        positive_NM1 = similarity_NML.gather(2, own_NM1)
        negative_NML = similarity_NML.scatter(2, own_NM1, torch.nan)
        measured = _percentiles("similarity", negative_NML) | _percentiles("positive", positive_NM1)
        is_negative_NML = ~negative_NML.isnan()
        above_N = (negative_NML > positive_NM1).sum(dim=(1, 2))  # what is no negative is not above
        measured["above_positive"] = above_N / is_negative_NML.sum(dim=(1, 2))
        if object_NL is not None:
            object_NL = object_NL.to(similarity_NML.device)
            on_object_NM = mask.gather_masked(object_NL)
            same_NML = object_NL.unsqueeze(1).expand_as(negative_NML)
            k = max(1, round(self.hardest * int(is_negative_NML[0, 0].sum())))
            hardest_NMK, patches_NMK = negative_NML.nan_to_num(nan=-torch.inf).topk(k, dim=2)
            false_NMK = same_NML.gather(2, patches_NMK).float().where(hardest_NMK > -torch.inf, torch.nan)
            shares = {
                "same_object": (same_NML & is_negative_NML).sum(dim=2) / is_negative_NML.sum(dim=2),
                "same_object_hardest": false_NMK.nanmean(dim=2),
            }
            for what, share_NM in shares.items():
                measured[what] = share_NM.where(on_object_NM, torch.nan).nanmean(dim=1)
        return measured


def _compare(context: EvaluationContext, batch: Batch, noise: Noise) -> tuple[Tensor, Mask] | None:
    """Similarities [N, M, L] under random masks, and these; None where the target compares no patches."""
    num_masked = context.curriculum.count_masked(batch.num_patches)
    mask = Random()(None, alpha=0.0, num_masked=num_masked, grid=batch.grid, noise=noise)
    prediction_NMP = context.model.reconstruct(batch.images, mask)
    target_NMP = context.target(batch.images, mask, batch.patch_size, context.teacher)
    similarity_NML = context.target.similarities(prediction_NMP, target_NMP, mask)
    return None if similarity_NML is None else (similarity_NML, mask)


def _percentiles(name: str, values_NML: Tensor) -> dict[str, Tensor]:
    """[N] each, over all that is not NaN; image by image, for there is a limit to what torch sorts at once."""
    shares = values_NML.new_tensor([percent / 100 for percent in PERCENTS])
    found_NP = torch.stack([values.flatten().nanquantile(shares) for values in values_NML])
    return {f"{name}_{percent}": found_NP[:, place] for place, percent in enumerate(PERCENTS)}
