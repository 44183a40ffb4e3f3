"""Train a colorizer.

    python train.py --config=configs/tiny.py --workdir=DIR [--config.section.key=value ...]

Started again on the same folder, a run goes on where it was, and repeats exactly what it would have
done without the stop.
"""

import argparse
import functools
import logging
import sys
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from colorize_jax import datasets
from colorize_jax.build import build_recipe, weights_metadata
from colorize_jax.config import RESUMABLE, Config
from colorize_jax.errors import UserError
from colorize_jax.inference.sampling import make_colorize
from colorize_jax.initialize import abstract_state, initial_state
from colorize_jax.io.checkpoint import Checkpoints
from colorize_jax.io.workdir import claim_workdir
from colorize_jax.load_config import load_config
from colorize_jax.pictures import contact_sheet
from colorize_jax.rng import stream
from colorize_jax.training.augment import to_batch
from colorize_jax.training.loop import History, StopSignals, Stopwatch
from colorize_jax.training.measure import Meter, step_flops
from colorize_jax.training.state import TrainState, all_params
from colorize_jax.training.step import Recipe, is_dual, train_step
from colorize_jax.writer import Writer
from data.errors import DataError
from data.records import Source

logger = logging.getLogger("train")

USER_ERROR_STATUS = 2
SIGNALLED_STATUS = 128  # plus the signal's number, as shells have it
SAMPLE_COLUMNS = ("sketch", "reference", "result", "truth")


def train(config: Config, workdir: str) -> int:
    """Run a training, from its start or its newest checkpoint, to its last step.

    Args:
        config: all options.
        workdir: the run's folder.

    Returns:
        The number of the signal that stopped the run; 0 where it came to its end.

    Raises:
        UserError: bad input, or a loss that is not finite.
    """
    # ------------------------------------------------------------------------ model and data
    watch = Stopwatch()
    recipe = build_recipe(config)
    claim_workdir(workdir, config.to_dict(), weights_metadata(config), free=RESUMABLE)
    source = datasets.make_source(config.data)
    batches = datasets.make_batches(config, source)

    # ----------------------------------------------------------------------- restore or begin
    key = jax.random.key(config.seed)
    keep = {"keep_last": config.checkpoint.keep_last, "keep_every": config.checkpoint.keep_every}
    checkpoints = Checkpoints(workdir, **keep)
    with watch.timing("start"):
        restored = checkpoints.restore(abstract_state(recipe), batches)
        state, first = restored or (initial_state(recipe), 0)
    if restored:
        logger.info("resumed from step %d of %d", first, config.total_steps)
    writer = Writer(workdir, resumed_step=first, tensorboard=config.logging.tensorboard)

    # ----------------------------------------------------------------------------- the programs
    step = jax.jit(functools.partial(train_step, recipe), static_argnames="dual", donate_argnums=0)
    draw_samples = make_sampler(recipe, source)
    history, meter = History(), Meter(config.data.batch_size)

    bar = tqdm(total=config.total_steps, initial=first, unit="step", dynamic_ncols=True)
    with StopSignals() as stop, bar, writer, checkpoints, logging_redirect_tqdm():
        for number in range(first, config.total_steps):
            with watch.timing("data"), meter.waiting():
                record = datasets.step_record(next(batches))
            dual = is_dual(config, number)
            if dual not in meter.flops:
                meter.flops[dual] = step_flops(recipe, state, record, dual=dual)
                with watch.timing("compilation"):
                    state, metrics = step(state, record, key, dual=dual)
                meter.reset()
            else:
                state, metrics = step(state, record, key, dual=dual)
                meter.count(dual=dual)
            history.add(number, metrics)
            bar.update()

            # ------------------------------------------------------------- log, save, draw
            done = number + 1
            ends = done == config.total_steps
            saves = ends or stop.number or done % config.checkpoint.every_steps == 0
            if saves or number == first or done % config.logging.every_steps == 0:
                means = history.means()  # waits for the device; a loss that is none stops the run
                rates = meter.report()
                writer.write(done, means | rates)
                bar.set_postfix_str(summary(means, rates))
            if saves:
                with watch.timing("checkpoints"):
                    checkpoints.save(done, state, batches)
            if ends or done % config.logging.samples_every == 0:
                with watch.timing("samples"):
                    writer.write_picture(done, "samples", draw_samples(state))
                meter.reset()
            if stop.number and not ends:
                break
    if stop.number and not ends:
        logger.info("saved step %d; the same command goes on from there", done)
        return stop.number
    if first < config.total_steps:
        parts = ", ".join(f"{part} {s:.0f} s" for part, s in watch.report().items())
        logger.info("done: %s", parts)
    return 0


def make_sampler(recipe: Recipe, source: Source) -> Callable[[TrainState], Image.Image]:
    """Return a function that draws a sheet of sketch, reference, result and truth."""
    config = recipe.config
    count = config.logging.num_samples
    if config.data.source == "folder":
        records = datasets.first_records(config, source, count)
    else:
        pairs = datasets.make_pairs(config, count)
        records = [pairs[i] for i in range(count)]
    record = {name: np.stack([r[name] for r in records]) for name in datasets.RECORD_KEYS}
    keys = jax.random.split(stream(config.seed, 0, "samples"), count)
    colorize = make_colorize(
        recipe.colorizer,
        recipe.encoders,
        recipe.schedule,
        config.sampling,
        config.diffusion.prediction_type,
    )

    def draw(state: TrainState) -> Image.Image:
        params = all_params(state, ema=config.sampling.ema)
        results = np.asarray(colorize(params, to_batch(record), keys))
        columns = (record["sketch"], record["reference"], results, record["image"])
        return contact_sheet(list(zip(*columns, strict=True)), SAMPLE_COLUMNS)

    return draw


def summary(means: Mapping[str, float], rates: Mapping[str, float]) -> str:
    """One line for the progress bar."""
    text = f"loss {means['diffusion_loss']:.4f}, {rates['images_per_second']:.1f} images/s"
    if means["gram_weight"]:
        text += f", gram {means['gram_loss']:.5f} x {means['gram_weight']:.2f}"
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and train; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="FILE", help="a file of configs/")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder")
    options, overrides = parser.parse_known_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for name in ("train", "colorize_jax"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        number = train(load_config(options.config, overrides), options.workdir)
    except (UserError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_STATUS
    return SIGNALLED_STATUS + number if number else 0


if __name__ == "__main__":
    sys.exit(main())
