"""The part of benchmarks/training_speed.py that needs a GPU to run: how busy it was."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

PATH = Path(__file__).parents[1] / "benchmarks" / "training_speed.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("training_speed", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def event(start, end, device=DeviceType.CUDA, annotation=False):
    """An event of the profiler, in microseconds."""
    span = SimpleNamespace(start=start, end=end)
    return SimpleNamespace(time_range=span, device_type=device, is_user_annotation=annotation)


def test_overlapping_kernels_count_once_and_annotations_not_at_all(benchmark):
    kernels = [event(30, 40), event(0, 10), event(5, 20), event(6, 8)]
    others = [event(0, 100, annotation=True), event(0, 90, device=DeviceType.CPU)]
    busy = benchmark.busy_seconds([*others, *kernels], DeviceType.CUDA)
    assert busy == pytest.approx(30e-6)
    assert benchmark.busy_seconds(others[:1], DeviceType.CUDA) == 0
