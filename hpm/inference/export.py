"""`hpm export`: the encoder for other programs.

timm          a folder, config.json, model.safetensors and a model card, README.md, for
              `timm.create_model("local-dir:FOLDER", pretrained=True)`
safetensors   a file of weights under timm's names, or of the whole model under ours
onnx          a file that turns images into features

Shape suffixes: N images, C channels, S side, D width.
"""

from __future__ import annotations

import importlib.util
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError
from torch import Tensor, nn

from curriculum.sizes import pair
from hpm import __version__
from hpm.data import ImageSource
from hpm.errors import UserError
from hpm.inference.loading import LoadedModel, load_model
from hpm.inference.model_card import write_card
from hpm.inference.publish import check_repository, push
from hpm.models.base import MaskedModel
from hpm.runtime.files import check_file, check_folder, printable, replacing, require_new, save_tensors

FORMATS = ("timm", "safetensors", "onnx")
POOLS = ("token", "avg")
_LARGEST_ONNX = 1_800_000_000  # bytes of weights in one file, whose format ends at 2 GB


def export(
    path: Path,
    out: Path,
    console: Console,
    *,
    to: str = "timm",
    configs: Sequence[str] = (),
    bindings: Sequence[str] = (),
    pool: str | None = None,
    weights: str = "student",
    whole: bool = False,
    repository: str | None = None,
    private: bool = False,
) -> Path:
    """Write a trained encoder.

    Args:
        path: what names a trained model, as `find_model` takes it.
        out: the folder (timm) or file (others) to write; must not be there, or be empty.
        console: where a person reads.
        to: the format, one of `FORMATS`.
        configs: over what published weights tell.
        bindings: gin bindings over the configuration.
        pool: what features are, "token", the class token, or "avg", the mean of the patches' tokens; both after the
            encoder's norm, as `hpm embed` computes them. None is "token", or "avg" where there is none; plain weights
            (safetensors) have no pooling.
        weights: "student" or "teacher".
        whole: for safetensors, reconstructor and loss predictor too.
        repository: for timm, where on the Hugging Face Hub the folder is pushed to, "OWNER/NAME"; None for nowhere.
        private: whether a repository that is made for it is seen by nobody else.

    Returns:
        What was written.

    Raises:
        UserError: for unknown options, a target that holds something, no model, a missing package, or a Hub that takes
            nothing; the folder stays then.
    """
    _check(out, to, pool, whole)
    _check_push(repository, to, private)
    loaded = load_model(path, configs, bindings, weights=weights)
    loaded.config.check_bindings()
    for line in loaded.lines:
        console.print(line)
    model, source = loaded.context(weights).model, loaded.source
    pool = pool or ("token" if model.encoder.num_prefix_tokens else "avg")
    if pool == "token" and not model.encoder.num_prefix_tokens and to != "safetensors":
        raise UserError(f"--pool token: {type(model.encoder).__name__} has no class token; choose --pool avg")
    notes = metadata(loaded, model, weights)
    if whole:
        notes |= {
            "target": loaded.method.target.kind,
            "decoder": json.dumps({"num_heads": model.decoder_num_heads}),
        }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as partial:
            if to == "timm":
                write_timm(model, source, pool, notes, partial)
                address = f"local-dir:{out.resolve().name}" if repository is None else f"hf-hub:{repository}"
                write_card(
                    partial, loaded, model, address=address, weights=weights, pool=pool, bindings=[*configs, *bindings]
                )
            elif to == "safetensors":
                _write_safetensors(model if whole else model.encoder, notes, partial)
            else:
                difference = _write_onnx(timm_encoder(model, pool), source, notes, partial)
                console.print(f"onnxruntime and torch agree to {difference:.1e}")
            require_new("--out", out, partial)
    except (OSError, SafetensorError) as error:
        raise UserError(f"--out {out} cannot be written: {error}; choose another --out") from error
    console.print(f"{weights}'s weights: {out}")
    if to == "timm":
        console.print(f"timm.create_model('local-dir:{out}', pretrained=True, num_classes=N)")
    if repository is not None:
        name = notes["from"] if loaded.manifest is None else printable(loaded.manifest.name)
        message = f"{name}: the {weights} after {loaded.step:,} steps, exported by curriculum-masking {__version__}"
        push(out, repository, console, private=private, message=message)
    return out


def _check(out: Path, to: str, pool: str | None, whole: bool) -> None:
    if to not in FORMATS:
        raise UserError(f"--format {to} is unknown; choose one of {', '.join(FORMATS)}")
    if pool is not None and pool not in POOLS:
        raise UserError(f"--pool {pool} is unknown; choose {' or '.join(POOLS)}")
    if pool is not None and to == "safetensors":
        raise UserError(f"--pool {pool} goes with --format timm or onnx; plain weights have no pooling, leave it out")
    if whole and to != "safetensors":
        raise UserError(f"--whole goes with --format safetensors; {to} takes the encoder alone")
    if out.is_dir() and (to != "timm" or any(out.iterdir())):
        raise UserError(f"--out {out} is a folder{' that is not empty' if to == 'timm' else ''}; give a new name")
    if out.is_file():
        raise UserError(f"--out {out} is there already; give a new name, or remove it")
    (check_folder if to == "timm" else check_file)("--out", out)
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if to == "onnx" and missing:
        raise UserError(
            f"--format onnx needs the package {missing[0]}: pip install 'curriculum-masking[export]', or pip install "
            f"{' '.join(missing)}"
        )


