"""Digit scenes: a data set with real ingredients that needs no download.

Handwritten digits (scikit-learn's copy of the UCI "Optical recognition of handwritten digits") are drawn at a random
place and size over random pieces of two photographs (scikit-learn's `china` and `flower`), among fragments of other
digits, after MNIST-M (Ganin et al. 2016) and cluttered MNIST (Mnih et al. 2014). A digit stands in front: fragments
keep clear of its strokes. The patches that tell the class are known exactly, so a difficulty estimator can be held
against them.

Shape suffixes: N images, K images or digits of a split, G grid cells, S side in pixels, L patches.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from curriculum.noise import hash_words
from curriculum.sizes import Size, as_size
from curriculum.streams import Stream
from curriculum.validation import require_in
from hpm.data.sources.scene_renderer import Photographs, SceneRenderer
from hpm.data.sources.scene_split import SceneSplit
from hpm.data.sources.scenes import Scenes
from hpm.data.sources.split import TEST, TRAIN, VALIDATION

_PERIOD = 8  # digits of each class, of which the first and the fifth go to the test split, the third to validation
_PLACES = {TEST: (0, 4), VALIDATION: (2,), TRAIN: (1, 3, 5, 6, 7)}
_SPANS = {TEST: (0.0, 1 / 3), VALIDATION: (1 / 3, 1.0), TRAIN: (1 / 3, 1.0)}  # of the photographs' width
_STREAMS = {
    TRAIN: Stream.DIGIT_SCENES_TRAIN,
    VALIDATION: Stream.DIGIT_SCENES_VALIDATION,
    TEST: Stream.DIGIT_SCENES_TEST,
}


class DigitScenes(Scenes):
    """Digits over photographs, among fragments of other digits. The label is the digit.

    The splits share no digit, and the test split shares no part of the photographs with the others: they are too small
    to be divided in three.

    Args:
        img_size: S, side of a scene in pixels. Default 32.
        train_size: scenes of the training split. Default 20000.
        validation_size: scenes of the validation split. Default 2000.
        test_size: scenes of the test split. Default 4000.
        clutter: fragments of other digits in each scene. Default 1.
        min_scale: smallest side of a digit relative to the scene's. Default 0.7.
        max_scale: largest. Default 0.95.
        background: strength of the photograph, from 0 (white digits on black) to 1 (no digits). Default 0.3.
        seed: of the scenes. Default 0.
    """

    min_object_share: ClassVar[float] = 0.1  # strokes are thin

    def __init__(
        self,
        *,
        img_size: Size = 32,
        train_size: int = 20_000,
        validation_size: int = 2_000,
        test_size: int = 4_000,
        clutter: int = 1,
        min_scale: float = 0.7,
        max_scale: float = 0.95,
        background: float = 0.3,
        seed: int = 0,
    ) -> None:
        side = as_size("DigitScenes", 8, img_size=img_size)
        if not isinstance(side, int):
            raise ValueError(f"DigitScenes.img_size = {side} must be one number: digit scenes are square")
        sizes = {"train_size": train_size, "validation_size": validation_size, "test_size": test_size}
        require_in("DigitScenes", "[1, 10000000]", **sizes)
        require_in("DigitScenes", "[0, 100]", clutter=clutter)
        require_in("DigitScenes", "(0, 1]", min_scale=min_scale)
        require_in("DigitScenes", f"[{min_scale}, 1]", max_scale=max_scale)
        require_in("DigitScenes", "[0, 1]", background=background)
        super().__init__(
            img_size=side,
            in_chans=3,
            # Of the default training split; constants, so that other settings are normalized alike.
            mean=(0.293, 0.291, 0.275),
            std=(0.280, 0.271, 0.275),
            class_names=[str(digit) for digit in range(10)],
        )
        self.side = side
        self.train_size = train_size
        self.validation_size = validation_size
        self.test_size = test_size
        self.clutter = clutter
        self.scales = (float(min_scale), float(max_scale))
        self.background = float(background)
        self.seed = seed

    @property
    def known_train_size(self) -> int:
        return self.train_size

    def read(self, split: str) -> SceneSplit:
        """Draw a split's scenes."""
        from sklearn.datasets import load_digits, load_sample_images

        digits = load_digits()
        classes_K = torch.from_numpy(digits.target).long()
        chosen_K, stream = digits_of(split, classes_K), _STREAMS[split]
        renderer = SceneRenderer(
            digits_KGG=torch.from_numpy(digits.images).double()[chosen_K] / 16.0,
            photographs=Photographs(load_sample_images().images, size=self.side, span=_SPANS[split]),
            clutter=self.clutter,
            scales=self.scales,
            background=self.background,
            seed=hash_words(self.seed, stream),
            classes_K=classes_K[chosen_K],
        )
        sizes = {TRAIN: self.train_size, VALIDATION: self.validation_size, TEST: self.test_size}
        return SceneSplit(renderer=renderer, size=sizes[split])


def digits_of(split: str, classes_K: Tensor) -> Tensor:
    """Which digits belong to a split, bool [K]: of every eight of a class two are for test and one for validation."""
    chosen_K = torch.zeros(len(classes_K), dtype=torch.bool)
    for label in range(10):
        members = (classes_K == label).nonzero().flatten()
        for place in _PLACES[split]:
            chosen_K[members[place::_PERIOD]] = True
    return chosen_K
