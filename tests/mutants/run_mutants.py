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


SCRIPT, RECORDER, FOLLOWER = "tracking/script.py", "tracking/recorder.py", "tracking/follower.py"
DEFERRED, GROUP, SCAN, TABLE = (
    "tracking/deferred_scans.py",
    "values/scan_group.py",
    "values/scan.py",
    "tracking/tensor_table.py",
)
EVENTS, WALK, FOLLOW, COUNTER = "events.py", "walk.py", "follow.py", "call_counter.py"
FAMILIES, SCANS, ROLES = "results/families.py", "values/scan_cache.py", "axes/roles.py"
MOVES, ELEMENTWISE, POOLS = "rules/moves.py", "rules/elementwise.py", "rules/pooling.py"
BOUNDS = "values/bounds.py"
MUTANTS = (
    Mutant("a constant of another shape", SCRIPT, "            tensor.shape == self.shape\n            and ", "            "),
    Mutant("a constant of another stride", SCRIPT, "            and tensor.stride() == self.stride\n", ""),
    Mutant("a constant of another dtype", SCRIPT, "            and tensor.dtype == self.dtype\n", ""),
    Mutant("a constant on another device", SCRIPT, "            and tensor.device == self.device\n", ""),
    Mutant("a weight of another place", SCRIPT, "            and place_of(tensor, parameters) == self.place\n", ""),
    Mutant("a constant of another value", SCRIPT, "return self.value is None or torch.equal(self.value, tensor)", "return True"),
    Mutant("a buffer that was written to or not", SCRIPT, "if (trace is None) != (self.facts is None):", "if False:"),
    Mutant("a buffer of other facts", SCRIPT, "not trace.facts.equals(self.facts):", "False:"),
    Mutant("only the very same constant", SCRIPT, "if self.ref() is not tensor and not self._is_alike(tensor, parameters):", "if self.ref() is not tensor:"),
    Mutant("sums of the last batch", SCRIPT, "        for results in self.scans:\n            results.clear()\n", ""),
    Mutant("copies of the last batch", SCRIPT, "            group.targets.clear()\n", "            pass\n"),
    Mutant("numbers of dead tensors", SCRIPT, " and self.refs[slot]() is tensor else None", " else None"),
    Mutant("numbers stay after a call that differs", SCRIPT, "        del self.refs[slot:]\n", ""),
    Mutant("numbers of the last batch", SCRIPT, "        self.refs.clear()\n        self._traced.clear()\n", ""),
    Mutant("the step of a call", FOLLOWER, "type(step) is BeginCall and step.step == step_index:", "type(step) is BeginCall:"),
    Mutant("another module is entered", FOLLOWER, "if type(step) is Enter and step.name == name:", "if type(step) is Enter:"),
    Mutant("another module is left", FOLLOWER, "if type(step) is Leave and step.name == name:", "if type(step) is Leave:"),
    Mutant("another input", FOLLOWER, "if type(step) is not InputStep or step[:6] != given:", "if type(step) is not InputStep:"),
    Mutant("another function", FOLLOWER, " or step.name != name or step.facts != facts:", " or step.facts != facts:"),
    Mutant("another neuron", FOLLOWER, " or step.name != name or step.facts != facts:", " or step.name != name:"),
    Mutant("other keywords", FOLLOWER, "if is_same and (kwargs or step.keywords.parts):", "if False:"),
    Mutant("keywords that are not given", FOLLOWER, "if is_same and (kwargs or step.keywords.parts):", "if is_same and kwargs:"),
    Mutant("other results", FOLLOWER, "if not is_same or not self._has_results(step.results, out):", "self._has_results(step.results, out)\n        if not is_same:"),
    Mutant("result of another shape", FOLLOWER, "if tensor.shape != shape or tensor.stride()", "if tensor.stride()"),
    Mutant("result of another stride", FOLLOWER, " or tensor.stride() != stride or tensor.dtype", " or tensor.dtype"),
    Mutant("result of another dtype", FOLLOWER, " or tensor.dtype != dtype:", ":"),
    Mutant("number of results", FOLLOWER, "        if len(made) != len(expected):\n            return False\n        for (shape, stride, dtype), tensor in zip(expected, made, strict=True)", "        for (shape, stride, dtype), tensor in zip(expected, made, strict=False)"),
    Mutant("number of arguments", FOLLOWER, "        if len(expected) != len(actual):\n            return False\n        refs = self.slots.refs\n        for one, other in zip(expected, actual, strict=True)", "        refs = self.slots.refs\n        for one, other in zip(expected, actual, strict=False)"),
    Mutant("another tensor of the loader", FOLLOWER, "if other is None or refs[one]() is not other:", "if other is None:"),
    Mutant("another class of group", FOLLOWER, "if type(other) is not one.kind or not self", "if not self"),
    Mutant("another type of number", FOLLOWER, "(type(other) is not kind or other != one)", "other != one"),
    Mutant("another number", FOLLOWER, "(type(other) is not kind or other != one)", "type(other) is not kind"),
    Mutant("none for a dead weight", FOLLOWER, "        if actual is None:\n            return False\n", ""),
    Mutant("traced for a constant", FOLLOWER, "return self.slots.of(actual) is None and expected.matches", "return expected.matches"),
    Mutant("the same constant of another value", FOLLOWER, "if expected.facts is None and expected.value is None and expected.ref()", "if expected.facts is None and expected.ref()"),
    Mutant("the same buffer of other facts", FOLLOWER, "if expected.facts is None and expected.value is None and expected.ref()", "if expected.value is None and expected.ref()"),
    Mutant("nothing is scanned", FOLLOWER, "            setattr(self.script.records[scan.record], scan.side, sums)\n", ""),
    Mutant("nothing is written", FOLLOWER, "                self.table.mark_written(self._tensor(slot), written)\n", "                pass\n"),
    Mutant("results are not traced", FOLLOWER, "            self.slots.mark_traced(self._tensor(put.slot), put.slot)\n        return step", "            pass\n        return step"),
    Mutant("numbers stay", FOLLOWER, "            self.slots.drop_from(before)\n", ""),
    Mutant("every other call is none of the loader", FOLLOWER, "return not any(self.is_traced(tensor) for tensor in tensors_in([args, kwargs]))", "return True"),
    Mutant("no other call is one of the loader", FOLLOWER, "return not any(self.is_traced(tensor) for tensor in tensors_in([args, kwargs]))", "return False"),
    Mutant("scans for later readers", FOLLOWER, "for target in scan.targets if target[0] < count)", "for target in scan.targets)"),
    Mutant("nothing is scanned at a departure", FOLLOWER, "        self.finish()\n        records = 0\n", "        records = 0\n"),
    Mutant("modules are not entered at a departure", FOLLOWER, "                scopes.leave()\n                records = step.records\n", "                records = step.records\n"),
    Mutant("calls begin no modules anew", FOLLOWER, "            elif isinstance(step, BeginCall):\n                scopes.begin_call()\n", ""),
    Mutant("operations are not counted at a departure", FOLLOWER, "                        scopes.count(label)\n", "                        pass\n"),
    Mutant("no tensor is known at a departure", FOLLOWER, "                    if tensor is not None:\n                        table.put_again(tensor, put.trace, put.generation, put.layout)\n", "                    pass\n"),
    Mutant("no operation before a departure", FOLLOWER, "                    records = step.records\n                    for label", "                    for label"),
    Mutant("generation of today", TABLE, "tensor.untyped_storage()._cdata, generation)\n        self._layouts[id(tensor)] = layout", "tensor.untyped_storage()._cdata, self._generation.get(tensor.untyped_storage()._cdata, 0))\n        self._layouts[id(tensor)] = layout"),
    Mutant("layout of today", TABLE, "        self._layouts[id(tensor)] = layout\n", "        self._layouts[id(tensor)] = tensor.shape, tensor.stride()\n"),
    Mutant("a call on a constant is an event", RECORDER, "if not is_event and all(", "if all("),
    Mutant("a call of parts is counted twice", RECORDER, "        if self._is_paused:\n            return None\n        if not is_event", "        if not is_event"),
    Mutant("a generator can be compared", RECORDER, "            self.broken = f\"{name}: {error}\"\n", "            pass\n"),
    Mutant("values do not matter", RECORDER, "value.detach().clone() if decides and value.numel() == 1 else None", "None"),
    Mutant("no buffer has facts", RECORDER, "facts = None if trace is None else trace.facts\n            return", "facts = None\n            return"),
    Mutant("constants in results are not numbered", RECORDER, "            numbers[id(value)] = self.slots.add(value)\n", ""),
    Mutant("writes are not written down", RECORDER, "                step.writes.append((slot, trace))\n", "                pass\n"),
    Mutant("labels are not written down", RECORDER, "[record.label for record in self.log.records[self._claimed :]]", "[]"),
    Mutant("both sides of a product are one", RECORDER, "side = SIDES.get(reader.operand, reader.operand)", "side = next((s for s in (\"left\", \"right\", \"fired\") if getattr(record, s, None) is sums), \"\")"),
    Mutant("every tensor lies as it is scanned", RECORDER, "is_arranged = x is tensor or (", "is_arranged = True or ("),
    Mutant("a script of another shape of batch", EVENTS, "script, parameters = self._scripts.get(batch)", "script, parameters = next(iter(self._scripts.values()), None)"),
    Mutant("a batch that ends early is followed", EVENTS, "        if self.follower is not None and not self.follower.is_complete:\n            self._depart()\n", ""),
    Mutant("a script that is broken is kept", EVENTS, "            self._scripts.pop(self.calls.context.shape, None)\n", "            pass\n"),
    Mutant("what waits is not scanned", EVENTS, "            self.follower.finish()\n", ""),
    Mutant("tensors of the last batch", EVENTS, "        self.table.clear()\n        self.calls.slots.clear()\n", "        self.calls.slots.clear()\n"),
    Mutant("a layer on a constant without its weights", WALK, "event = self.recorder.begin(ON_CONSTANT, args, kwargs, out, facts=(is_known,), is_event=True)", "event = self.recorder.begin(ON_CONSTANT, args, kwargs, out, facts=(True,), is_event=True)"),
    Mutant("all operations of a script at a departure", WALK, "follower.script.records[:records]", "follower.script.records[:]"),
    Mutant("a script without its beginning", WALK, "self.recorder.begin_batch(follower.followed())", "self.recorder.begin_batch()"),
    Mutant("a layer on a constant is none", FOLLOW, "and not follower.is_traced(x):", "and False:"),
    Mutant("parts are not followed", FOLLOW, "            _follow_parts(entry.parts(call), follower)\n", "            pass\n"),
    Mutant("parts do not mind their constants", COUNTER, "entry.constants_matter or entry.parts is not None", "entry.constants_matter"),
    Mutant("targets of the first reader alone", DEFERRED, "        first.targets.append((scan.record, scan.side))\n", "        first.targets[:] = first.targets or [(scan.record, scan.side)]\n"),
    Mutant("families are scanned together", DEFERRED, "alike[family, scan.side,", "alike[scan.side,"),
    Mutant("sides are scanned together", DEFERRED, "alike[family, scan.side,", "alike[family,"),
    Mutant("layouts are scanned together", DEFERRED, "scan.side, scan.layout, scan.needs_levels", "scan.side, scan.needs_levels"),
    Mutant("forms are scanned together", DEFERRED, "scan.needs_levels, scan.form, scan.trace.bound", "scan.needs_levels, scan.trace.bound"),
    Mutant("bounds are scanned together", DEFERRED, "scan.needs_levels, scan.form, scan.trace.bound", "scan.needs_levels, scan.form"),
    Mutant("operations that are placed nowhere wait", DEFERRED, "if scan.group is None and -1 not in family and", "if scan.group is None and"),
    Mutant("every reader copies", DEFERRED, "targets=tuple(first.targets)) if scan is first.scan else None", "targets=tuple(first.targets))"),
    Mutant("a full group is not scanned", GROUP, "        if len(self.targets) == len(self.places):\n            self.flush(records, scans)\n", ""),
    Mutant("all places are scanned", GROUP, "self.buffer[:count], self.trace", "self.buffer, self.trace"),
    Mutant("one target of a tensor", GROUP, "            for record, side in targets:\n                setattr", "            for record, side in targets[:1]:\n                setattr"),
    Mutant("copies stay after a scan", GROUP, "        self.targets.clear()\n", ""),
    Mutant("sums of the first tensor for all", GROUP, "NonzeroSums(nonzeros[index], ", "NonzeroSums(nonzeros[0], "),
    Mutant("levels of the first tensor for all", GROUP, "else levels[index], sums.values", "else levels[0], sums.values"),
    Mutant("a guess need not be exact", SCAN, "guess.reason is not None or not guess.exact or flat", "guess.reason is not None or flat"),
    Mutant("a guess of one value without its hits", SCAN, "if torch.equal(hits, nonzeros) and bool(hits.any()) else None", "if bool(hits.any()) else None"),
    Mutant("a guess of one value for zeros", SCAN, "if torch.equal(hits, nonzeros) and bool(hits.any()) else None", "if torch.equal(hits, nonzeros) else None"),
    Mutant("a guess of any values", SCAN, "    if not torch.equal(multiples * unit, flat):\n        return None\n", ""),
    Mutant("a guess of any multiples", SCAN, "    if not -max_k <= low <= high <= max_k:\n        return None\n", ""),
    Mutant("a guess of another unit", SCAN, "float(np.float32(least * values.unit)) / least != values.unit:", "False:"),
    Mutant("levels in the guessed unit", SCAN, "levels = sums // round(values.unit / unit)", "levels = sums"),
    Mutant("families of all layers", FAMILIES, "        item.layer, event.op,", "        event.op,"),
    Mutant("families of all rows", FAMILIES, "event.timed, len(item.steps),", "event.timed,"),
    Mutant("families of all sizes", FAMILIES, " sizes_of(event), form,", " form,"),
    Mutant("families of all operands", FAMILIES, "event.left_elements, event.right_elements, ", ""),
    Mutant("families without fan-out", FAMILIES, "                geometry.fan_out.tobytes())", "                )"),
    Mutant("a member has the counts of the first", FAMILIES, "key: whole[i * self.rows : (i + 1) * self.rows]", "key: whole[: self.rows]"),
    Mutant("a member works as the first", FAMILIES, "key: self.worked[i * self.rows : (i + 1) * self.rows]", "key: self.worked[: self.rows]"),
    Mutant("a part keeps the last one", FAMILIES, "self.gathered, self.worked = defaultdict(list), np.zeros_like(self.active)", "self.worked = np.zeros_like(self.active)"),
    Mutant("neuron without its steps", "neurons/count.py", "return is_known, steps, module.amplitude", "return is_known, module.amplitude"),
    Mutant("neuron without its amplitude", "neurons/count.py", "return is_known, steps, module.amplitude", "return is_known, steps"),
    Mutant("scan without layout", SCANS, "key: Hashable = (layout, needs_levels)", "key: Hashable = needs_levels"),
    Mutant("scan without levels", SCANS, "key: Hashable = (layout, needs_levels)", "key: Hashable = layout"),
    Mutant("scan of a view as of its memory", SCANS, "        if not in_order:\n", "        if False:\n"),
    Mutant("levels without common factor", SCANS, " and math.gcd(*values.levels) == 1:", ":"),
    Mutant("levels of any unit", SCANS, " and values.unit == trace.bound.unit", ""),
    Mutant("softmax of 4", ELEMENTWISE, "5 * call.out.numel(), *broadcast(call), COMPUTED", "4 * call.out.numel(), *broadcast(call), COMPUTED"),
    Mutant("layer norm of 4", ELEMENTWISE, "return _normed(call, context, 5, has_offset=True)", "return _normed(call, context, 4, has_offset=True)"),
    Mutant("batch norm of 1", ELEMENTWISE, "_normed(call, context, 2,", "_normed(call, context, 1,"),
    Mutant("addcmul of 1", ELEMENTWISE, "return _multiplied(call, context, 2)", "return _multiplied(call, context, 1)"),
    Mutant("sigmoid of 0 is 0", ELEMENTWISE, "return _activated(call, context, has_offset=True)", "return _activated(call, context, has_offset=False)"),
    Mutant("x >= c of 0 is 0", ELEMENTWISE, "*broadcast(call), _compared(call), has_offset=True)", "*broadcast(call), _compared(call))"),
    Mutant("cos of 0 is 0", ELEMENTWISE, "return _activated(call, context, has_offset=True)", "return _activated(call, context, has_offset=call.name != \"cos\")"),
    Mutant("softmax of 0 is 0", ELEMENTWISE, "5 * call.out.numel(), *broadcast(call), COMPUTED, has_offset=True", "5 * call.out.numel(), *broadcast(call), COMPUTED"),
    Mutant("layer norm of 0 is 0", ELEMENTWISE, "return _normed(call, context, 5, has_offset=True)", "return _normed(call, context, 5, has_offset=False)"),
    Mutant("a product does not mind its constants", ELEMENTWISE, "rtruediv truediv\", constants_matter=True)", "rtruediv truediv\")"),
    Mutant("a constant adds nothing", ELEMENTWISE, "has_offset = len(bounds) == 1", "has_offset = False"),
    Mutant("sum with alpha is plain", ELEMENTWISE, 'call.name == "add" and alpha == 1', 'call.name == "add"'),
    Mutant("a reduction counts its results", ELEMENTWISE, "x.numel() // max(1, rows)", "call.out.numel() // max(1, rows)"),
    Mutant("adaptive pools by outputs", POOLS, "return max(call.inputs[0][0].numel(), call.out.numel())", "return call.out.numel()"),
    Mutant("pools without taps", POOLS, "return call.out.numel() * math.prod(per_axis(kernel, axes))", "return call.out.numel()"),
    Mutant("roles after roll, index_select, gather", MOVES, "roles = _copied_roles(call, x, trace, out, context.shape)", "roles = trace.roles if out.dim() == x.dim() else _copied_roles(call, x, trace, out, context.shape)"),
    Mutant("roles after roll", MOVES, 'if name in ("flip", "roll", ', 'if name in ("flip", '),
    Mutant("roles after index_select", MOVES, '"roll", "index_select", "gather"', '"roll", "gather"'),
    Mutant("roles after gather", MOVES, '"index_select", "gather", "take_along_dim"', '"index_select", "take_along_dim"'),
    Mutant("roll takes its shift for its axis", MOVES, 'position = 2 if name in ("roll", ', 'position = 2 if name in ('),
    Mutant("padding with a value keeps spikes", MOVES, "if is_joined else trace.bound", "if False else trace.bound"),
    Mutant("a cast keeps scans", MOVES, "    if out.dtype != x.dtype:\n        scans = ScanResults()\n", "    if out.dtype != x.dtype:\n"),
    Mutant("a step is of the first one", MOVES, "// stride % batch.time_steps\n", "// stride % 1\n"),
    Mutant("clashing roles stay", ROLES, "    for back in clash:\n        found[-back] = None\n", ""),
    Mutant("a flat batch is time major", ROLES, 'parts if layout == "flat" else parts[::-1]', "parts"),
    Mutant("an ambiguous view keeps its role", ROLES, "        if len(axes) == 1:\n", "        if axes:\n"),
    Mutant("a part of an axis is its first digit", ROLES, "step * (extent.end // high)", "step"),
    Mutant("incomplete is complete", ROLES, "return all(holds(atom, shape, roles, span) for atom in span.atoms(timed))", "return True"),
    Mutant("unequal amplitudes add up", BOUNDS, "    if a.unit != b.unit:\n", "    if False:\n"),
    Mutant("every sum is exact", BOUNDS, "return max_k <= 1 or (", "return True or ("),
    Mutant("a product without its length", BOUNDS, "a.max_k * b.max_k * reduction", "a.max_k * b.max_k"),
)  # fmt: skip
# Edits that can change no result, and why.
EQUIVALENT = {
    "a generator can be compared": (
        "the call is then written down without arguments, as no call is that reads a tensor: every batch departs there"
    ),
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
