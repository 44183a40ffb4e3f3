"""Train a colorizer.

    python train.py --config=configs/tiny.py --workdir=DIR [--config.section.key=value ...]

Started again on the same folder, a run goes on where it was, and repeats exactly what it would have
done without the stop. On several machines the same command runs on each; see docs/scaling.md.
"""

import argparse
import functools
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import jax
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from colorize_jax.analysis import aot
from colorize_jax.analysis.rematerialization import settle
from colorize_jax.analysis.step_flops import step_flops
from colorize_jax.analysis.stored_step import for_arguments, load_step, recorded_hashes
from colorize_jax.config.load import check_changes, load_config
from colorize_jax.config.options import PLACES, RESUMABLE, Config
from colorize_jax.errors import UserError, run_program
from colorize_jax.io.runs.checkpoint import Checkpoints
from colorize_jax.io.runs.owner import Owner
from colorize_jax.io.runs.run_weights import RunWeights
from colorize_jax.io.runs.saved_steps import check_saved
from colorize_jax.io.runs.workdir import claim_workdir
from colorize_jax.setup import datasets, sharding_report
from colorize_jax.setup.held_out import make_monitoring, make_sampler
from colorize_jax.setup.initialize import abstract_state, forked_state, initial_state, run_key
from colorize_jax.setup.machine import distributed, platform
from colorize_jax.setup.networks import build_train_system, needs_encoders, weights_metadata
from colorize_jax.setup.programs import Programs
from colorize_jax.sharding import (
    check_batch,
    global_batch,
    local_rows,
    make_mesh,
    state_shardings,
    with_shardings,
)
from colorize_jax.training.monitoring.gram_watch import GramWatch
from colorize_jax.training.monitoring.history import MetricsHistory
from colorize_jax.training.monitoring.run_writer import Writer
from colorize_jax.training.monitoring.skipped import SkippedPictures
from colorize_jax.training.monitoring.throughput import Meter
from colorize_jax.training.monitoring.timing import Stopwatch, Trace
from colorize_jax.training.state import TrainState
from colorize_jax.training.step import TrainSystem, is_dual, jit_step
from colorize_jax.training.stop_signals import StopSignals

logger = logging.getLogger("train")

DOES_NOT_FIT_STATUS = 1
SIGNALLED_STATUS = 128  # plus the signal's number, as shells have it
INPUT_BOUND = 0.2  # share of the time that waits for data
INPUT_BOUND_TEXT = (
    "WARNING: %.0f %% of the time waits for data; raise data.num_workers, data.num_threads or "
    "data.prefetch, store drawn pictures, or cache small ones (data.cache)"
)
PROGRAMS = "programs"  # compilation cache inside a workdir


@dataclass(frozen=True)
class Command:
    """What the command line says of a run beside its config.

    Attributes:
        profile: updates from which, and up to which, to record a trace.
        load_step: file of a compiled step, see `stored_step`.
        step_hash: its SHA-256; None: what a report in the workdir says.
        allow_changes: options, sections or "data" in which the run may change from here on.
        fork_from: WORKDIR or WORKDIR@STEP of the run whose parameters this one starts from.
        with_optimizer: start from its optimizer's state too.
    """

    profile: tuple[int, int] | None = None
    load_step: str | None = None
    step_hash: str | None = None
    allow_changes: tuple[str, ...] = ()
    fork_from: str | None = None
    with_optimizer: bool = False


