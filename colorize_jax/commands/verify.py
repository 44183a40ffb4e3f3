"""`verify`: run golden cases through import and our modules."""

import argparse

HELP = "check our networks against golden cases of the published code"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", metavar="GOLDEN_DIR", help="folder of cases, or one case")
    parser.add_argument("--case", metavar="NAME", help="run only this case")


def run(args: argparse.Namespace) -> int:
    """Print one line an output; 0 where all pass, 1 otherwise."""
    from colorize_jax.setup import platform
    from colorize_jax.verify import verify_folder

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