def _check_push(repository: str | None, to: str, private: bool) -> None:
    if repository is None:
        if private:
            raise UserError("--private goes with --push OWNER/NAME, the repository that it is to be")
        return
    if to != "timm":
        raise UserError(f"--push {repository} goes with --format timm, which a Hub's users can load; {to} stays a file")
    check_repository(repository)


def timm_arguments(model: MaskedModel, pool: str) -> dict[str, Any]:
    """Arguments of timm's model that make it the model's encoder.

    The norm stands before the pooling, where the encoder has it: timm's ViT would put it behind an average.
    """
    _, arguments = model.encoder.timm_architecture()
    return arguments | {"global_pool": pool} | ({"fc_norm": False} if model.encoder.num_prefix_tokens else {})


def timm_encoder(model: MaskedModel, pool: str) -> nn.Module:
    """The encoder as timm's model without head, on the CPU, for evaluation: [N, C, S, S] -> [N, D]."""
    return model.encoder.timm_model(pool=pool).eval()


def _tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    """Copies, positions among them, on the CPU."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}


def metadata(loaded: LoadedModel, model: MaskedModel, weights: str) -> dict[str, str]:
    """What the weights are and how images reach them; strings, as safetensors and ONNX want.

    Args:
        loaded: what the model was made of.
        model: whose encoder is written.
        weights: "student" or "teacher".
    """
    source = loaded.source
    return {
        "format": "pt",
        "made_by": f"curriculum-masking {__version__}",
        "from": printable(loaded.path.name),
        "step": str(loaded.step),
        "weights": weights,
        "input_size": json.dumps([source.in_chans, *pair(source.img_size)]),
        "mean": json.dumps(source.mean),
        "std": json.dumps(source.std),
        **{name: json.dumps(value) for name, value in _crop(source).items()},
        "exif_orientation": json.dumps(source.exif_orientation),
        "encoder": json.dumps(model.encoder.timm_architecture()[1]),
    }


def write_timm(model: MaskedModel, source: ImageSource, pool: str, notes: dict[str, str], folder: Path) -> None:
    """Write an encoder as a folder for timm.

    Args:
        model: whose encoder it is.
        source: how images reach it.
        pool: "token" or "avg".
        notes: kept with the weights.
        folder: a new one.
    """
    folder.mkdir()
    _write_safetensors(model.encoder, notes, folder / "model.safetensors")
    name, _ = model.encoder.timm_architecture()
    head = "head" if model.encoder.num_prefix_tokens else "head.fc"
    config = {
        "architecture": name,
        "num_classes": 0,
        "num_features": model.encoder.num_features,
        "global_pool": pool,
        "model_args": timm_arguments(model, pool),
        "pretrained_cfg": {
            "input_size": [source.in_chans, *pair(source.img_size)],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            **_crop(source),
            "mean": list(source.mean),
            "std": list(source.std),
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": head,
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _crop(source: ImageSource) -> dict[str, Any]:
    """The evaluation crop in timm's words: a central part of the model's aspect, or all of the image, squashed."""
    height, width = (1000 * side // math.gcd(*pair(source.img_size)) for side in pair(source.img_size))
    wide, own = source.evaluation_boxes(torch.tensor([[height, 2 * width], [height, width]]))
    return {"crop_pct": float(own[2]) / width, "crop_mode": "center" if torch.equal(wide[2:], own[2:]) else "squash"}


def _write_safetensors(module: torch.nn.Module, notes: dict[str, str], file: Path) -> None:
    save_tensors(_tensors(module), file, notes)


def _write_onnx(vit: nn.Module, source: ImageSource, notes: dict[str, str], file: Path) -> float:
    """Write images [N, C, S, S] -> features [N, D], for any N.

    Returns:
        The largest difference between onnxruntime's features of some noise and torch's.
    """
    import onnx
    import onnxruntime

    size = sum(value.numel() * value.element_size() for value in vit.state_dict().values())
    if size > _LARGEST_ONNX:
        raise UserError(f"--format onnx: {size / 1e9:.1f} GB of weights do not fit in one ONNX file; export to timm")
    images = torch.randn(2, source.in_chans, *pair(source.img_size), generator=torch.Generator())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about the exporter's own insides
        torch.onnx.export(
            vit,
            (images,),
            str(file),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )
    content = onnx.load(file)
    onnx.helper.set_model_props(content, {name: text for name, text in notes.items() if name != "format"})
    onnx.save(content, file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    more = images.repeat(2, 1, 1, 1)[:3]  # another batch than the one that was traced
    (features,) = session.run(None, {"images": more.numpy()})
    with torch.no_grad():
        return float((torch.from_numpy(features) - vit(more)).abs().max())
