"""The choice of a rematerialization policy by what fits."""

import logging

import jax
import pytest

from colorize_jax.analysis import rematerialization
from colorize_jax.analysis.rematerialization import LADDER, SHARE, estimate, settle, with_policy
from colorize_jax.config.load import load_config
from colorize_jax.sharding import make_mesh


@pytest.fixture(scope="module")
def config():
    return load_config("configs/tiny.py", ["--config.model.remat=auto"])


@pytest.fixture(scope="module")
def mesh(config):
    return make_mesh(config.mesh, jax.devices()[:1])


@pytest.fixture(scope="module")
def estimates(config, mesh):
    return [estimate(with_policy(config, name), mesh) for name in LADDER]


def test_more_is_computed_again_from_step_to_step(estimates):
    kept = [one.kept for one in estimates]
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == len(kept)
    assert {one.state for one in estimates} == {estimates[0].state}


@pytest.fixture
def estimated(monkeypatch, estimates):
    """No policy is estimated twice."""
    known = {one.policy: one for one in estimates}
    monkeypatch.setattr(
        rematerialization, "estimate", lambda config, mesh: known[config.model.remat]
    )


@pytest.mark.usefixtures("estimated")
@pytest.mark.parametrize("index", range(len(LADDER)))
def test_the_first_that_fits_is_taken_and_told(config, mesh, estimates, index, caplog):
    with caplog.at_level(logging.INFO, logger="colorize_jax"):
        settled = settle(config, mesh, (estimates[index].total + 1) / SHARE)
    assert settled.model.remat == LADDER[index]
    assert f"model.remat=auto: {LADDER[index]} " in caplog.text


@pytest.mark.usefixtures("estimated")
def test_the_last_is_taken_where_nothing_fits(config, mesh):
    assert settle(config, mesh, 1.0).model.remat == "block"


def test_a_policy_that_is_named_stays(config, mesh):
    named = with_policy(config, "dots")
    assert settle(named, mesh, 1.0) is named


def test_what_is_kept_grows_with_the_samples_of_a_device(config, mesh, estimates):
    in_parts = ["--config.data.batch_size=32", "--config.optimizer.accumulation=2"]
    parts = estimate(with_policy(load_config("configs/tiny.py", in_parts), LADDER[-1]), mesh)
    # Four times the samples, in two parts.
    assert 1.8 < parts.kept / estimates[-1].kept <= 2


def test_the_memory_of_a_cpu_is_its_hosts(mesh):
    assert 2**28 < rematerialization.device_memory(mesh) < 2**44
