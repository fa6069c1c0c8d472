"""Runs whose images grow: resumed, divided and loaded otherwise they are the same run, and plans count every size."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from record import assert_same_run, recorded_lines

from curriculum import Batch, UniformRatio
from curriculum.sizes import Size
from curriculum.testing import refuse_host_sync
from hpm.config import parse_config
from hpm.errors import UserError
from hpm.methods import run_work
from hpm.methods.operations import multiply_adds
from hpm.planning.plan import Plan, make_plan
from hpm.runs.checkpoint import Checkpoint, list_checkpoints
from hpm.training.cautions import cautions
from hpm.training.setup import compile_method
from hpm.training.trainer import Trainer

Hpm = Callable[..., int]
GROWING = """
Trainer.image_size = @size/Piecewise()
size/Piecewise.points = [(0, 8), (0.5, 12), (0.8, 16)]
size/Piecewise.interpolation = 'hold'
"""
SIZES: list[Size] = [8, 12, 12, 16]
MEMORY = """
Method.curriculum = @RecordingCurriculum()
RecordingCurriculum.scheduler = @Ramp()
RecordingCurriculum.difficulty = @LossMemory()
RecordingCurriculum.sampler = @HardestFirst()
RecordingCurriculum.mask_ratio = 0.5
Ramp.end = 0.9
Monitoring.evaluations = []
DigitScenes.train_size = 80
"""
STEPS, ROWS = 20, 16  # four epochs of five steps
ALWAYS = ("Curriculum.scheduler = @Constant()", "Constant.value = 1.0")
SWIN = """
Method.model = @SimMIM()
SimMIM.encoder = @Swin()
Swin.img_size = 16
Swin.patch_size = 2
Swin.embed_dim = 8
Swin.depths = (1, 1)
Swin.num_heads = (1, 1)
"""
RAMP = ("Trainer.image_size = @size/Ramp()", "size/Ramp.start = 8")


@pytest.fixture
def growing(tiny_with_plugins: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_with_plugins.write_text("import recording\n" + tiny_with_plugins.read_text() + GROWING + MEMORY)
    monkeypatch.chdir(tiny_with_plugins.parent)
    return tiny_with_plugins


@pytest.fixture
def train(growing: Path, hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Trains in this process."""

    def run(name: str, *bindings: str) -> Path:
        monkeypatch.setenv("RECORD", str(tmp_path / f"{name}.txt"))
        words = [word for text in bindings for word in ("-b", text)]
        assert hpm("pretrain", growing, *words, "--output", name) == 0
        return tmp_path / name

    return run


def drawn(run: Path) -> set[str]:
    found = set(recorded_lines(run.with_suffix(".txt")))
    assert len(found) == STEPS * ROWS
    return found


def memory_of(run: Path) -> torch.Tensor:
    saved = Checkpoint(list_checkpoints(run / "checkpoints")[0])
    assert saved.values["step"] == STEPS
    return saved.tensor("curriculum.scores").float() * saved.tensor("curriculum.scale").unsqueeze(1)


def built(tiny: Path, *bindings: str) -> Trainer:
    tiny.write_text(tiny.read_text() + GROWING)
    return parse_config([str(tiny)], bindings).build()


