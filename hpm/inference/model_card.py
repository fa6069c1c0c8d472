"""The model card of an exported encoder, README.md as the Hugging Face Hub shows it: what its run has recorded, and
"not recorded" of everything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from curriculum.sizes import pair, spell_size
from hpm import __version__
from hpm.data import ImageSource
from hpm.inference.loading import LoadedModel
from hpm.inference.markdown import block, code, escape, shareable
from hpm.inference.recorded_results import read_results
from hpm.inference.recorded_run import RecordedRun, Rows, listed, recorded_run
from hpm.models.base import MaskedModel
from hpm.runtime.files import printable, write_text

CARD = "README.md"

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("hpm", "inference"),
    autoescape=True,
    finalize=escape,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by the number of channels


def write_card(
    folder: Path,
    loaded: LoadedModel,
    model: MaskedModel,
    *,
    address: str,
    weights: str,
    pool: str,
    bindings: Sequence[str] = (),
) -> None:
    """Write the model card of an encoder.

    What a run was trained with is told from the configuration that it recorded, whatever is bound over it here.

    Args:
        folder: takes the card, beside the weights.
        loaded: what the encoder was read from.
        model: whose encoder it is.
        address: by which timm finds the folder, "local-dir:exported" or "hf-hub:OWNER/NAME".
        weights: "student" or "teacher".
        pool: what features are, "token" or "avg".
        bindings: those that were given over the run's configuration. Default none.

    Raises:
        OSError: if the file system refuses it.
        UserError: where a file of the run's folder is damaged.
    """
    results, run = read_results(loaded, weights), recorded_run(loaded)
    file = printable((loaded.path if loaded.run is None else loaded.run.path).resolve().name)
    text = _TEMPLATES.get_template("model_card.md.j2").render(
        code=code,
        name=file if loaded.manifest is None else loaded.manifest.name,
        weights=weights,
        step=loaded.step,
        pool=pool,
        encoder=_encoder(loaded.source, model),
        loading=block(_loading_code(loaded.source, address, model.encoder.num_features), "python"),
        run=run,
        cost=[] if run is None else _cost(run, results.cost),
        versions=[("exported by", code(f"curriculum-masking {__version__}")), *([] if run is None else run.versions)],
        results=results,
        bindings=[shareable(binding) for binding in bindings],
        exporter=__version__,
    )
    write_text(folder / CARD, text)


def _encoder(source: ImageSource, model: MaskedModel) -> Rows:
    name, arguments = model.encoder.timm_architecture()
    spelled = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return [
        ("timm's architecture", code(name)),
        ("its arguments", code(spelled)),
        ("parameters", f"{sum(parameter.numel() for parameter in model.encoder.parameters()):,}"),
        ("features", f"{model.encoder.num_features}"),
        ("images", f"{source.in_chans} channels, {spell_size(source.img_size)} pixels"),
        ("mean of each channel", listed(source.mean)),
        ("standard deviation of each channel", listed(source.std)),
    ]


def _cost(run: RecordedRun, told: Mapping[str, Any]) -> Rows:
    """What training took, as its summary tells it."""
    seconds, processes, evaluation, memory = (
        told.get(name) for name in ("training_seconds", "processes", "evaluation_seconds", "peak_memory_bytes")
    )
    hours = None if seconds is None or processes is None else f"{seconds * processes / 3600:.4g}"
    less = ", without the passes by which the image curriculum measured the images" if run.passes_left_out else ""
    return [
        (
            "operations of the training, counted from the configuration",
            None if run.flops is None else f"{run.flops:.3g} FLOPs, two for each multiply-add{less}",
        ),
        ("device", told.get("device")),
        ("processes", processes),
        ("training", None if seconds is None else _duration(seconds)),
        ("hours of all devices together", hours),
        ("evaluation at its end", None if evaluation is None else _duration(evaluation)),
        ("most memory of a device", None if not memory else f"{memory / 1e9:.2f} GB"),
    ]


def _duration(seconds: float) -> str:
    return f"{seconds:,.0f} s" + (f" ({seconds / 3600:,.1f} h)" if seconds >= 3600 else "")


def _loading_code(source: ImageSource, address: str, features: int) -> str:
    """A program that turns an image file into features; for channels that no image file has, a tensor."""
    mode, upright = _MODES.get(source.in_chans), source.exif_orientation
    lines = ["import timm", "import torch"]
    if mode is not None:
        lines += [f"from PIL import Image{', ImageOps' * upright}"]
    lines += ["", f"model = timm.create_model({printable(address)!r}, pretrained=True).eval()"]
    if mode is not None:
        lines += [
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
            'image = Image.open("image.png")',
            *(["image = ImageOps.exif_transpose(image)"] * upright),
            f'images = transform(image.convert("{mode}")).unsqueeze(0)',
        ]
    else:
        shape = ", ".join(map(str, (1, source.in_chans, *pair(source.img_size))))
        lines += [
            f"mean, std = torch.tensor({list(source.mean)}), torch.tensor({list(source.std)})",
            f"images = torch.rand({shape})  # yours, in [0, 1]",
            "images = (images - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)",
        ]
    lines += ["with torch.no_grad():", f"    features = model(images)  # [1, {features}]"]
    return "\n".join(lines)
