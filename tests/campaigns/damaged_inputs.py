"""Damage real small files at random and read them as the commands do.

    python -m tests.campaigns.damaged_inputs --count 10000 --seed 0

What counts as a failure: anything but a result or the project's own one-line error, more than 10 s,
more than 1 GB of memory above the start, or anything executed. The last line says how it went.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

SECONDS = 10
WARM_UP = 300  # seconds for a whole file, whose reader is imported first
LARGE = 100_000  # bytes
MEMORY = 2**30
# Events of the interpreter that no reader of files may cause.
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen"}
FORBIDDEN |= {"socket.connect", "pickle.find_class", "shutil.rmtree"}
Reader = Callable[[Path], object]


def make_corpus(folder: Path) -> dict[str, tuple[str, bytes, Reader]]:
    """Name -> (suffix, content, reader) of small real files of every kind that is read."""
    import small_models
    from safetensors.numpy import save_file

    from colorize_jax.commands import cli
    from colorize_jax.config.load import config_from_dict
    from colorize_jax.inference.metadata import PictureMetadata, read_metadata, save_png
    from colorize_jax.inference.options import InferenceOptions, read_options
    from colorize_jax.io.runs.workdir import read_workdir
    from data.pictures.reading import read_picture
    from data.sources.folders import FolderSource

    def inspect(path: Path) -> object:
        return cli.main(["inspect", str(path), "--scan"])

    def options(path: Path) -> object:
        return InferenceOptions.from_dict(read_options(path))

    def network_config(path: Path) -> object:
        return cli.main(["inspect", str(folder / "model.safetensors"), "--config", str(path)])

    def source(name: str) -> Reader:
        def read(path: Path) -> object:
            root = path.parent / "pictures"
            for kind in ("color", "sketch"):
                (root / kind).mkdir(parents=True, exist_ok=True)
                target = root / kind / "a.zip" if name == "zip" else root / kind / "a.png"
                target.write_bytes(path.read_bytes() if name == "zip" else pictures["png"])
            if name == "index":
                (root / "index.json").write_bytes(path.read_bytes())
            found = FolderSource(root)
            return [found[i] for i in range(len(found))]

        return read

    def workdir(path: Path) -> object:
        (path.parent / "config.json").write_bytes(path.read_bytes())
        return config_from_dict(read_workdir(path.parent)[0])

    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    pictures = {}
    for form in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, form)
        pictures[form.lower()] = buffer.getvalue()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("b.png", pictures["png"])
        file.writestr("c.jpg", pictures["jpeg"])
    arrays = small_models.tensors("vae", prefix="")
    save_file(arrays, folder / "model.safetensors", {"prediction_type": "v"})
    save_png(Image.fromarray(pixels), folder / "made.png", PictureMetadata(InferenceOptions()))
    torch_zip = io.BytesIO()
    with zipfile.ZipFile(torch_zip, "w") as file:
        file.writestr("m/data.pkl", torch_pickle({"encoder.down.0.block.0.x": (3, 4)}))
        file.writestr("m/data/0", bytes(48))
        file.writestr("m/byteorder", b"little")
    index = [{"image_path": "a", "width": 20, "height": 24, "aesthetic_score": 6.5}]
    index[0]["reference_list"] = ["a"]
    corpus = {
        "safetensors": (".safetensors", (folder / "model.safetensors").read_bytes(), inspect),
        "pickle": (".ckpt", torch_zip.getvalue(), inspect),
        "zip": (".zip", archive.getvalue(), source("zip")),
        "index": (".json", json.dumps(index).encode(), source("index")),
        "options.json": (".json", InferenceOptions().to_json().encode(), options),
        "options.yaml": (".yaml", b"steps: 5\ntext:\n- target: red\n  strength: 0.5\n", options),
        "metadata": (".png", (folder / "made.png").read_bytes(), read_metadata),
        "network config": (".json", b'{"vae": {"channels": 32}}', network_config),
        "run config": (".json", run_config(), workdir),
    }
    return corpus | {
        form: (f".{form}", content, read_picture) for form, content in pictures.items()
    }


def run_config() -> bytes:
    from colorize_jax.config.options import Config

    weights = {"kind": "colorizer", "configs": {}, "prefixes": {}, "prediction_type": "v"}
    content = {"format": "colorize-jax run 1", "config": Config().to_dict(), "weights": weights}
    return json.dumps(content).encode()


def torch_pickle(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """The pickle of a checkpoint, written by hand as torch writes it."""
    text = b"\x80\x02}"
    for name, shape in shapes.items():
        text += pickle.dumps(name, 2)[2:-1]
        text += b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        text += b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        text += b"K" + bytes([int(np.prod(shape))]) + b"tQK\x00"
        text += pickle.dumps(shape, 2)[2:-1] + pickle.dumps((shape[1], 1), 2)[2:-1]
        text += b"\x89ccollections\nOrderedDict\n)RtRs"
    return text + b"."


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "cut", "insert", "copy", "number", "drop"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 64),
        st.binary(max_size=16),
    ),
    min_size=1,
    max_size=6,
)
NUMBERS = (b"-1", b"0", b"1e999", b"NaN", b"99999999999999999999", b"[[[[", b'{"a":', b"null")


def damage(content: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    """Apply edits at relative positions."""
    data = bytearray(content)
    for kind, where, count, extra in edits:
        # Of large files the beginning is what is parsed.
        place = int((where**4 if len(data) > LARGE else where) * len(data))
        if kind == "flip" and data:
            data[place] ^= 1 << count % 8
        elif kind == "set":
            data[place : place + len(extra)] = extra
        elif kind == "cut":
            del data[place:]
        elif kind == "insert":
            data[place:place] = extra * count
        elif kind == "copy":
            data[place:place] = data[place : place + count * 4]
        elif kind == "number":
            # The next number of a text, or two bytes of anything else.
            start = next((i for i in range(place, len(data)) if 48 <= data[i] <= 57), place)
            data[start : start + 2] = NUMBERS[count % len(NUMBERS)]
        else:
            del data[place : place + count]
    return bytes(data)


class Watch:
    """Runs a reader and says what it must not do."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.watching = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, _: object) -> None:
        if self.watching and event in FORBIDDEN:
            self.events.append(event)

    def read(self, reader: Reader, path: Path, seconds: float = SECONDS) -> tuple[str, float]:
        """Return "read", "refused" or what went wrong, and the seconds."""
        from colorize_jax.errors import UserError
        from data.errors import DataError, PictureError

        self.events.clear()
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            silence = contextlib.redirect_stdout(io.StringIO())
            with silence, contextlib.redirect_stderr(io.StringIO()) as errors:
                self.watching = True
                status = reader(path)
                self.watching = False
            lines = [line for line in errors.getvalue().splitlines() if line.startswith("error: ")]
            outcome = "refused" if status == 2 and len(lines) == 1 else "read"
            if status == 2 and outcome == "read":
                outcome = f"status 2 with {len(lines)} lines"
        except (UserError, DataError, PictureError) as error:
            outcome = "refused" if "\n" not in str(error) else f"several lines: {error}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        finally:
            self.watching = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        outcome = f"caused {self.events}" if self.events else outcome
        return outcome, time.monotonic() - start


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def limit_memory() -> None:
    """Stop this process long before the machine's memory is full.

    Addresses are counted, of which threads take many without memory: `MEMORY` itself is measured.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + 8 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def campaign(count: int, start: int, keep: Path) -> dict[str, object]:
    """Read `count` damaged files; those that fail are kept in a folder.

    Returns:
        How many of each kind and outcome, the failures, the longest time, the most memory.
    """
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, _too_long)
    watch, outcomes, failures = Watch(), Counter(), []
    longest = [0.0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = make_corpus(folder)
        for kind, (suffix, content, reader) in corpus.items():
            (folder / f"whole{suffix}").write_bytes(content)
            outcome, _ = watch.read(reader, folder / f"whole{suffix}", WARM_UP)
            assert outcome == "read", (kind, outcome)
        limit_memory()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        @seed(start)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.sampled_from(sorted(corpus)), EDITS)
        def one(kind: str, edits: list[tuple[str, float, int, bytes]]) -> None:
            suffix, content, reader = corpus[kind]
            damaged = damage(content, edits)
            with tempfile.TemporaryDirectory(dir=folder) as place:
                path = Path(place) / f"damaged{suffix}"
                path.write_bytes(damaged)
                outcome, seconds = watch.read(reader, path)
            longest[0] = max(longest[0], seconds)
            good = outcome in ("read", "refused")
            outcomes[kind, outcome if good else "failed"] += 1
            if not good:
                number = len(failures)
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{number}{suffix}").write_bytes(damaged)
                failures.append(f"{number}{suffix} ({kind}): {outcome}")

        one()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if most * 1024 > MEMORY:
        failures.append(f"took {most // 1024} MB")
    table = {f"{kind}: {outcome}": n for (kind, outcome), n in sorted(outcomes.items())}
    return {
        "inputs": sum(outcomes.values()),
        "outcomes": table,
        "failures": failures,
        "longest_s": round(longest[0], 2),
        "memory_mb": most // 1024,
    }


def main() -> int:
    """Run the campaign; 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="inputs")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the damage")
    parser.add_argument("--keep", default="damaged", metavar="DIR", help="for those that failed")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.path.insert(0, str(Path(__file__).parents[1]))
    report = campaign(options.count, options.seed, Path(options.keep))
    print(json.dumps(report, indent=1))
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
