"""Samplers: scores and alpha -> Mask.

Every sampler gives each patch a key, and the M patches with the largest keys are masked: uniform noise is MAE; noise
plus a bonus on the hardest patches is HPM. So a sampler is one batched expression without a loop over images, and
since alpha enters as a number that keys are compared with, it moves without changing a shape.

    split           Random, HardestFirst (HPM)
    ordered         Pool (SMA), Bonus (StructMAE), Weighted (AMT, AdaMAE), Hint (AttMask-Hint)
    grids           Cells (SimMIM), Stratified (UM-MAE)
    blocks          Blockwise (BEiT), MultiBlock (I-JEPA)
    inverse_block   InverseBlock (CAPI)
    complementary   Complementary (CoMA)
    filtered_noise  FilteredNoise (ColorMAE)
    quotas          Quotas (SemMAE)
"""

from curriculum.keys import hardest
from curriculum.samplers.base import Sampler, count_hard
from curriculum.samplers.blocks import Blockwise, MultiBlock
from curriculum.samplers.complementary import Complementary
from curriculum.samplers.filtered_noise import FilteredNoise
from curriculum.samplers.grids import Cells, Stratified
from curriculum.samplers.inverse_block import InverseBlock
from curriculum.samplers.ordered import Bonus, Hint, Pool, Weighted
from curriculum.samplers.quotas import Quotas
from curriculum.samplers.split import HardestFirst, Random

__all__ = [
    "Blockwise",
    "Bonus",
    "Cells",
    "Complementary",
    "FilteredNoise",
    "HardestFirst",
    "Hint",
    "InverseBlock",
    "MultiBlock",
    "Pool",
    "Quotas",
    "Random",
    "Sampler",
    "Stratified",
    "Weighted",
    "count_hard",
    "hardest",
]
