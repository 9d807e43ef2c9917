"""Profiles random networks and compares every row with a brute-force count; failures are shrunk and printed.

python tests/differential/fuzz.py --networks 3000 --seed 1000      # seeds 1000 ... 3999
python tests/differential/fuzz.py --flows 1000 --seed 1000         # networks whose flow depends on the data
python tests/differential/fuzz.py --description failing.json       # one network again
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import time
import traceback
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import compare  # noqa: E402
import flows  # noqa: E402
import torch  # noqa: E402
from describe import Description, describe  # noqa: E402
from shrink import as_text, shrunk  # noqa: E402

CROSS_CHECK = "SNN_ENERGY_CROSS_CHECK"
CHECKED_EVERY = 4  # so many networks are profiled with everything cached computed again


def set_cross_check(seed: int) -> None:
    """Cached outcomes are computed again and compared, for a part of the seeds."""
    os.environ[CROSS_CHECK] = "1" if seed % CHECKED_EVERY == 0 else "0"


def faults_of(made: Description) -> list[str]:
    """What is wrong; an exception too, by its type and place."""
    set_cross_check(made["seed"])
    try:
        return compare.faults(made)
    except compare.OracleError as error:
        return [f"oracle: {error}"]
    except Exception as error:  # noqa: BLE001 - whatever it raises is a finding
        place = traceback.extract_tb(error.__traceback__)[-1]
        return [f"{type(error).__name__} in {place.name}: {error}"]


def kind_of(fault: str) -> str:
    """What a fault is about, so that shrinking does not slip from one fault to another."""
    words = fault.split(": ")[0].split()
    return " ".join(word for word in words if not any(letter.isdigit() for letter in word)) or words[0]


def report(made: Description, found: list[str]) -> str:
    """A failure: the faults, the smallest network that has them, and how to run it again."""
    kind = kind_of(found[0])
    small = shrunk(made, lambda smaller: any(kind_of(fault) == kind for fault in faults_of(smaller)))
    path = Path(f"differential-{made['seed']}.json")
    lines = [
        f"seed {made['seed']} ({made['family']}, {made['style']}): {len(found)} faults",
        *[f"  {f}" for f in found[:6]],
    ]
    lines += ["  shrunk to:", as_text(small), *[f"    {fault}" for fault in faults_of(small)[:4]]]
    lines += [f"  again: python tests/differential/fuzz.py --networks 1 --seed {made['seed']}"]
    lines += [f"  the smaller one: python tests/differential/fuzz.py --description {path}, which holds"]
    return "\n".join([*lines, f"  {json.dumps(small)}"])


def main() -> int:
    """Run, print failures and a summary; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=0, metavar="N")
    parser.add_argument("--flows", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="of the first network")
    parser.add_argument("--description", type=Path, help="a file with one description")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given.description:
        found = faults_of(json.loads(given.description.read_text(encoding="utf-8")))
        print("\n".join(found) or "no fault")
        return int(bool(found))
    start, failed = time.monotonic(), 0
    outcomes: collections.Counter[str] = collections.Counter()
    for seed in range(given.seed, given.seed + given.networks):
        made = describe(seed)
        found = faults_of(made)
        outcomes[made["family"]] += 1
        if found:
            failed += 1
            print(report(made, found), flush=True)
    for seed in range(given.seed, given.seed + given.flows):
        set_cross_check(seed)
        outcome, found = flows.faults(seed)
        outcomes[f"flow {outcome}"] += 1
        if found:
            failed += 1
            print(flows.report(seed, found), flush=True)
    seconds = time.monotonic() - start
    print(
        f"{given.networks + given.flows} networks, {failed} failed, {seconds:.0f} s; {dict(sorted(outcomes.items()))}"
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
