"""What a process asks of its GPUs."""

import jax
import pytest

from colorize_jax.setup.machine import platform


@pytest.fixture
def gpus(monkeypatch):
    monkeypatch.setattr(platform, "DRIVERS", ("/",))
    monkeypatch.setattr(platform, "PLUGINS", ("jax",))


def test_memory_and_compiler_are_set_and_told(gpus):
    environment = {}
    told = platform.configure(environment)
    assert environment["XLA_CLIENT_MEM_FRACTION"] == "0.9"
    flags = [flag for flag in platform.FLAGS if flag.exists()]
    for flag in flags:
        text = f"--{flag.name}={str(flag.value).lower()}"
        assert text in environment["XLA_FLAGS"].split()
        assert any(text in line and flag.why in line for line in told)
    assert len(told) == 1 + len(flags)


@pytest.mark.parametrize(
    ("jaxlib", "has_it"),
    [("0.10.2", True), ("0.11.1", True), ("0.11.2", False), ("0.12.0.dev1", False)],
)
def test_no_compiler_gets_a_flag_that_it_does_not_know(gpus, monkeypatch, jaxlib, has_it):
    monkeypatch.setattr(platform, "version", lambda _: jaxlib)
    environment = {}
    platform.configure(environment)
    assert ("xla_gpu_enable_pipelined_all_gather" in environment["XLA_FLAGS"]) == has_it
    assert ("xla_gpu_enable_pipelined_all_gather" in platform.compiler_options()) == has_it


def test_the_installed_compiler_knows_every_flag():
    jax.jit(lambda x: x + 1).lower(1.0).compile(compiler_options=platform.compiler_options())


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
