"""The accuracy of a run's own classifier, image by image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hpm.data import TEST, VALIDATION
from hpm.evaluation import EvaluationContext
from hpm.evaluation.trained_classifier import TrainedClassifier
from hpm.methods.teacher import EMATeacher
from hpm.models.base import MaskedModel


@pytest.fixture
def classifying(context: EvaluationContext) -> EvaluationContext:
    """Student and moving average with classifiers at random, and unlike."""
    model: MaskedModel = context.initial()
    model.set_classes(context.source.num_classes)
    teacher = EMATeacher(model, context.target)
    for number, one in enumerate((model, teacher.model)):
        assert one.class_head is not None
        one.class_head.weight.data.normal_(generator=torch.Generator().manual_seed(number))
    return replace(context, model=model, teacher=teacher, untrained=frozenset())


def test_it_is_the_share_of_whole_images_whose_likeliest_class_is_right(classifying: EvaluationContext) -> None:
    classifying = replace(classifying, splits=(TEST, VALIDATION))
    metrics, source = TrainedClassifier()(classifying), classifying.source
    assert len(metrics) == 2 * len(classifying.held_out) > 0
    for name, split in classifying.held_out.items():
        prefix = "" if name == TEST else "validation/"
        assert split.labels is not None
        for which, model in (("pretrained", classifying.model), ("teacher", classifying.teacher.model)):
            right = 0
            for index in range(len(split)):
                image = source.load(split, torch.tensor([index]))
                with torch.no_grad():
                    right += int(model.class_logits(image).argmax()) == int(split.labels[index])
            assert metrics[f"{prefix}classifier/{which}"] == pytest.approx(right / len(split))
            assert classifying.scored_images[f"{prefix}classifier/{which}"] == len(split)
    assert len({metrics["classifier/pretrained"], metrics["classifier/teacher"]}) == 2


def test_a_moving_average_that_a_file_lacks_is_left_out(classifying: EvaluationContext) -> None:
    without = replace(classifying, untrained=frozenset({"moving average"}))
    assert "classifier/teacher" not in TrainedClassifier(test_images=9)(without)
    assert "classifier/teacher" in TrainedClassifier(test_images=9)(classifying)
    assert TrainedClassifier().needs_trained(classifying.model) == {"class head"}


def test_a_model_without_a_classifier_is_refused(context: EvaluationContext, classifying: EvaluationContext) -> None:
    TrainedClassifier().check(context.source, classifying.model)
    message = r"TrainedClassifier asks the classifier of a semi-supervised run, and this model has none; set Method.sup"
    with pytest.raises(ValueError, match=message):
        TrainedClassifier().check(context.source, context.initial())
    with pytest.raises(ValueError, match=r"TrainedClassifier.test_images = 0 must be at least 1"):
        TrainedClassifier(test_images=0)
