"""What a shell completes arguments to; asked for at every press of a key, so that nothing here takes time to import."""

from __future__ import annotations

from pathlib import Path

PROTOCOLS = (
    "agreement",
    "classifier",
    "detection",
    "diagnostics",
    "finetune",
    "hardness-share",
    "knn",
    "lidar",
    "linear",
    "linear-mae",
    "localization",
    "low-shot",
    "negatives",
    "rankme",
    "ridge",
    "segmentation",
    "segmentation-finetune",
    "shown-images",
    "unsupervised-segmentation",
)
"""What `hpm evaluate --protocol` takes. Finding them takes seconds; a test compares."""


def complete_config(incomplete: str) -> list[str]:
    """Shipped configs, and files and folders that are there."""
    from hpm.runtime.config_files import config_names
    from hpm.runtime.files import expanded

    folder, slash, begun = incomplete.rpartition("/")
    place = expanded(f"{folder}/") if slash else Path()
    there = [path for path in place.glob("*") if path.name.startswith(begun) and not path.name.startswith(".")]
    files = sorted(f"{folder}{slash}{path.name}" for path in there if path.suffix == ".gin")
    folders = sorted(f"{folder}{slash}{path.name}/" for path in there if path.is_dir())
    return [*(name for name in config_names() if name.startswith(incomplete)), *files, *folders]


def complete_config_or_folder(incomplete: str) -> list[str]:
    """What `hpm configs` takes: shipped configs and their folders."""
    from hpm.runtime.config_files import config_names

    folders = sorted({name.rpartition("/")[0] for name in config_names()} - {""})
    return [name for name in [*folders, *config_names()] if name.startswith(incomplete)]


def complete_protocol(incomplete: str) -> list[str]:
    """Protocols; of several with commas between them, the last."""
    before, comma, begun = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in PROTOCOLS if name.startswith(begun)]
