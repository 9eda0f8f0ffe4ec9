"""The part of experiments/speed/training.py that needs a GPU to run: how busy it was."""

from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from experiments.speed.training import busy_seconds


def event(start, end, device=DeviceType.CUDA, annotation=False):
    """An event of the profiler, in microseconds."""
    span = SimpleNamespace(start=start, end=end)
    return SimpleNamespace(time_range=span, device_type=device, is_user_annotation=annotation)


def test_overlapping_kernels_count_once_and_annotations_not_at_all():
    kernels = [event(30, 40), event(0, 10), event(5, 20), event(6, 8)]
    others = [event(0, 100, annotation=True), event(0, 90, device=DeviceType.CPU)]
    assert busy_seconds([*others, *kernels], DeviceType.CUDA) == pytest.approx(30e-6)
    assert busy_seconds(others[:1], DeviceType.CUDA) == 0