def train(
    config: Config,
    workdir: str,
    owner: Owner,
    command: Command,
) -> int:
    """Run a training, from its start or its newest checkpoint, to its last step.

    Args:
        config: all options.
        workdir: the run's folder.
        owner: of the workdir, which it has not taken yet.
        command: what else the command line says.

    Returns:
        The number of the signal that stopped the run; 0 where it came to its end.

    Raises:
        UserError: bad input, a loss that is not finite, or a last step that could not be saved.
    """
    # --------------------------------------------------------------- devices, model and data
    watch = Stopwatch()
    mesh = make_mesh(config.mesh)
    check_batch(mesh, config.data.batch_size, config.optimizer.accumulation)
    config = settle(config, mesh)
    system = build_train_system(config)
    source = datasets.make_source(config)
    sampler = datasets.make_bucket_sampler(config.data, source)
    rows = local_rows(mesh, config.data.batch_size)
    batches = datasets.make_batches(config, source, rows, sampler)
    # Inputs are open, so a bad command has failed by now and leaves no folder behind.
    owner.take()
    claim_workdir(
        workdir,
        config.to_dict(),
        weights_metadata(config),
        free=RESUMABLE,
        places=PLACES,
        allow=command.allow_changes,
        origin=command.fork_from,
    )

    # ----------------------------------------------------------------------- restore or begin
    key = run_key(config, mesh)
    keep = {"keep_last": config.checkpoint.keep_last, "keep_every": config.checkpoint.keep_every}
    checkpoints = Checkpoints(workdir, data=datasets.fingerprint(source), **keep)
    abstract = abstract_state(system)
    shardings = state_shardings(mesh, abstract)
    if mesh.size > 1:
        logger.info("%s", sharding_report.report(mesh, abstract, shardings))
    with watch.timing("start"), jax.set_mesh(mesh):
        expected = with_shardings(abstract, shardings)
        allow_data = "data" in command.allow_changes
        restored = checkpoints.restore(expected, batches, allow_data=allow_data)
        state, first = restored or (begin(system, expected, shardings, command), 0)
    if restored:
        logger.info("resumed from step %d of %d", first, config.total_steps)
    tracker = {"tracker": config.logging.tracker, "config": config.to_dict()}
    writer = Writer(workdir, resumed_step=first, **tracker)
    seen = datasets.describe(source)
    if config.logging.samples_every and not needs_encoders(config):
        seen.append("  no samples are drawn: this run has no encoders")
    for line in seen:
        logger.info("%s", line)
    writer.write_lines("data.txt", seen)
    skipped = SkippedPictures(workdir, config.data.max_skipped_share)

    # ----------------------------------------------------------------------------- the programs
    find_stored = None
    if command.load_step:
        trusted = {command.step_hash} if command.step_hash else recorded_hashes(workdir)
        program = load_step(command.load_step, config, trusted)
        find_stored = functools.partial(for_arguments, program)
    count_flops = functools.partial(step_flops, system)
    programs = Programs(jit_step(system, mesh, shardings), count_flops, mesh, find_stored)
    draws_every = config.logging.samples_every if needs_encoders(config) else 0
    draw_samples = make_sampler(system, source, mesh) if draws_every else None
    monitoring = make_monitoring(system, source, rows, mesh, key)
    gram_watch = GramWatch()
    history = MetricsHistory(config.optimizer.max_skipped_updates, batches.names)
    meter = Meter(config.data.batch_size)

    bar = tqdm(
        total=config.total_steps,
        initial=first,
        unit="step",
        dynamic_ncols=True,
        disable=jax.process_index() > 0,
    )
    stop, trace = StopSignals(), Trace(command.profile, workdir)
    tidy = ExitStack()
    tidy.enter_context(logging_redirect_tqdm())
    tidy.enter_context(closing(batches))
    with (
        stop,
        trace,
        bar,
        closing(writer),
        checkpoints,
        closing(programs),
        tidy,
        jax.set_mesh(mesh),
    ):
        metrics = None
        for number in range(first, config.total_steps):
            trace.before(number)
            with watch.timing("data"), meter.waiting(metrics):
                record = global_batch(mesh, datasets.step_record(next(batches)))
            dual = is_dual(config, number)
            program = programs.key(record, dual=dual)
            if not programs.is_ready(program):
                with watch.timing("compilation"):
                    # Once per number of branches: queue the programs of all picture sizes.
                    wanted = [program[:2], *datasets.shapes(config, sampler)]
                    programs.prepare(state, record, key, wanted, dual=dual)
                    if not dual and is_dual(config, config.total_steps - 1):
                        programs.prepare(state, record, key, wanted, dual=True)
                    jax.block_until_ready(metrics)
                    with meter.paused():
                        programs.wait(program)
            meter.flops[program] = programs.flops(program)
            state, metrics = programs(state, record, key, dual=dual)
            meter.count(program)
            history.add(number, metrics, batches.indices)
            trace.after(number, metrics)
            bar.update()

            # ------------------------------------------------------------- log, save, draw
            done = number + 1
            ends = done == config.total_steps
            saves = ends or stop.reached(done) or done % config.checkpoint.every_steps == 0
            due = monitoring.due(done)
            logs = number == first or done % config.logging.every_steps == 0
            if saves or due or logs:
                means = history.means()  # a host sync; a non-finite loss stops the run
                rates = meter.report()
                skipped.add(done, batches.take_skipped())
                missing = skipped.check(batches.num_skipped, batches.num_records)
                rates["data_skipped"] = missing
                for measure in due:
                    with watch.timing("validation"):
                        rates |= measure(state)
                    meter.reset()
                writer.write(done, means | rates)
                for line in gram_watch.look(means):
                    logger.warning("%s", line)
                if number > first and rates["data_wait_share"] > INPUT_BOUND:
                    logger.warning(INPUT_BOUND_TEXT, 100 * rates["data_wait_share"])
                bar.set_postfix_str(summary(means, rates))
            if saves:
                owner.check()
                with watch.timing("checkpoints"):
                    checkpoints.save(done, state, batches)
            if draws_every and (ends or done % draws_every == 0):
                with watch.timing("samples"):
                    writer.write_picture(done, "samples", draw_samples(state))
                meter.reset()
            if stop.number and not ends:
                break
    if first < config.total_steps:
        check_saved(workdir, done, checkpoints.saved or first)
    if stop.number and not ends:
        logger.info("saved step %d; the same command goes on from there", done)
        return stop.number
    if first < config.total_steps:
        parts = ", ".join(f"{part} {s:.0f} s" for part, s in watch.report().items())
        logger.info("done: %s", parts)
    return 0


