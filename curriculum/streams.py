"""Streams: every purpose for which this project draws random numbers, each named once.

Randomness is addressed by hashes (see `curriculum.noise`). Two purposes that hash the same words get the same numbers,
and what was meant to be independent is not. So each purpose has a member of `Stream`, whose value is among the hashed
words. A comment at each member says what else is hashed beside it: what the numbers depend on, and nothing more.

The noise of a batch itself, which no stream has been folded into, belongs to the keys of the sampler: a uniform mask
is the hash of (seed, step, row, patch). Nothing else may draw from it.

The values of the streams are part of what a seed means. Never change or reuse one: runs could not be repeated. Those
whose names begin with `DIGIT_SCENES` and `COMPOSITES` define data sets; with other values their images would be others.

Some choices are not streams because they do not come from hashes but from the generators of PyTorch or another library:
a model's initial weights, which the run's seed decides; the labels of a low-shot draw, which the number of the draw
decides; choices that are the same for every run, such as which test images an evaluation looks at, whose seed is 0; and
the proposals of a search.
"""

from __future__ import annotations

from enum import IntEnum


class Stream(IntEnum):
    """A purpose of randomness; see the module."""

    # Data sets that are rendered. These values define the images.
    DIGIT_SCENES_TRAIN = 1  # (data seed), then scene and choice: a training scene of DigitScenes
    DIGIT_SCENES_TEST = 2  # (data seed), then scene and choice: a test scene of DigitScenes
    DIGIT_SCENES_VALIDATION = 8  # (data seed), then scene and choice: a validation scene of DigitScenes
    COMPOSITES_TRAIN = 9  # (data seed), then scene or round of labels, and choice: a training scene of Composites
    COMPOSITES_VALIDATION = 10  # (data seed), likewise: a validation scene of Composites
    COMPOSITES_TEST = 11  # (data seed), likewise: a test scene of Composites

    # Evaluation.
    SUPERVISED_STEP = 3  # (seed, step, rank): mixup and drop path of a step of supervised training
    LINEAR_HEAD = 4  # (seed): the initial weights of a linear classifier
    DENSE_HEAD = 17  # (seed): the initial weights of what stands on the encoder in segmentation and detection
    LOCALIZATION_RANDOM = 5  # (seed, test image, patch): the random scores that localization compares with
    LOW_SHOT_ORDER = 6  # (number of the draw): the order of the labelled images, over all epochs
    LOW_SHOT_CROPS = 7  # (number of the draw, epoch, image): the crops of the labelled images
    HARDNESS_SCORES = 12  # (seed, step, image), then what the estimator folds: the scores that are judged
    HARDNESS_TRUTH = 13  # (seed, half, step, image), then DISJOINT_PROBES: the masks that the true loss is measured by
    PICTURE_MASKS = 14  # (seed, step, image): the masks that a curriculum draws for a picture, with all that it folds
    PICTURE_SCORES = 15  # (noise), then what the estimator folds: the scores in a picture whose masks ask for none
    HARDNESS_MASKS = 16  # (seed, step, image), with all that a curriculum folds: the masks whose object is looked at
    LIDAR_MASKS = 18  # (view, image, patch): the masks of the views that LiDAR compares; the same for every seed

    # Loading of training images.
    LOADER_ORDER = 101  # (seed, epoch, image and turn): the place of an image in an epoch
    LOADER_CROPS = 102  # (seed, epoch, image and turn): the crop and the flip of an image
    RAND_AUGMENT = 103  # (seed, epoch, image): what RandAugment does to an image
    PROBE_LOSS_CROPS = 104  # (seed, image): the crop and the flip of an image that the probe loss is measured on
    IMAGE_DRAWS = 106  # (seed, epoch): the offset of the points by which images are drawn by their weights
    PROTOTYPES = 107  # (seed, image): the images that k-means over all images starts from
    IMAGE_LOSS_MASKS = 108  # (seed, epoch, image, patch): the masks under which a pass measures the loss of each image
    EVALUATION_CROPS = 105  # (seed, step, image): the crop and the flip of a training image that evaluations look at

    # Semi-supervised training.
    LABELED_IMAGES = 201  # (label seed, image): which training images are labeled

    # The curriculum as a whole.
    BLANKS = 1001  # (seed, step, row, visible patch): which visible patches are hidden by a mask token
    MASK_RATIO = 1002  # (seed, step): the mask ratio of a step
    DIFFICULTY = 1003  # all noise of a difficulty estimator, which folds the streams below into it
    BANDIT = 1004  # (seed, interval): the value that a bandit plays
    MASKER_WEIGHTS = 1005  # (seed): the initial weights of a trained masker
    PROBE_LOSS_MASKS = 1006  # (seed, row, patch): the masks that the probe loss is measured under

    RECONSTRUCTED = 1007  # all noise of the sampler that draws which masked patches are reconstructed

    # Difficulty estimators. Each is folded into the noise that the estimator is given.
    DISJOINT_PROBES = 1101  # (noise, patch): the order of the patches, from which masked probe passes are cut
    LOSS_SPREAD_PROBE = 1102  # (noise, number of the probe, patch): the mask of a probe
    PARTS_FIRST_CENTER = 1103  # (noise): the patch from which k-means starts
    MIXTURE_ESTIMATOR = 1104  # (noise, place of the estimator): the noise of an estimator within
    MIXTURE_TIES = 1105  # (noise, place of the estimator, patch): the order of equal scores
    SWITCHED_ESTIMATOR = 1106  # (noise, place of the estimator): the noise of an estimator within
    SOFT_MASK_CHOICE = 1107  # (noise): which of the masks that a network proposes is used
    RESIDUAL_TIES = 1110  # (noise, patch): the order of equal scores and of equal edges
    SAMPLED_QUERIES = 1109  # (noise, patch): the patches whose attention is looked at

    # Samplers, beside their keys. Each is folded into the noise that the sampler is given.
    HINT_REVEALED = 1201  # (noise, patch): which of the hardest patches stay visible
    CELLS_WITHIN = 1202  # (noise, patch): the order of the patches within a cell
    CELLS_SAMPLER = 1203  # all noise of the sampler that draws the cells
    STRATIFIED_ORDER = 1204  # (noise, patch): the order of the patches within a cell
    STRATIFIED_FOLLOWS = 1205  # (noise, cell): whether a cell follows the difficulty
    BLOCKS_UNSCORED = 1206  # (noise, patch): the rank of a patch that is not scored
    BLOCKWISE_ATTEMPTS = 1207  # (noise, attempt): size and place of a block
    MULTI_BLOCK_SIZES = 1208  # (seed, step, kind of block): the size, the same for every image of a step
    MULTI_BLOCK_PLACES = 1209  # (noise, block): the place of a block
    FILTERED_NOISE_BANK = 1210  # (seed, map, patch): the maps of a bank
    FILTERED_NOISE_CHOICE = 1211  # (noise): which map of the bank, its shift and whether it is mirrored
    QUOTAS_TURN = 1212  # (noise, part): the order in which whole parts are masked
    # 1213 was the order of patches under quotas that were not rounded.
    QUOTAS_WITHIN = 1214  # (noise, patch): which patches of a part fill its quota
    HINT_SHARE = 1215  # (seed, step): which share of the hardest stays visible, the same for every image of a step
    INVERSE_BLOCK = 1216  # (noise): the shape of the block that stays visible, its place, whether it follows the scores

    # The conformance suites.
    TESTING_CONTRAST = 2001  # (seed, image, patch): the contrast of a test image's patch
    TESTING_SCORES = 2002  # (noise, patch): scores that a sampler is tested with
    TESTING_UNSCORED = 2003  # (noise, patch): which of these scores are missing or infinite

    # Parts of one's own: `noise.fold(Stream.CUSTOM, number)`, with a number for each purpose of the part.
    CUSTOM = 9001
