"""Workdirs in buckets: what cannot be reached is one line."""

import builtins
import sys

import pytest

import train
from colorize_jax.errors import UserError
from colorize_jax.io.formats.weights_folder import WeightsMetadata
from colorize_jax.io.runs.workdir import claim_workdir, read_workdir

WEIGHTS = WeightsMetadata(kind="colorizer", configs={}, prefixes={}, prediction_type="v")


class NoCredentialsError(Exception):
    """As a store's client has it, of no class that others know."""


@pytest.fixture
def bucket(monkeypatch):
    """A bucket whose client finds no credentials."""

    def refuse(*_, **__):
        raise NoCredentialsError("Your default credentials\nwere not found. " + "x" * 500)

    monkeypatch.setattr("etils.epath.backend.fsspec_backend.open", refuse)
    monkeypatch.setattr("etils.epath.backend.fsspec_backend.exists", refuse)
    return "gs://bucket/run"


@pytest.mark.parametrize("use", [lambda b: claim_workdir(b, {}, WEIGHTS), read_workdir])
def test_missing_credentials(bucket, use):
    with pytest.raises(UserError) as caught:
        use(bucket)
    message = str(caught.value)
    assert "got workdir gs://bucket/run that cannot be used (Your default credentials" in message
    assert "check its name and the credentials" in message
    assert len(message) < 500 and "\n" not in message


def test_missing_credentials_end_a_run_with_one_line(bucket, capsys):
    config = "--config=tests/configs/smallest.py"
    assert train.main([config, f"--workdir={bucket}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: got workdir gs://bucket/run") and error.count("\n") == 1


def test_missing_client(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] in ("gcsfs", "tensorflow")]:
        monkeypatch.delitem(sys.modules, name)
    load = builtins.__import__

    def missing(name, *arguments, **options):
        if name.split(".")[0] in ("gcsfs", "tensorflow"):
            raise ImportError(f"No module named {name}")
        return load(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match="install gcsfs"):
        claim_workdir("gs://another-bucket/run", {}, WEIGHTS)
