"""Tests that need a GPU, which the other tests hide from themselves."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _on_a_gpu() -> None:
    """Of the session's scope, so that it comes before every other fixture of a test."""
    if os.environ.get("HPM_TEST_GPU") != "1":
        pytest.skip("needs a GPU: make test-gpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU, and torch finds none")
