"""What a process asks of its GPUs."""

import pytest

from colorize_jax.setup import platform


@pytest.fixture
def gpus(monkeypatch):
    monkeypatch.setattr(platform, "DRIVERS", ("/",))
    monkeypatch.setattr(platform, "PLUGINS", ("jax",))


def test_memory_and_compiler_are_set_and_told(gpus):
    environment = {}
    told = platform.configure(environment)
    assert environment["XLA_CLIENT_MEM_FRACTION"] == "0.9"
    for flag in platform.FLAGS:
        text = f"--{flag.name}={str(flag.value).lower()}"
        assert text in environment["XLA_FLAGS"].split()
        assert any(text in line and flag.why in line for line in told)
    assert len(told) == 1 + len(platform.FLAGS)


def test_what_the_environment_says_counts(gpus):
    name = platform.FLAGS[0].name
    given = f"--{name}=false --xla_dump_to=somewhere"
    environment = {"XLA_FLAGS": given, "XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}
    told = platform.configure(environment)
    assert environment["XLA_FLAGS"].endswith(given)
    assert environment["XLA_FLAGS"].count(name) == 1
    assert "XLA_CLIENT_MEM_FRACTION" not in environment
    assert not any(name in line or "MEM_FRACTION" in line for line in told)


@pytest.mark.parametrize("platforms", ["cpu", "tpu,cpu"])
def test_nothing_is_set_where_no_gpu_is_used(gpus, platforms):
    environment = {"JAX_PLATFORMS": platforms}
    assert platform.configure(environment) == [] and environment == {"JAX_PLATFORMS": platforms}


def test_nothing_is_set_without_a_driver(monkeypatch):
    monkeypatch.setattr(platform, "DRIVERS", ("/nowhere",))
    environment = {}
    assert platform.configure(environment) == [] and not environment
