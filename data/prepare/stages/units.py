"""One archive of pictures: everything that is made of them, written together."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.prepare.jobs.options import Options
from data.prepare.jobs.output import write_table
from data.prepare.jobs.workers import Mapper
from data.prepare.stages.layouts import UNITS
from data.prepare.stages.plan import made_path
from data.prepare.stages.products import make, sketch_kinds

FACTS = pa.schema(
    {
        "image_path": pa.large_string(),
        "source": pa.large_string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "mask": pa.string(),
        "foreground": pa.float32(),
        "tags": pa.string(),
        "characters": pa.list_(pa.string()),
        "aesthetic_score": pa.float32(),
        "embedding": pa.list_(pa.float16()),
        "problem": pa.string(),
    }
)


def make_unit(
    options: Options, notes: Path, number: int, rows: Sequence[dict[str, Any]], mapper: Mapper
) -> Path:
    """Make the pictures of a unit, write its archives, and then note that it is done."""
    kinds = ["color", *sketch_kinds(options).values(), *(["mask"] if options.masks else [])]
    facts = []
    with UNITS[options.layout](Path(options.output), number, kinds) as unit:
        for row, product in zip(rows, mapper(partial(make, options), rows), strict=True):
            known = {"image_path": row["name"], "source": row["location"]}
            if product.problem is None:
                unit.add(product)
                suffix = product.files["color"][0]
                known = product.facts | known | {"image_path": row["name"] + suffix}
            facts.append(known | {"problem": product.problem})
    path = made_path(notes, number)
    write_table(path, pa.Table.from_pylist(facts, FACTS))
    return path
