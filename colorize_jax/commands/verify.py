"""`verify`: golden cases through import and our modules, or an exported pipeline beside ours."""

import argparse

HELP = "check our networks against golden cases, or an exported pipeline against ours"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "folder", metavar="GOLDEN_DIR", nargs="?", help="folder of cases, or one case"
    )
    parser.add_argument("--case", metavar="NAME", help="run only this case, or run")
    parser.add_argument(
        "--against",
        metavar="FOLDER",
        help="run this exported pipeline by PyTorch (extra interop) and ours on the same pictures",
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="DIR",
        help="what --against was exported from; by default it is read back itself",
    )
    parser.add_argument("--size", type=int, help="side of the pictures of --against, px")


def run(args: argparse.Namespace) -> int:
    """Print one line an output; 0 where all pass, 1 otherwise."""
    from colorize_jax.errors import UserError
    from colorize_jax.setup.machine import platform
    from colorize_jax.verify import verify_folder

    if (args.folder is None) == (args.against is None):
        raise UserError(
            "got a folder of golden cases and --against, or neither, expected one of them"
        )
    if args.against is not None:
        return _run_against(args)
    for line in platform.configure():
        print(line)
    checks = []
    print(f"{'case':<22}{'component':<22}{'output':<44}{'error':>9}{'tolerance':>11}")
    for check in verify_folder(args.folder, args.case):
        verdict = "pass" if check.passed else "FAIL"
        print(
            f"{check.case:<22}{check.component:<22}{check.output:<44}{check.error:>9.1e}"
            f"{check.tolerance:>11.0e}  {verdict}",
            flush=True,
        )
        checks.append(check)
    failures = sum(not check.passed for check in checks)
    print(f"{len(checks) - failures} of {len(checks)} outputs pass")
    return 1 if failures else 0


def _run_against(args: argparse.Namespace) -> int:
    from colorize_jax.commands.files import use_cpu
    from colorize_jax.verify.against import verify_against

    use_cpu()
    differences = []
    print(f"{'run':<36}{'latents':>10}{'picture, of 255':>18}")
    for one in verify_against(args.against, args.checkpoint, size=args.size, name=args.case):
        verdict = "pass" if one.passed else "FAIL"
        levels = "" if one.levels is None else one.levels
        print(f"{one.run:<36}{one.error:>10.1e}{levels:>18}  {verdict}", flush=True)
        differences.append(one)
    failures = sum(not one.passed for one in differences)
    print(f"{len(differences) - failures} of {len(differences)} runs agree")
    return 1 if failures else 0
