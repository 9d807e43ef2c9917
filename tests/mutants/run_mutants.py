"""Mutation test of what the profiler caches and follows: each mutant is one edit that the tests must notice.

``python tests/mutants/run_mutants.py [NAME ...]`` makes a copy of the package for each mutant, or for those named,
changes it, and runs the quick tests, then the slower ones, until one fails. A mutant that none notices survives and is
listed; ``EQUIVALENT`` says why an edit can change no result. Exit code 1 where fewer than 90 % of the others are
killed, where an equivalent one is killed after all, and where the text of any mutant is not there exactly once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("tests/profiler/tracking", "tests/profiler/rules", "tests/profiler/values", "tests/profiler/test_timesteps.py")
SLOW = (
    "tests/profiler/test_later_batches.py",
    "tests/profiler/test_profiler_semantics.py",
    "tests/profiler/test_counting_oracle.py",
    "tests/profiler/test_nothing_in_silence.py",
)
WANTED = 0.9


class Mutant(NamedTuple):
    """One edit: in ``file`` (below snn_energy/profiler), ``old`` becomes ``new``."""

    name: str
    file: str
    old: str
    new: str


CACHE, SCANS, ROLES = "tracking/call_cache.py", "values/scan_cache.py", "axes/roles.py"
MOVES, ELEMENTWISE, POOLS = "rules/moves.py", "rules/elementwise.py", "rules/pooling.py"
BOUNDS = "values/bounds.py"
MUTANTS = (
    Mutant("replay without dtype", CACHE, "            and tensor.dtype == self.dtype\n", ""),
    Mutant("replay without stride", CACHE, "            and tensor.stride() == self.stride\n", ""),
    Mutant("replay without shape", CACHE, "            tensor.shape == self.shape\n            and ", "            "),
    Mutant("replay without device", CACHE, "            and tensor.device == self.device\n", ""),
    Mutant("replay without facts", CACHE, "not trace.facts.equals(self.facts)", "False"),
    Mutant("replay of an untraced tensor", CACHE, "if trace is not None or self.facts is not None:", "if False:"),
    Mutant("replay without position", CACHE, " or cached.record_at != call.record_at:", ":"),
    Mutant("replay without index", CACHE, "!= cached.record.index", "!= counters.get(cached.record.label, 0)"),
    Mutant("replay without scope", CACHE, " or cached.scope != call.scope", ""),
    Mutant("replay without arguments", CACHE, " or call.rest != cached.rest:", ":"),
    Mutant("replay without keywords", CACHE, " or call.options != cached.options\n", "\n"),
    Mutant("replay without the result's type", CACHE, "if not cached.out.matches(call.out, None):", "if False:"),
    Mutant("replay in another batch shape", CACHE, "if batch != self._batch:", "if False:"),
    Mutant("constant operand kept", CACHE, "if call.constants_matter and any(", "if False and any("),
    Mutant("writes kept", CACHE, 'if outcome.written or "out" in call.options:', "if False:"),
    Mutant("unsupported kept", CACHE, 'outcome.record.op == "unsupported":', "False:"),
    Mutant("any argument is plain", CACHE, "v in value):\n            return False\n    return True\n", "v in value):\n            return True\n    return True\n"),
    Mutant("facts never compared", CACHE, "self._facts[at].equals(facts):", "True:"),
    Mutant("neuron without its steps", "neurons/count.py", "facts = (steps, module.amplitude)", "facts = (module.amplitude,)"),
    Mutant("neuron without its amplitude", "neurons/count.py", "facts = (steps, module.amplitude)", "facts = (steps,)"),
    Mutant("replay with other samples", CACHE, "if batch != self._batch:", "if batch.time_steps != self._batch.time_steps:"),
    Mutant("scan without layout", SCANS, "key: Hashable = (layout, needs_levels)", "key: Hashable = needs_levels"),
    Mutant("scan without levels", SCANS, "key: Hashable = (layout, needs_levels)", "key: Hashable = layout"),
    Mutant("scan of a view as of its memory", SCANS, "        if not in_order:\n", "        if False:\n"),
    Mutant("levels without common factor", SCANS, " and math.gcd(*values.levels) == 1:", ":"),
    Mutant("levels of any unit", SCANS, " and values.unit == trace.bound.unit", ""),
    Mutant("softmax of 4", ELEMENTWISE, "5 * call.out.numel(), *broadcast(call), NOTHING", "4 * call.out.numel(), *broadcast(call), NOTHING"),
    Mutant("layer norm of 4", ELEMENTWISE, "return _normed(call, context, 5, has_offset=True)", "return _normed(call, context, 4, has_offset=True)"),
    Mutant("batch norm of 1", ELEMENTWISE, "return _normed(call, context, 2,", "return _normed(call, context, 1,"),
    Mutant("addcmul of 1", ELEMENTWISE, "return _multiplied(call, context, 2)", "return _multiplied(call, context, 1)"),
    Mutant("sigmoid of 0 is 0", ELEMENTWISE, "return _activated(call, context, has_offset=True)", "return _activated(call, context, has_offset=False)"),
    Mutant("x >= c of 0 is 0", ELEMENTWISE, "*broadcast(call), NOTHING, has_offset=True))\n\n\n@rule(\n    \"\"\"sum", "*broadcast(call), NOTHING))\n\n\n@rule(\n    \"\"\"sum"),
    Mutant("cos of 0 is 0", ELEMENTWISE, "return _activated(call, context, has_offset=True)", "return _activated(call, context, has_offset=call.name != \"cos\")"),
    Mutant("softmax of 0 is 0", ELEMENTWISE, "5 * call.out.numel(), *broadcast(call), NOTHING, has_offset=True", "5 * call.out.numel(), *broadcast(call), NOTHING"),
    Mutant("layer norm of 0 is 0", ELEMENTWISE, "return _normed(call, context, 5, has_offset=True)", "return _normed(call, context, 5, has_offset=False)"),
    Mutant("a product does not mind its constants", ELEMENTWISE, "rtruediv truediv\", constants_matter=True)", "rtruediv truediv\")"),
    Mutant("a constant adds nothing", ELEMENTWISE, "has_offset = len(bounds) == 1", "has_offset = False"),
    Mutant("sum with alpha is plain", ELEMENTWISE, ' and call.kwargs.get("alpha", 1) == 1', ""),
    Mutant("a reduction counts its results", ELEMENTWISE, "x.numel() // max(1, rows)", "call.out.numel() // max(1, rows)"),
    Mutant("adaptive pools by outputs", POOLS, "return max(call.inputs[0][0].numel(), call.out.numel())", "return call.out.numel()"),
    Mutant("pools without taps", POOLS, "return call.out.numel() * math.prod(per_axis(kernel, axes))", "return call.out.numel()"),
    Mutant("roles after roll, index_select, gather", MOVES, "            roles = _copied_roles(call, x, trace, out)\n", "            roles = trace.roles if out.dim() == x.dim() else _copied_roles(call, x, trace, out)\n"),
    Mutant("roles after roll", MOVES, 'if name in ("flip", "roll", ', 'if name in ("flip", '),
    Mutant("roles after index_select", MOVES, '"roll", "index_select", "gather"', '"roll", "gather"'),
    Mutant("roles after gather", MOVES, '"index_select", "gather", "take_along_dim"', '"index_select", "take_along_dim"'),
    Mutant("roll takes its shift for its axis", MOVES, 'position = 2 if name in ("roll", ', 'position = 2 if name in ('),
    Mutant("padding with a value keeps spikes", MOVES, "bound = NOTHING if ", "bound = trace.bound if "),
    Mutant("a cast keeps scans", MOVES, "    if out.dtype != x.dtype:\n        scans = ScanResults()\n", "    if out.dtype != x.dtype:\n"),
    Mutant("a step is of the first one", MOVES, "// stride % batch.time_steps\n", "// stride % 1\n"),
    Mutant("clashing roles stay", ROLES, "    for back in clash:\n        found[-back] = None\n", ""),
    Mutant("a flat batch is time major", ROLES, 'parts if layout == "flat" else parts[::-1]', "parts"),
    Mutant("an ambiguous view keeps its role", ROLES, "        if len(axes) == 1:\n", "        if axes:\n"),
    Mutant("a reshape may cut an axis", ROLES, " and end % (offset * atom) == 0", ""),
    Mutant("incomplete is complete", ROLES, "return set(span.atoms(timed)) <= present", "return True"),
    Mutant("unequal amplitudes add up", BOUNDS, "    if a.unit != b.unit:\n", "    if False:\n"),
    Mutant("every sum is exact", BOUNDS, "return max_k <= 1 or (", "return True or ("),
    Mutant("a product without its length", BOUNDS, "a.max_k * b.max_k * reduction", "a.max_k * b.max_k"),
)  # fmt: skip
# Edits that can change no result, and why.
EQUIVALENT = {
    "levels without common factor": (
        "levels are divided by their common factor when they are found, so that those in the unit of the bound have none"
    ),
}


def require_texts() -> None:
    """Raises SystemExit where a mutant's text is not in its file exactly once, or a name is not that of one mutant."""
    faults = []
    for mutant in MUTANTS:
        found = (ROOT / "snn_energy" / "profiler" / mutant.file).read_text(encoding="utf-8").count(mutant.old)
        if found != 1:
            faults.append(f"{mutant.name}: its text is {found} times in {mutant.file}; bring it to today's code")
    names = [mutant.name for mutant in MUTANTS]
    faults += [f"two mutants are named {name}" for name in sorted(set(names)) if names.count(name) > 1]
    faults += [f"no mutant is named {name}" for name in [*EQUIVALENT, *sys.argv[1:]] if name not in names]
    if faults:
        raise SystemExit("\n".join(faults))


