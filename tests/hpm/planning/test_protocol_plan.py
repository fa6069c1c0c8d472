"""What fine-tuning for a dense task costs, against counts by hand and against a network that computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hpm.config import parse_config
from hpm.evaluation import Detection
from hpm.evaluation.dense.mask_rcnn import MaskRCNNOnEncoder
from hpm.planning.gpus import GPUS
from hpm.planning.protocol_plan import ProtocolPlan, plan_protocol

VIT = "recipes/hpm_vit_base_800.gin"


def planned(*configs: str, protocol: str, bindings: tuple[str, ...] = (), **settings: Any) -> ProtocolPlan:
    given = {"gpus": 1, "device": "h100", "images": 1000, "mfu": 0.3} | settings
    return plan_protocol(parse_config([VIT, *configs], list(bindings)), protocol, **given)


def test_segmentation_by_hand() -> None:
    """ViT-B of 32 x 32 patches: the blocks' weights by every token, attention twice, and a layer of 100 classes."""
    bindings = ("FineTuneSegmentation.decoder = 'linear'",)
    plan = planned("evaluation/segmentation_ade20k.gin", protocol="segmentation-finetune", bindings=bindings)
    tokens, width = 32 * 32 + 1, 768
    by_hand = 12 * (12 * tokens * width**2 + 2 * tokens**2 * width) + 32 * 32 * 768 * (width + 100)
    assert plan.multiply_adds == {"encoder and decoder": pytest.approx(by_hand, rel=1e-3)}
    assert plan.steps == 127 * (1000 // 16)
    assert plan.step_flops == 6 * 16 * plan.multiply_adds["encoder and decoder"]
    seconds = plan.steps * plan.step_flops / (0.3 * GPUS["h100"].peaks["bf16"] * 1e12)
    assert plan.hours == pytest.approx(seconds / 3600)
    assert planned(
        "evaluation/segmentation_ade20k.gin", protocol="segmentation-finetune", bindings=bindings, gpus=4
    ).hours == pytest.approx(plan.hours / 4)


def test_the_detectors_parts_are_what_it_computes() -> None:
    """A forward pass that finds nothing is the pyramid, the proposals and the box head on some regions."""
    from tiny_models import tiny_model

    model = tiny_model()
    evaluation = Detection(channels=16, hidden=32, anchor_scale=2, regions=8, proposals=10, batch_size=2)
    network = evaluation.network(model, 3)
    assert isinstance(network, MaskRCNNOnEncoder)
    images = torch.zeros(1, model.in_chans, *[model.img_size] * 2)  # type: ignore[list-item]
    counts = {}
    for name, compute in evaluation.parts(network.eval(), images).items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            compute()
        counts[name] = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.detector.rpn.nms_thresh = 1.0
        network.detector.roi_heads.score_thresh = 2.0  # nothing is found, so that no mask is made
        network(images)
    proposals = min(10, counts["box head"])  # as many as it looks at
    assert counter.get_total_flops() == pytest.approx(
        counts["encoder and pyramid"] + counts["proposals"] + counts["box head"] * proposals / 8, rel=0.2
    )


def test_the_command(hpm: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    words = ["plan", "recipes/hpm_vit_base_800", "evaluation/detection_coco", "--protocol", "detection"]
    bindings = ["-b", "IMG_SIZE = 64", "-b", "MaskedAutoencoder.depth = 2", "--images", "118287"]
    assert hpm(*words, *bindings) == 0
    text = capsys.readouterr().out
    for part in ("encoder and pyramid", "proposals", "box head", "mask head", "184,800 steps", "GPU hours"):
        assert part in text
    assert hpm(*words, *bindings, "--json") == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 184_800


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--protocol", "knn", "--images", "10"],
            "--protocol knn cannot be planned; choose detection or",
        ),
        (["--protocol", "detection"], "--images is needed with --protocol detection"),
        (["--protocol", "detection", "--images", "10"], "Detection.batch_size = 64 must be 1 to 10"),
        (["--protocol", "detection", "--images", "100", "--gpus", "3"], "Detection.batch_size = 64 must be divisible"),
        (["--protocol", "detection", "--images", "100", "--device", "abacus"], "--device abacus is unknown"),
        (["--protocol", "detection", "--images", "100", "-b", "KNN.k = 3"], "KNN.k (-b) is bound, but nothing in"),
    ],
)
def test_refuses(hpm: Callable[..., int], words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    small = ["-b", "IMG_SIZE = 64", "-b", "MaskedAutoencoder.depth = 2"]
    assert hpm("plan", "recipes/hpm_vit_base_800", "evaluation/detection_coco", *small, *words) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
