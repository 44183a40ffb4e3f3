"""The same seed is the same picture on any number of devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("devices.py")


@pytest.mark.slow
def test_pictures_do_not_depend_on_the_number_of_devices():
    found = []
    for count in (1, 4):
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
        result = subprocess.run(
            [sys.executable, SCRIPT],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            cwd=SCRIPT.parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-2000:]
        found.append(json.loads(result.stdout))
    # Each device makes its own pictures.
    assert [one["rows"] for one in found] == [4, 1]
    difference = np.subtract(found[0]["images"], found[1]["images"])
    assert np.abs(difference).max() <= 1
