"""Stamp scenes: photographic stamps of Tux Paint on photographs, all of them in Debian packages.

`stamp_scenes.tsv` lists the files, so that the data set is the same wherever these files are. They were chosen by eye:
of the stamps those cut from photographs that a person recognizes at 48 pixels, stamps of one thing in one class; of
desktop wallpapers, and of the pictures that Tux Paint offers to draw on, those that are photographs, each once.
"""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar

from curriculum.sizes import Size, as_size, pair
from hpm.data.sources.composites import Composites
from hpm.errors import UserError
from hpm.runtime.files import expanded

SYSTEM_FOLDER = "/usr/share"
_MOST_PIXELS = 376  # the shorter side of the smallest photograph
PACKAGES = ("tuxpaint-stamps-default", "tuxpaint-data", "mate-backgrounds", "plasma-workspace-wallpapers")


class StampScenes(Composites):
    """Scenes of 100 classes: 140 stamps of animals, food, plants, vehicles and other things on 42 photographs.

    Of the photographs 27 are for training, 7 for validation and 8 for testing. Needs Debian's packages
    tuxpaint-stamps-default, tuxpaint-data, mate-backgrounds and plasma-workspace-wallpapers.

    Args:
        root: the folder that has the packages' folders `tuxpaint`, `backgrounds` and `wallpapers`. Default /usr/share.
        img_size: of a scene in pixels, S for squares or (height, width), 376 at most. Default 64.
        train_size: scenes of the training split. Default 20000.
        validation_size: scenes of the validation split. Default 2000.
        test_size: scenes of the test split. Default 4000.
        occlusion: probability of a cut-out of another class at the object's edge, as in `Composites`. Default 0.25.
        background_objects: further cut-outs behind the object, at most, as in `Composites`. Default 0.
        seed: of the scenes. Default 0.
        cache_dir: folder where rendered scenes are stored, as in `Composites`. Default None, nowhere.
    """

    resume_free: ClassVar[frozenset[str]] = frozenset({"root", "cache_dir"})

    def __init__(
        self,
        *,
        root: str | Path = SYSTEM_FOLDER,
        img_size: Size = 64,
        train_size: int = 20_000,
        validation_size: int = 2_000,
        test_size: int = 4_000,
        occlusion: float = 0.25,
        background_objects: int = 0,
        seed: int = 0,
        cache_dir: str | Path | None = None,
    ) -> None:
        if max(pair(as_size("StampScenes", 8, img_size=img_size))) > _MOST_PIXELS:
            raise ValueError(
                f"StampScenes.img_size = {img_size} must be at most {_MOST_PIXELS}, the shorter side of the smallest "
                "photograph; configs call it IMG_SIZE"
            )
        super().__init__(
            img_size=img_size,
            train_size=train_size,
            validation_size=validation_size,
            test_size=test_size,
            occlusion=occlusion,
            background_objects=background_objects,
            # Of the default training split.
            mean=(0.447, 0.422, 0.352),
            std=(0.283, 0.249, 0.261),
            seed=seed,
            cache_dir=cache_dir,
        )
        if root == "":
            raise ValueError(f"StampScenes.root is empty; it is the packages' folder, {SYSTEM_FOLDER} by default")
        self.root = expanded(root)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """What the stamps show, known without them."""
        return tuple(stamps())

    @cached_property
    def cutout_files(self) -> dict[str, list[Path]]:
        """The stamps of each class.

        Raises:
            UserError: if a file is missing.
        """
        return {name: self._present(paths) for name, paths in stamps().items()}

    @cached_property
    def photograph_files(self) -> list[Path]:
        """The 42 photographs.

        Raises:
            UserError: if a file is missing.
        """
        return self._present(photographs())

    def _present(self, paths: list[str]) -> list[Path]:
        found = [self.root / path for path in paths]
        for path in found:
            if not path.is_file():
                usual = self.root == Path(SYSTEM_FOLDER)
                where = "" if usual else f" below StampScenes.root = {self.root}, which is {SYSTEM_FOLDER} by default"
                raise UserError(
                    f"{path}, which StampScenes needs, is missing{where}; install it: apt-get install "
                    f"{' '.join(PACKAGES)}"
                )
        return found


def stamps() -> dict[str, list[str]]:
    """The files of each class's stamps below /usr/share, in label order."""
    return {name: paths for name, paths in _listed().items() if name}


def photographs() -> list[str]:
    """The files of the photographs below /usr/share."""
    return _listed()[""]


@cache
def _listed() -> dict[str, list[str]]:
    """The listed files by their class; those of no class are photographs."""
    listed: dict[str, list[str]] = {}
    for line in Path(__file__).with_suffix(".tsv").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, path = line.split("\t")
            listed.setdefault(name, []).append(path)
    return listed
