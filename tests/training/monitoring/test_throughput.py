"""What a meter says of steps, of programs with different costs, and of pauses."""

import pytest

from colorize_jax.training.monitoring.throughput import Meter


def test_rates_by_program_without_the_time_of_compilation():
    now = [0.0]
    meter = Meter(8, num_devices=2, device_kind="NVIDIA H100", clock=lambda: now[0])
    meter.flops = {"small": 100, "large": 300}
    with meter.waiting(None):
        now[0] += 1.0
    with meter.paused():
        now[0] += 1000.0
    for program in ("small", "large", "large"):
        meter.count(program)
        now[0] += 1.0
    rates = meter.report()
    assert rates["images_per_second"] == pytest.approx(3 * 8 / 4)
    assert rates["step_seconds"] == pytest.approx(4 / 3)
    assert rates["data_wait_share"] == pytest.approx(0.25)
    assert rates["tflops_per_device"] == pytest.approx(700 / 4 / 2 / 1e12)
    meter.count("unknown")
    now[0] += 1.0
    assert "mfu" not in meter.report()


class _Output:
    """Of a step that runs, or ran."""

    def __init__(self, ready: bool) -> None:
        self.ready = ready

    def is_ready(self) -> bool:
        return self.ready


def test_waiting_counts_where_the_devices_have_nothing_to_do():
    now = [0.0]
    meter = Meter(8, num_devices=1, device_kind="cpu", clock=lambda: now[0])
    for ready, seconds in ((False, 3.0), (True, 1.0)):
        with meter.waiting({"loss": _Output(ready), "norm": _Output(True)}):
            now[0] += seconds
        meter.count("step")
    assert meter.report()["data_wait_share"] == pytest.approx(1 / 4)
