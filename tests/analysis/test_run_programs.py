"""The programs of a whole run, listed and compiled ahead."""

import json

import jax
import pytest
from test_aot import COMPILER, compile_only, settings  # noqa: F401 (the fixture serves here too)

from colorize_jax.analysis import run_programs
from colorize_jax.config.load import load_config

BUCKETS = ("--config.data.source=folder", "--config.data.path=none", "--config.data.buckets=True")


def test_all_sizes_and_branches_are_listed():
    base = load_config("configs/base.py", ["--config.data.path=none"])
    programs = run_programs.list_programs(base)
    assert len(programs) == 2 * 19
    assert programs[0] == {"height": 1024, "width": 1024, "dual": True}
    assert [one["dual"] for one in programs] == 19 * [True] + 19 * [False]
    # The config's own size need not be one of the buckets.
    size = ["--config.data.height=896", "--config.data.width=1152"]
    wide = load_config("configs/base.py", ["--config.data.path=none", *size])
    assert len(run_programs.list_programs(wide)) == 2 * 19
    data = run_programs.largest(wide).data
    assert (data.height, data.width) == (1024, 1024)
    plain = ["--config.data.path=none", "--config.data.buckets=False", "--config.gram.maximum=0"]
    alone = [{"height": 1024, "width": 1024, "dual": False}]
    assert run_programs.list_programs(load_config("configs/base.py", plain)) == alone


@COMPILER
@pytest.mark.slow
def test_all_sizes_are_compiled_and_told(tmp_path, capsys, settings):  # noqa: F811
    arguments = ("--topology=v5e:2x2", "--config.mesh.data=1", "--config.mesh.fsdp=-1")
    sizes = (*BUCKETS, "--config.data.num_buckets=3", "--all_sizes")
    sizes += ("--config.data.height=128", "--config.data.width=128")
    sizes += ("--config.data.num_examples=100000",)  # the default: folders do not read it
    assert compile_only(tmp_path, *arguments, *sizes) == 0
    assert jax.config.jax_platforms == "cpu"
    report = json.loads((tmp_path / "aot-v5e-2x2.json").read_text())
    programs = report["programs"]
    assert len(programs) == 6 and all(one["fits"] for one in programs)
    biggest = max(programs, key=lambda one: (one["dual"], one["height"] * one["width"]))
    assert (biggest["height"], biggest["width"]) == (report["height"], report["width"])
    assert biggest["memory"] == report["memory"]["total"]
    assert biggest["flops"]["executed"] == report["flops"]["executed"]
    both = {one["dual"]: one["flops"]["executed"] for one in programs}
    assert both[True] > both[False]
    printed = capsys.readouterr().out
    assert "programs of a run: 6, of 3 sizes" in printed and printed.count("one branch") == 3
