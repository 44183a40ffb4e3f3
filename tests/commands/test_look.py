"""`look`: maps of one picture, through the command line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from colorize_jax.commands.cli import main
from colorize_jax.looking import forward as looking
from colorize_jax.looking.sheets import Looks
from colorize_jax.setup.checkpoints import open_pipeline
from tests import small_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("look")
    small_run.make(folder / "run")
    return small_run.draw(folder)


def flags(folder: Path, output: Path, *more: str) -> list[str]:
    return [
        "look",
        f"--checkpoint={folder / 'run'}",
        f"--sketch={folder / 'sketches' / 'a.png'}",
        f"--reference={folder / 'references' / 'b.png'}",
        f"--output={output}",
        "--seed=3",
        *more,
    ]


def test_a_folder_of_maps_is_written(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "maps"
    assert main(flags(folder, output, "--point=0.5,0.5", "--blocks=1")) == 0
    page = (output / "look.html").read_text()
    for name in ("denoising", "attention", "likeness", "levels"):
        assert Image.open(output / f"{name}.png").width > 100
        assert f'alt="{name}"' in page
    assert main(flags(folder, output)) == 2
    assert main(flags(folder, output, "--overwrite", "--point=0.2,0.1", "--products=int8")) == 0


def test_maps_say_what_the_networks_compute(folder: Path) -> None:
    pipeline = open_pipeline(folder / "run")
    options = pipeline.defaults.replace(seed=3)
    paths = (str(folder / kind / "a.png") for kind in ("sketches", "references"))
    looks = Looks(pipeline, options, *paths, noise=0.5)
    system, params = pipeline.system, pipeline.networks.params("unet")
    stack = next(iter(system.colorizer.unet.stacks()))
    wanted = ((stack, looking.QUERIED), (stack, "ff"))
    features, keys = looking.collect(pipeline, looks.inputs, looks.latents, options, 0.5, wanted)
    tokens = system.colorizer.reference_projection.num_tokens
    seen = looking.cross_attention(system, params, stack, features, keys, tokens)
    assert seen.shape == (features[stack, "ff"].shape[1], tokens)
    np.testing.assert_allclose(seen.sum(axis=1), 1, rtol=1e-5)
    assert np.ptp(seen) > 0
    gram = looking.likeness(features[stack, "ff"][0])
    np.testing.assert_allclose(np.diag(gram), 1, rtol=1e-5)
    np.testing.assert_allclose(gram, gram.T)
    # The last frame of the strip is the picture itself.
    frames = looking.denoising(pipeline, looks.inputs, options, 2)
    assert len(frames) == 2 and frames[0][0] > frames[1][0]
    last = np.rint(frames[-1][1] * 127.5 + 127.5)
    np.testing.assert_allclose(last, np.asarray(looks.result, np.float64), atol=1)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--point=2,0", "got --point 2,0, expected Y,X from 0 to 1"),
        ("--noise=2", "got --noise 2.0, expected 0..1"),
        ("--blocks=99", "got transformer block 99"),
        ("--sampler=PNDM", "whose steps cannot be cut short"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, said: str
) -> None:
    assert main(flags(folder, tmp_path / "maps", "--steps=4", flag)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "maps").exists()