def begin(
    system: TrainSystem, expected: TrainState, shardings: TrainState, command: Command
) -> TrainState:
    """The state of step 0: from the weights that the config names, or from another run."""
    if not command.fork_from:
        return initial_state(system, shardings)
    workdir, _, number = command.fork_from.rpartition("@")
    workdir, number = (workdir, number) if workdir and number.isdigit() else (command.fork_from, "")
    weights = RunWeights(workdir, step=int(number) if number else None)
    with Checkpoints(workdir, reads_only=True) as checkpoints:
        start = checkpoints.restore_weights(
            weights.step, expected, optimizer=command.with_optimizer
        )
    logger.info("started from step %d of %s", weights.step, workdir)
    return forked_state(system, start, shardings)


def tell_processes(reason: str) -> None:
    """Say who takes part in a run of several processes."""
    logger.info(
        "process %d of %d (%s), %d of %d devices",
        jax.process_index(),
        jax.process_count(),
        reason,
        jax.local_device_count(),
        jax.device_count(),
    )


def summary(means: Mapping[str, float], rates: Mapping[str, float]) -> str:
    """One line for the progress bar."""
    text = f"loss {means['diffusion_loss']:.4f}, {rates['images_per_second']:.1f} images/s"
    if means["gram_weight"]:
        text += f", gram {means['gram_loss']:.5f} x {means['gram_weight']:.2f}"
    return text


def parse_range(text: str) -> tuple[int, int]:
    """Read START:STOP."""
    start, _, stop = text.partition(":")
    if not (start.isdigit() and stop.isdigit() and int(start) < int(stop)):
        raise UserError(f"got --profile={text}, expected START:STOP of updates; write e.g. 10:15")
    return int(start), int(stop)


