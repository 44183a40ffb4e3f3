"""Store a prepared folder as a TFDS set in ArrayRecord files.

    python -m data.prepare.tfds DATASET --output DIR
    python -m data.prepare.tfds DATASET --output DIR --beam="--runner=DirectRunner"

The files of pictures, sketches and masks are stored as they are. Prints the folder that
`data.source=folder` reads by `data.path`. Needs the `tfds` extra, and TensorFlow for neither
writing nor reading.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from data.errors import DataError, run_program
from data.extras import import_tfds


def build(folder: str | Path, output: str | Path, beam: str | None = None) -> Path:
    """Store a folder, unless one of the same names and index was stored there already.

    Args:
        folder: see `data.sources.folders.FolderSource`.
        output: TFDS data directory, not inside of the folder.
        beam: options of Apache Beam, which then makes the set.

    Returns:
        The folder of the set.

    Raises:
        DataError: a package is missing, or the folder cannot be read.
    """
    tfds = import_tfds()
    from data.prepare.tfds import prepared_dataset_builder as prepared

    folder, output = Path(folder).absolute(), Path(output).absolute()
    if output.resolve().is_relative_to(folder.resolve()):
        raise DataError(
            f"got output {output} inside of {folder}, which is read, expected another place; "
            "choose one"
        )
    download = tfds.download.DownloadConfig(try_download_gcs=False)
    if beam is not None:
        try:
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError as error:
            raise DataError(
                f"got no package {error.name}, expected Apache Beam; pip install '.[beam]'"
            ) from error
        download.beam_options = PipelineOptions(shlex.split(beam))
    config = prepared.config(folder, beam=beam is not None)
    builder = prepared.Builder(data_dir=str(output), config=config, file_format="array_record")
    builder.download_and_prepare(download_config=download)
    return Path(builder.data_dir)


def main(arguments: Sequence[str] | None = None) -> int:
    """Store a folder; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data.prepare.tfds", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("dataset", metavar="DATASET", help="folder of color/, sketch*/, mask/")
    parser.add_argument("--output", required=True, metavar="DIR", help="TFDS data directory")
    parser.add_argument("--beam", metavar="OPTIONS", help="run on Apache Beam, with its options")
    parsed = parser.parse_args(arguments)

    def run() -> int:
        print(build(parsed.dataset, parsed.output, parsed.beam))
        return 0

    return run_program(run)


if __name__ == "__main__":
    sys.exit(main())
