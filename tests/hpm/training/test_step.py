"""A training step: accumulation, clipping, no hidden waiting, no recompilation."""

from __future__ import annotations

import pytest
import torch

from curriculum import Batch, Curriculum, HardestFirst, Noise, PredictedLoss, Ramp, UniformRatio
from curriculum.testing import refuse_host_sync
from hpm.methods.decay import HorizonDecay
from hpm.methods.method import Method
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.optim.param_groups import build_adamw
from hpm.runtime.distributed import DistributedContext
from hpm.targets import NormalizedPixels
from hpm.training.setup import compile_method
from hpm.training.step import TrainingStep

STEPS = 200


def training_step(
    *,
    clip_grad: float | None = None,
    checkpointing: bool = False,
    mask_ratio: float | UniformRatio = 0.75,
    depth: int = 2,
    dense: int = 0,
) -> TrainingStep:
    model = MaskedAutoencoder(
        img_size=16,
        patch_size=4,
        embed_dim=16,
        depth=depth,
        num_heads=2,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
        loss_predictor_depth=1,
    )
    curriculum = Curriculum(
        scheduler=Ramp(start=0.0, end=1.0), difficulty=PredictedLoss(), sampler=HardestFirst(), mask_ratio=mask_ratio
    )
    method = Method(
        model=model,
        curriculum=curriculum,
        target=NormalizedPixels(),
        ema_decay=HorizonDecay(),
        dense_prediction_every=dense,
    )
    method.initialize(torch.device("cpu"), autocast=None, seed=0)
    model.set_grad_checkpointing(checkpointing)
    optimizer = build_adamw(model, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95))
    return TrainingStep(method, optimizer, processes=DistributedContext(), seed=0, batch_size=8, clip_grad=clip_grad)


def batches(number: int, micro: int = 1) -> list[Batch]:
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(number))
    return [Batch(part, 4) for part in images.chunk(micro)]


def take(step: TrainingStep, number: int, micro: int = 1) -> None:
    step(batches(number, micro), step=number, progress=(number + 1) / STEPS, lr=1e-3, decay=0.9)


def weights(step: TrainingStep) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in step.method.student.named_parameters()}


@pytest.mark.parametrize(("micro", "dense"), [(2, 0), (4, 0), (2, 2)])
def test_accumulation_equals_the_large_batch(micro: int, dense: int) -> None:
    """Same masks, same loss, same gradient, whatever the number of micro-batches."""
    whole, parts = training_step(dense=dense), training_step(dense=dense)
    for number in range(100, 103):
        take(whole, number)
        take(parts, number, micro)
    torch.testing.assert_close(parts.tally.sums, whole.tally.sums, atol=1e-6, rtol=1e-6)
    for name, tensor in weights(whole).items():
        if not name.endswith("bias"):  # some have no gradient but rounding, of which AdamW makes steps
            torch.testing.assert_close(weights(parts)[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dense", [0, 2])
def test_activation_checkpointing_changes_no_bit(dense: int) -> None:
    plain, saving = training_step(dense=dense), training_step(checkpointing=True, dense=dense)
    for number in range(100, 103):
        take(plain, number)
        take(saving, number)
    for name, tensor in weights(plain).items():
        assert torch.equal(weights(saving)[name], tensor), name


def test_clipping() -> None:
    """The norm is that before clipping; AdamW's first step ignores a gradient's scale, its second moment does not."""
    free, clipped = training_step(), training_step(clip_grad=1e-3)
    for step in (free, clipped):
        take(step, 100)
    assert clipped.tally.sums[3] == free.tally.sums[3] > 1e-3
    moment = torch.cat([clipped.optimizer.state[p]["exp_avg"].flatten() for p in clipped.method.student.parameters()])
    assert moment.norm() == pytest.approx(1e-3 * (1 - 0.9), rel=1e-3)


def test_no_step_of_a_schedule_waits_for_the_device() -> None:
    step = training_step(clip_grad=1.0, dense=3)
    with refuse_host_sync():
        for number in range(STEPS):
            take(step, number)
    assert step.tally.sums[4] == STEPS


@pytest.mark.parametrize(("blocks", "dense"), [(False, 0), (True, 0), (False, 3), (True, 3)])
def test_no_step_of_a_schedule_recompiles(blocks: bool, dense: int) -> None:
    """Two graphs of the student's pass and one of the teacher's would do; alpha moves over all its values.

    With dense prediction there are two passes of the student, compiled in steps 0 and 34.
    """
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    compiled, plain = training_step(dense=dense), training_step(dense=dense)
    # Captures and guards as the default does, and spares the C++ compiler.
    compile_method(compiled.method, blocks=blocks, backend="aot_eager")
    counters.clear()
    teacher_asked = 2 * STEPS // 12 + 1  # int(12 * alpha) > 0 from here on
    for number in (0, teacher_asked):
        take(compiled, number)
        take(plain, number)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs >= 2
    with torch.compiler.set_stance("fail_on_recompile"):
        for number in range(STEPS):
            take(compiled, number)
            take(plain, number)
    assert counters["stats"]["unique_graphs"] == graphs
    # And compiling changes nothing but rounding, which training then amplifies.
    torch.testing.assert_close(compiled.tally.sums[:3], plain.tally.sums[:3], atol=0.0, rtol=1e-2)


def test_blocks_of_one_shape_share_a_graph() -> None:
    """However deep the encoder is."""
    from torch._dynamo.utils import counters

    graphs = []
    for depth in (2, 6):
        torch._dynamo.reset()
        counters.clear()
        step = training_step(depth=depth)
        compile_method(step.method, blocks=True, backend="eager")
        for number in (0, STEPS - 1):
            take(step, number)
        graphs.append(counters["stats"]["unique_graphs"])
        assert not counters["graph_break"]
    assert graphs[0] == graphs[1] <= 8


def test_a_ratio_drawn_in_each_step_compiles_once_for_each_level() -> None:
    """And once more for its dense passes. PyTorch's own limit of eight is the number of levels by default."""
    torch._dynamo.reset()
    ratio = UniformRatio(low=0.1, high=0.6)  # 3, 4, ..., 10 of 16 patches
    compiled, plain = (training_step(mask_ratio=ratio, dense=2) for _ in range(2))
    compile_method(compiled.method, blocks=False, backend="eager")  # captures and guards, and is done in seconds

    def train(numbers: range) -> set[int]:
        """And say how many patches were masked."""
        for number in numbers:
            take(compiled, number)
            take(plain, number)
        noise = [Noise.for_batch(seed=0, step=number, batch_size=1) for number in numbers]
        return {compiled.method.curriculum.count_masked(16, noise=step) for step in noise}

    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        assert train(range(100, 170)) == {*range(3, 11)}
        with torch.compiler.set_stance("fail_on_recompile"):
            assert train(range(170, 200)) == {*range(3, 11)}
    torch.testing.assert_close(compiled.tally.sums[:3], plain.tally.sums[:3], atol=0.0, rtol=1e-2)
