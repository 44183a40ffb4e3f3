"""From nothing to the first picture: `python -m tests.campaigns.first_picture --folder DIR`.

An environment is made and the package installed with the studio's extra, from the registry and not
from pip's cache; the studio is started with the demo model, and a drawn sketch is sent to it.
Printed are the seconds of every part.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from colorize_jax.client import Client

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Do all of it once; 0 where a picture came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="to make, for all that is made")
    folder = parser.parse_args().folder.absolute()
    folder.mkdir(parents=True)
    python, seconds = folder / "venv" / "bin" / "python", {}

    def run(part: str, *command: object) -> None:
        began = time.perf_counter()
        subprocess.run([str(word) for word in command], check=True, cwd=ROOT)
        seconds[part] = round(time.perf_counter() - began, 1)

    run("environment", sys.executable, "-m", "venv", folder / "venv")
    run("install", python, "-m", "pip", "install", "-q", "--no-cache-dir", "-e", ".[studio]")
    run("drawing", python, "-m", "data.illustrations", "--example", folder / "example")
    began = time.perf_counter()
    command = [python, "-m", "colorize_jax", "studio", "--checkpoint", "demo", "--port", "0"]
    command += ["--outputs", folder / "outputs"]
    words = [str(word) for word in command]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            line = next(line for line in server.stdout if line.startswith("serving at "))
            seconds["start of the studio"] = round(time.perf_counter() - began, 1)
            began = time.perf_counter()
            client, example = Client(line.split()[2]), folder / "example"
            made = client.colorize(example / "sketch.png", example / "reference.png")
            seconds["first picture"] = round(time.perf_counter() - began, 1)
        finally:
            server.terminate()
    (folder / "colored.png").write_bytes(made)
    seconds["all"] = round(sum(seconds.values()), 1)
    print(json.dumps(seconds, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
