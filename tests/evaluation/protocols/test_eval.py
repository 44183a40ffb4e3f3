"""eval.py as users call it: protocols, going on, the same report however it is computed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eval as evaluation
from colorize_jax.evaluation.protocols import coloring
from data.illustrations import CrossPairSource
from tests import small_published, small_run

ROOT = Path(__file__).parents[3]
NUM = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.make(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of three characters, and one that is damaged."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("color", "sketch"):
        (folder / name).mkdir()
    source = CrossPairSource(0, 3, 48, 32)
    rows = []
    for i in range(3):
        record = source[i]
        for name, image in (("a", "image"), ("b", "reference")):
            Image.fromarray(record[image]).save(folder / "color" / f"{name}{i}.png")
            Image.fromarray(record["sketch"][..., 0]).save(folder / "sketch" / f"{name}{i}.png")
            other = "b" if name == "a" else "a"
            rows.append({"image_path": f"{name}{i}.png", "reference_list": [f"{other}{i}.png"]})
    damaged = folder / "sketch" / "b2.png"
    damaged.write_bytes(damaged.read_bytes()[:-60])
    (folder / "index.json").write_text(json.dumps(rows))
    return folder


def evaluate(run: Path, output: Path, *flags: str) -> tuple[int, dict]:
    status = evaluation.main([f"--checkpoint={run}", f"--output={output}", *flags])
    report = output / "report.json"
    return status, json.loads(report.read_text()) if report.exists() else {}


def drawn(run: Path, output: Path, *flags: str) -> dict:
    status, report = evaluate(run, output, f"--num={NUM}", *flags)
    assert status == 0
    return report


def assert_same(one: dict, other: dict, tolerance: float = 1e-4) -> None:
    for group in ("means", "ratios"):
        assert one[group].keys() == other[group].keys()
        for name, figure in one[group].items():
            # A palette's groups may jump where a pixel's last bit does.
            allowed = 5e-3 if name.startswith("palette") else tolerance
            for part, value in figure.items():
                assert other[group][name][part] == pytest.approx(value, rel=allowed, abs=1e-4)


def test_batches_of_any_size_give_the_same_report(run: Path, tmp_path: Path) -> None:
    assert_same(
        drawn(run, tmp_path / "one", "--batch-size=1"),
        drawn(run, tmp_path / "four", "--batch-size=4"),
    )


def test_an_evaluation_goes_on_where_it_was_stopped(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--batch-size=2", "--protocol=aligned"]
    whole = drawn(run, tmp_path / "whole", *flags)
    scored = []

    def score(pair, kinds, results):
        scored.append(pair.name)
        if len(scored) == 4:
            raise KeyboardInterrupt
        return real(pair, kinds, results)

    real = coloring.score
    monkeypatch.setattr(coloring, "score", score)
    assert evaluate(run, tmp_path / "parts", f"--num={NUM}", *flags)[0] == 130
    monkeypatch.setattr(coloring, "score", real)
    file = tmp_path / "parts" / "parts" / "0.jsonl"
    done = file.read_text().splitlines()
    assert 0 < len(done) < NUM
    file.write_text("\n".join([*done, '{"index": 5, "na']))  # as kill -9 leaves it
    assert drawn(run, tmp_path / "parts", *flags) == whole
    for name in ("report.json", "metrics.jsonl", "report.html"):
        own = (tmp_path / "parts" / name).read_bytes()
        assert own == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_evaluation_makes_no_picture_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = drawn(run, tmp_path / "new", "--protocol=aligned")
    monkeypatch.setattr(coloring.Evaluator, "_color", lambda *_: pytest.fail("coloured again"))
    assert drawn(run, tmp_path / "new", "--protocol=aligned") == report


@pytest.mark.parametrize(
    ("protocol", "num", "names"),
    [
        ("aligned", 6, {"psnr_aligned", "ssim_aligned", "line_f1_aligned", "palette_aligned"}),
        ("cross", 6, {"psnr_cross", "line_f1_cross", "palette_cross"}),
        ("shuffled", 6, {"line_f1_shuffled", "palette_shuffled"}),
    ],
)
def test_a_folder_is_measured_and_damaged_pictures_are_named(
    run: Path, pictures: Path, tmp_path: Path, protocol: str, num: int, names: set[str]
) -> None:
    flags = [f"--data={pictures}", f"--protocol={protocol}", f"--num={num}", "--batch-size=2"]
    status, report = evaluate(run, tmp_path / "new", *flags)
    assert status == 1
    assert report["num_pairs"] == num and len(report["problems"]) == 1
    assert "b2.png" in next(iter(report["problems"].values()))
    assert names <= report["means"].keys()
    assert {figure["count"] for figure in report["means"].values()} == {num - 1}


def test_a_shuffled_reference_is_never_the_own_picture(pictures: Path) -> None:
    from data.sources.folders import FolderOptions, FolderSource

    source = FolderSource(pictures, FolderOptions(masks="off"))
    pairs = evaluation.FolderPairs(source, "shuffled", 5)
    for index in range(5):
        if pairs._source.name(pairs._chosen[index]) == "color/b2.png":
            continue
        pair = pairs[index]
        own, other = pair.truth, pair.references["shuffled"]
        assert own.shape != other.shape or np.any(own != other)


def test_networks_of_the_published_architecture_judge_a_folder(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("colorizer", "clip_vision", "tagger", "inception", "lpips")
    weights = small_published.make(tmp_path, names)
    flags = [f"--checkpoint={weights[name]}" for name in names[1:3]]
    flags += [f"--judge={weights[name]}" for name in names[3:]]
    flags += ["--width=256", "--height=256", "--steps=1", "--sampler=Euler", "--batch-size=2"]
    flags += [f"--data={pictures}", "--protocol=aligned", "--num=5"]
    status, report = evaluate(weights["colorizer"], tmp_path / "new", *flags)
    assert status in (0, 1)
    scores = {"ms_ssim", "lpips", "clip", "tags", "psnr", "ssim", "line_f1", "palette"}
    assert {f"{name}_aligned" for name in scores} <= report["means"].keys()
    assert report["distances"].keys() == {
        f"{name}_aligned" for name in ("fid", "clean_fid", "kid", "cmmd")
    }
    for figure in report["distances"].values():
        assert np.isfinite(figure["value"]) and figure["count"] == 5 - status
    assert any(doubt.startswith("FID of") for doubt in report["doubts"])
    assert "where it wants 10,000" in capsys.readouterr().err


REFUSED = {
    "--num=0": "got --num 0, expected at least 1",
    "--protocol=backgrounds": "weights without a plugin",
    "--batch-size=0": "got --batch-size 0",
    "--heldout_share=2": "heldout_share 2.0, expected 0..1",
    "--num=7": "got --num 7 and 6 pictures",
    "--judge=nothing": "got nothing",
    "--background_plugin": "got background_plugin, expected a checkpoint of the plugin model",
    "--text=red hair": "got text for a model whose references are encoded without CLIP",
    "--data=nowhere": "nowhere, expected a folder of pictures",
}


@pytest.mark.parametrize("flag", REFUSED)
def test_bad_input_is_one_line(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    data = [] if "backgrounds" in flag or "--data" in flag else [f"--data={pictures}"]
    status, _ = evaluate(run, tmp_path / "new", "--num=4", "--protocol=aligned", *data, flag)
    error = capsys.readouterr().err
    assert status == 2 and REFUSED[flag] in error and error.count("\n") == 1


def test_damaged_folders_are_told_and_mended_pictures_used(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    shutil.copytree(pictures, own)
    flags = [f"--data={own}", "--protocol=aligned", "--num=6", "--batch-size=2"]
    new = tmp_path / "new"
    assert evaluate(run, new, *flags)[0] == 1
    damaged, sound = own / "sketch" / "b2.png", own / "sketch" / "a2.png"
    damaged.write_bytes(sound.read_bytes())
    status, report = evaluate(run, new, *flags)
    assert status == 0 and report["num_pairs"] == 6 and not report["problems"]

    (new / "parts" / "000001-truth.png").write_bytes(b"no picture")
    assert evaluate(run, new, *flags)[0] == 0
    lines = new / "parts" / "0.jsonl"
    whole = lines.read_bytes()
    for garbage in (b"{]", b"[1]", b"\xff", b'{"index": 99, "name": "x", "scores": {}}', b"{}"):
        lines.write_bytes(whole + garbage + b"\n")
        capsys.readouterr()
        assert evaluate(run, new, *flags)[0] == 2
        assert "with a damaged line" in capsys.readouterr().err
    (new / "parts" / "mine.txt").write_text("mine")
    assert evaluate(run, new, *flags, "--steps=1", "--overwrite")[0] == 2
    assert (new / "parts" / "mine.txt").read_text() == "mine"
    (new / "evaluation.json").write_text("[]")
    assert evaluate(run, new, *flags)[0] == 2


def test_the_papers_presets_draw_and_read_both_kinds(
    run: Path, pictures: Path, tmp_path: Path
) -> None:
    options = ["--protocol=paper-5k", "--height=32", "--width=32", "--steps=1", "--sampler=Euler"]
    drawn_report = drawn(run, tmp_path / "drawn", *options)
    assert {"psnr_aligned", "line_f1_aligned", "palette_other"} <= drawn_report["means"].keys()
    flags = [*options, f"--data={pictures}", "--num=4"]
    _, report = evaluate(run, tmp_path / "new", *flags)
    assert {"psnr_aligned", "line_f1_shuffled"} <= report["means"].keys()
    assert report["paper"]["the paper"]["FID"] == 8.28
    assert "none of them was measured here" in (tmp_path / "new" / "report.html").read_text()


def test_another_evaluation_in_the_folder_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = drawn(run, tmp_path / "new", "--protocol=aligned")
    status, kept = evaluate(run, tmp_path / "new", "--num=4", "--protocol=aligned", "--steps=1")
    assert status == 2 and kept == first
    assert "options.steps is 2 there and 1 here" in capsys.readouterr().err
    assert drawn(run, tmp_path / "new", "--protocol=aligned", "--steps=1", "--overwrite") != first


@pytest.mark.parametrize("place", ["run", "pictures", "foreign"])
def test_nothing_that_is_read_is_written_to(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    output = {"run": run, "pictures": pictures, "foreign": tmp_path}[place]
    before = sorted(output.iterdir())
    flags = [f"--data={pictures}", "--protocol=aligned", "--num=2", "--overwrite"]
    assert evaluate(run, output, *flags)[0] == 2
    assert sorted(output.iterdir()) == before
    assert capsys.readouterr().err.startswith(f"error: got output {output}")


# --------------------------------------------------------------------------- processes, devices


def start(run: Path, output: Path, *flags: str, devices: int = 1) -> subprocess.Popen:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "eval.py", f"--checkpoint={run}", f"--output={output}", *flags]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_devices_and_processes_give_the_same_report(run: Path, tmp_path: Path) -> None:
    flags = (f"--num={NUM}", "--batch-size=8")
    alone = drawn(run, tmp_path / "alone", *flags)
    assert start(run, tmp_path / "eight", *flags, devices=8).wait() == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    several = [f"--coordinator={address}", "--num_processes=2"]
    both = [start(run, tmp_path / "two", *flags, *several, f"--process_id={i}") for i in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    for name in ("eight", "two"):
        assert_same(json.loads((tmp_path / name / "report.json").read_text()), alone)
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(NUM))


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(run: Path, tmp_path: Path) -> None:
    flags = ("--num=40", "--batch-size=4", "--protocol=aligned")
    assert start(run, tmp_path / "whole", *flags).wait() == 0
    file = tmp_path / "killed" / "parts" / "0.jsonl"
    for least in (1, 15):
        process = start(run, tmp_path / "killed", *flags)
        while process.poll() is None and not (
            file.exists() and len(file.read_bytes().splitlines()) >= least
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(file.read_bytes().splitlines()) < 40
    assert start(run, tmp_path / "killed", *flags).wait() == 0
    for name in ("report.json", "metrics.jsonl"):
        own = (tmp_path / "killed" / name).read_bytes()
        assert own == (tmp_path / "whole" / name).read_bytes()