def copied(folder: Path, mutant: Mutant | None) -> None:
    """A copy of the package, with one edit."""
    shutil.copytree(ROOT / "snn_energy", folder / "snn_energy", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "hardware_profiles", "published", "reports", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    if mutant is not None:
        path = folder / "snn_energy" / "profiler" / mutant.file
        path.write_text(path.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")


def killer(mutant: Mutant | None) -> str | None:
    """The last line of the first test that fails; None where all pass."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copied(folder, mutant)
        for tests in (QUICK, *((path,) for path in SLOW)):
            run = subprocess.run(
                [sys.executable, "-m", "pytest", "-x", "-rfE", "-p", "no:cacheprovider", "-n", "0", *tests],
                cwd=folder, capture_output=True, text=True, check=False,
                env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            if run.returncode:
                failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR", "E   "))]
                return failed[-1] if failed else f"exit code {run.returncode}"
    return None


def main() -> None:
    """Run all mutants, or those named."""
    require_texts()
    chosen = [m for m in MUTANTS if not sys.argv[1:] or m.name in sys.argv[1:]]
    fault = killer(None)
    if fault is not None:
        raise SystemExit(f"the tests fail without any mutant: {fault}")
    surviving, equivalent, wrongly_listed = [], [], []
    for mutant in chosen:
        started = time.monotonic()
        found = killer(mutant)
        is_listed = mutant.name in EQUIVALENT
        if found is None:
            (equivalent if is_listed else surviving).append(mutant.name)
        elif is_listed:
            wrongly_listed.append(mutant.name)
        verdict = "killed" if found else "equivalent" if is_listed else "SURVIVED"
        print(f"{verdict}  {mutant.name}  ({time.monotonic() - started:.0f} s)  {found or ''}"[:200], flush=True)
    wanted = len(chosen) - len(equivalent)
    killed = wanted - len(surviving)
    print(f"{killed} of {wanted} killed, {len(equivalent)} equivalent; surviving: {', '.join(surviving) or 'none'}")
    for name in equivalent:
        print(f"equivalent: {name}: {EQUIVALENT[name]}")
    for name in wrongly_listed:
        print(f"listed as equivalent, and killed: {name}")
    sys.exit(0 if killed >= WANTED * wanted and not wrongly_listed else 1)


if __name__ == "__main__":
    main()