def parse_command(options: argparse.Namespace) -> Command:
    """Check what the command line says of a run beside its config."""
    if options.with_optimizer and not options.fork_from:
        raise UserError(
            "got --with_optimizer without --fork_from, expected the run whose optimizer it means; "
            "name it or leave the option out"
        )
    changes = [key for key in (options.allow_changes or "").split(",") if key]
    return Command(
        profile=parse_range(options.profile) if options.profile else None,
        load_step=options.load_step,
        step_hash=options.step_hash,
        allow_changes=check_changes(changes),
        fork_from=options.fork_from,
        with_optimizer=options.with_optimizer,
    )


def parse_arguments(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line: options, and what overrides the config."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="FILE", help="a file of configs/")
    parser.add_argument("--workdir", metavar="DIR", help="the run's folder")
    parser.add_argument(
        "--profile", metavar="START:STOP", help="record a trace of these updates for TensorBoard"
    )
    parser.add_argument(
        "--compilation_cache",
        metavar="DIR",
        help="keep compiled programs for the next start (default: WORKDIR/programs)",
    )
    parser.add_argument(
        "--load_step",
        metavar="FILE",
        help="run the step that --save_step stored and whose hash is known",
    )
    parser.add_argument(
        "--step_hash",
        metavar="SHA256",
        help="of that file, as --save_step printed it; else a report in the workdir says it",
    )
    going_on = parser.add_argument_group("going on from what is there")
    going_on.add_argument(
        "--allow_changes",
        metavar="KEY,...",
        help="options or sections that this run may change from here on; data: other pictures",
    )
    going_on.add_argument(
        "--fork_from",
        metavar="WORKDIR[@STEP]",
        help="start from the parameters of another run, its newest step if none is named",
    )
    going_on.add_argument(
        "--with_optimizer", action="store_true", help="and from its optimizer's state"
    )
    several = parser.add_argument_group("several processes (found out on SLURM, TPUs, Kubernetes)")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="of the first process")
    several.add_argument("--num_processes", type=int, metavar="N")
    several.add_argument("--process_id", type=int, metavar="I", help="of this one, from 0")
    ahead = parser.add_argument_group("compilation without the machines")
    ahead.add_argument(
        "--compile_only", action="store_true", help="say what a step needs, and whether it fits"
    )
    ahead.add_argument("--topology", metavar="NAME:SHAPE", help="e.g. v5e:8x8 or h100:8")
    ahead.add_argument("--save_step", metavar="FILE", help="store the compiled step, if it fits")
    ahead.add_argument(
        "--all_sizes",
        action="store_true",
        help="compile for all sizes of pictures, not the largest",
    )
    ahead.add_argument("--overwrite", action="store_true", help="replace step and report")
    options, overrides = parser.parse_known_args(arguments)
    if options.workdir is None and not options.compile_only:
        parser.error("the following arguments are required: --workdir")
    return options, overrides


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and train; returns the exit status."""
    options, overrides = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:  # an import may have made one
        handler.setFormatter(logging.Formatter("%(message)s"))

    def run() -> int:
        config = load_config(options.config, overrides)
        if options.compilation_cache:
            jax.config.update("jax_compilation_cache_dir", options.compilation_cache)
        elif options.workdir and jax.config.jax_compilation_cache_dir is None:
            jax.config.update("jax_compilation_cache_dir", f"{options.workdir}/{PROGRAMS}")
        if options.compile_only:
            folder = options.workdir or "."
            extent = {"overwrite": options.overwrite, "all_sizes": options.all_sizes}
            fits = aot.compile_only(config, options.topology, folder, options.save_step, **extent)
            return 0 if fits else DOES_NOT_FIT_STATUS
        settings = platform.configure()
        command = parse_command(options)
        several = distributed.initialize(
            options.coordinator, options.num_processes, options.process_id
        )
        for name in ("train", "colorize_jax"):
            level = logging.INFO if jax.process_index() == 0 else logging.WARNING
            logging.getLogger(name).setLevel(level)
        for line in settings:
            logger.info("%s", line)
        if several:
            tell_processes(several.reason)
        with Owner(options.workdir) as owner:
            number = train(config, options.workdir, owner, command)
        return SIGNALLED_STATUS + number if number else 0

    return run_program(run, interrupted="interrupted; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