def test_the_images_of_each_epoch_have_its_size(
    train: Callable[..., Path], growing: Path, hpm: Hpm, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("run")
    assert "4 epochs of 5 steps of 16 images of 8 -> 16 px, on cpu" in " ".join(capsys.readouterr().out.split())
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["images"], summary["image_sizes"]) == (320, [8, 12, 16])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [(row["step"], row["image_size"]) for row in rows if row["kind"] == "train"]
    assert logged == [(step, SIZES[(step - 1) // 5]) for step in range(4, 21, 4)]
    assert memory_of(run).shape[1] == 16
    trainer: Trainer = parse_config([str(growing)]).build()
    for epoch, size in enumerate(SIZES):
        (batch,) = next(trainer.loader.epoch(epoch, 3))
        assert batch.images.shape[2:] == (size, size)
    assert hpm("evaluate", "run", "--protocol", "knn", "-b", "KNN.train_images = 32") == 0
    assert hpm("export", "run", "--format", "timm", "--out", "exported") == 0
    assert json.loads(Path("exported/config.json").read_text())["pretrained_cfg"]["input_size"] == [3, 16, 16]
    words = ["-b", "size/Piecewise.points = [(0, 8), (0.5, 16)]"]
    assert hpm("pretrain", *words, "--resume", "--output", "run") == 2
    assert "size/Piecewise.points" in capsys.readouterr().err


def test_workers_micro_batches_and_processes_change_nothing(
    growing: Path, train: Callable[..., Path], tmp_path: Path, forks: Forks
) -> None:
    """Workers to the bit, the others in what is drawn, and up to the order in which numbers are added."""
    alone = train("alone")
    assert_same_run(alone, train("helped", "Loading.num_workers = 2"))
    environment = {**os.environ, "RECORD": str(tmp_path / "both.txt")}
    ran = forks.run("hpm", "pretrain", growing, "--output", "both", env=environment, processes=2)
    assert ran.returncode == 0, ran.stderr
    environment = {**os.environ, "RECORD": str(tmp_path / "sharded.txt")}
    words = ("-b", "Runtime.sharding = 'fsdp'", "-b", "Schedule.accumulate = 4")
    ran = forks.run("hpm", "pretrain", growing, "--output", "sharded", *words, env=environment, processes=2)
    assert ran.returncode == 0, ran.stderr
    for divided in (tmp_path / "both", tmp_path / "sharded"):
        assert drawn(divided) == drawn(alone)
        torch.testing.assert_close(memory_of(divided), memory_of(alone), atol=0.02, rtol=0, equal_nan=True)


def test_killed_in_mid_epoch_and_resumed(
    growing: Path, train: Callable[..., Path], hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: Forks
) -> None:
    """To the bit, from a step between two sizes."""
    whole = train("whole")
    environment = {**os.environ, "RECORD": str(tmp_path / "killed.txt"), "KILL_AT": "17"}
    dead = forks.run("hpm", "pretrain", growing, "--output", "killed", env=environment)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    monkeypatch.setenv("RECORD", environment["RECORD"])
    assert hpm("pretrain", "--resume", "--output", "killed") == 0
    assert_same_run(whole, tmp_path / "killed")
    assert drawn(whole) == drawn(tmp_path / "killed")


def test_the_full_size_in_all_epochs_is_the_run_without_it(train: Callable[..., Path]) -> None:
    whole, without = train("whole", "Trainer.image_size = 16"), train("without", "Trainer.image_size = None")
    assert_same_run(whole, without)
    assert "image_size" not in (whole / "metrics.jsonl").read_text()


def test_a_trained_loss_predictor_and_dense_prediction_follow(tiny: Path) -> None:
    """The teacher, its scores and the dense pass see each size, and no step waits for the device."""
    trainer = built(tiny, "Method.dense_prediction_every = 3", *ALWAYS)
    step = trainer.build_step()
    for epoch, size in enumerate(SIZES):
        (batch,) = next(trainer.loader.epoch(epoch))
        number = 10 * epoch
        with refuse_host_sync():
            (losses,) = step([batch], **trainer.step_arguments(trainer.clock.at(number + number % 3)))
        patches = (int(size) // 4) ** 2  # type: ignore[arg-type]
        assert losses.mask.num_patches == patches
        assert losses.mask.num_masked == patches - patches // 4
        assert trainer.method.curriculum.scores is not None
        assert trainer.method.curriculum.scores.shape == (16, patches)
        assert losses.predicted_NM is not None
        assert losses.predicted_NM.isfinite().all()


def test_each_size_is_compiled_once(tiny: Path) -> None:
    """Three sizes of three numbers of masked patches each are more shapes than torch compiles by itself."""
    torch._dynamo.reset()
    words = ["IMG_SIZE = 28", *RAMP, "size/Ramp.start = 16", "size/Ramp.end = 28", "Method.ema_decay = None"]
    words += ["Curriculum.difficulty = @Uniform()", "MaskedAutoencoder.loss_predictor_depth = None"]
    trainer: Trainer = parse_config([str(tiny)], words).build()
    trainer.method.curriculum.mask_ratio = UniformRatio(low=0.3, high=0.8, levels=3)
    sizes = trainer.image_sizes.all
    assert sizes == [20, 24, 28]
    step = trainer.build_step()
    compile_method(trainer.method, blocks=False, backend="eager", sizes=len(sizes))
    (whole,) = next(trainer.loader.epoch(3))

    def take(numbers: range) -> None:
        for number in numbers:
            side = int(sizes[number % len(sizes)])  # type: ignore[arg-type]
            batch = Batch(whole.images[..., :side, :side].contiguous(), 4)
            step([batch], **trainer.step_arguments(trainer.clock.at(number % 40)))

    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        take(range(40))
        with torch.compiler.set_stance("fail_on_recompile"):
            take(range(40, 60))


def plan(tiny: Path, *bindings: str) -> Plan:
    return make_plan(parse_config([str(tiny)], bindings))


def test_a_plan_counts_the_mean_over_the_sizes(tiny: Path) -> None:
    each = {size: plan(tiny, f"Trainer.image_size = {size}", *ALWAYS) for size in (8, 12, 16)}
    tiny.write_text(tiny.read_text() + GROWING)
    growing = plan(tiny, *ALWAYS)
    assert growing.image_sizes == [(8, 0.25), (12, 0.5), (16, 0.25)]
    for part, count in growing.multiply_adds.items():
        shares = [0.25 * each[8].multiply_adds[part], 0.5 * each[12].multiply_adds[part]]
        assert count == pytest.approx(sum(shares) + 0.25 * each[16].multiply_adds[part])
    mean = 0.25 * each[8].step_flops + 0.5 * each[12].step_flops + 0.25 * each[16].step_flops
    assert growing.step_flops == pytest.approx(mean)
    assert each[8].step_flops < each[12].step_flops < each[16].step_flops
    published = [0.25, 0.5, 0.25]
    assert growing.published_multiply_adds == pytest.approx(
        sum(share * one.published_multiply_adds for share, one in zip(published, each.values(), strict=True))
    )
    assert growing.memory == each[16].memory
    assert each[12].memory["activations"] < growing.memory["activations"]


def test_the_teacher_is_counted_at_the_sizes_at_which_it_is_asked(tiny: Path) -> None:
    """Against a sum over epochs: at first no hard patch is masked, and then images are larger."""
    trainer = built(tiny, "Ramp.begin = 0.3", "Curriculum.score_every = 4")
    method, clock = trainer.method, trainer.clock
    with torch.device("meta"):
        method.student.to("meta")
        found = run_work.run_work(method, clock, "epoch", trainer.image_sizes)
        total = 0.0
        for epoch, size in enumerate(SIZES):
            now = (epoch + 1) / 4
            work = multiply_adds(method.at_size(size), [now])
            patches = (int(size) // 4) ** 2  # type: ignore[arg-type]
            student = work["encoder"] + work["reconstructor"] + work["loss predictor"]
            for step in range(10 * epoch, 10 * epoch + 10):
                asked = step % 4 == 0 and method.curriculum.needs_scores_at(now, patches)
                total += 3 * student + asked * work["teacher"]
    assert 0 < found.teacher_share < 0.25
    assert found.average_step() == pytest.approx(total / 40)


@pytest.mark.parametrize("words", [("pretrain", "--output", "run"), ("plan",)], ids=["run", "plan"])
@pytest.mark.parametrize(
    ("binding", "expected"),
    [
        ("Trainer.image_size = 20", "Trainer.image_size = 20 must be a number of pixels from 4, a patch, to 16"),
        (
            "Trainer.image_size = @MetricPaced()",
            "Trainer.image_size = MetricPaced follows what is learned; it can follow time alone, e.g. @Ramp()",
        ),
        (
            "RecordingCurriculum.difficulty = @ADIOS()",
            "Trainer.image_size brings images of 8 pixels: Curriculum.difficulty = ADIOS knows the 16 places of one",
        ),
        (
            "Method.target = @OnlineClusters()\nOnlineClusters.clusters = 24",
            "Trainer.image_size brings images of 8 pixels: Method.target = OnlineClusters knows the 16 places of one",
        ),
        (
            "RecordingCurriculum.mask_ratio = 0.9",
            "Trainer.image_size brings images of 8 pixels: Curriculum.mask_ratio = 0.9 of 4 patches leaves 0 visible",
        ),
        (
            "RecordingCurriculum.sampler = @Blockwise()\nBlockwise.min_patches = 3",
            "Trainer.image_size brings images of 8 pixels: Blockwise.min_patches = 3 must be at most 2",
        ),
        (
            SWIN,
            "Trainer.image_size brings images of 8 pixels: Swin takes images of one size alone, 16 pixels",
        ),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    growing: Path, hpm: Hpm, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], binding: str, expected: str
) -> None:
    lines = growing.read_text().splitlines()
    if binding == SWIN:
        lines = [line for line in lines if not line.startswith("MaskedAutoencoder")]
    growing.write_text("\n".join([*lines, binding]))
    assert hpm(words[0], growing, *words[1:]) == 2
    assert expected in " ".join(capsys.readouterr().err.split())
    assert not Path("run").exists()


def test_recorded_steps_are_of_one_shape(growing: Path) -> None:
    with pytest.raises(UserError, match=r"True replays steps of one shape, and Trainer.image_size = 8 -> 16"):
        plan(growing, "Runtime.cuda_graphs = True")


def test_a_run_that_ends_with_small_images_is_told(tiny: Path) -> None:
    trainer: Trainer = parse_config([str(tiny)], ["Trainer.image_size = 12"]).build()
    told = "the last epoch trains at 12 pixels, and evaluations look at 16; let Trainer.image_size end at 16"
    assert told in cautions(trainer.method, trainer.clock, trainer.image_sizes)
    whole: Trainer = parse_config([str(tiny)], [*RAMP, "size/Ramp.end = 16"]).build()
    assert not any("pixels" in told for told in cautions(whole.method, whole.clock, whole.image_sizes))


def test_positions_of_its_own_are_of_one_grid(tiny: Path, tmp_path: Path) -> None:
    trainer = built(tiny)
    weights: dict[str, Any] = {
        name.removeprefix("encoder."): value
        for name, value in trainer.method.student.state_dict().items()
        if name.startswith("encoder.")
    }
    computed, learned = tmp_path / "computed.pth", tmp_path / "learned.pth"
    torch.save({"model": weights}, computed)
    torch.save({"model": weights | {"pos_embed": weights["pos_embed"] + 0.1}}, learned)
    trainer.start_from(computed)
    with pytest.raises(UserError, match=r"has positions of its own, encoder.pos_embed, which are of one grid, and Tra"):
        trainer.start_from(learned)
