"""Module names of version 0.1: importing one yields the new module with a DeprecationWarning, until version 0.3."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Old module -> new modules; the first one is the main replacement.
MOVED: dict[str, tuple[str, ...]] = {
    "audit": ("analysis.spiking_audit",),
    "breakeven": ("analysis.break_even",),
    "calibrate": ("paper.calibrated_networks",),
    "charges": ("pricing.actions",),
    "cifar": ("datasets.cifar",),
    "compare": ("analysis.comparison",),
    "compute": ("pricing.compute",),
    "demo": ("studies.demo",),
    "distributions": ("paper.step_distributions",),
    "early_exit": ("analysis.exit_energy", "studies.early_exit_run"),
    "energy": (
        "pricing.energy",
        "pricing.charged_work",
        "pricing.left_out",
        "pricing.policies",
        "pricing.actions",
        "counts.transforms",
    ),
    "errors": ("core.errors",),
    "events": ("datasets.events",),
    "files": ("core.files",),
    "groups": ("core.groups",),
    "hardware_tables": ("hardware.tables",),
    "image_files": ("datasets.image_files",),
    "inputs": ("jobs.inputs", "datasets.rescaled"),
    "latency": ("pricing.cycles", "pricing.energy", "analysis.skipping", "counts.transforms"),
    "ledger": ("paper.ledger",),
    "memory": ("pricing.memory",),
    "models.fused": ("models.spikformer_fused",),
    "models.registry": ("models.names", "models.create"),
    "models.skipping": ("models.spikformer_skipping",),
    "nir_graph": ("checkpoints.nir.graph", "checkpoints.nir.network", "checkpoints.nir.nodes"),
    "paper_plots": ("paper.plots",),
    "plots": (
        "report.plots.folder",
        "report.plots.energy",
        "report.plots.activity",
        "report.plots.training",
        "report.plots.time_steps",
        "report.plots.design_sweep",
        "report.plots.break_even",
        "report.plots.style",
    ),
    "profile_run": ("jobs.profile_run",),
    "profiler.accuracy": ("running.accuracy",),
    "profiler.belief": ("profiler.inspection_report",),
    "profiler.counting": ("profiler.values.exact_sums",),
    "profiler.frameworks": ("profiler.neurons.known", "profiler.neurons.spec"),
    "profiler.inspection": ("profiler.discovery.interpret", "running.time_mode", "profiler.discovery.observe"),
    "profiler.kinds": ("core.kinds",),
    "profiler.operands": ("profiler.values.bounds", "profiler.values.scan"),
    "profiler.parts": ("profiler.results.resume", "profiler.results.part_files", "profiler.results.part"),
    "profiler.profile": ("profiler.run",),
    "profiler.state": ("running.module_state",),
    "profiler.timesteps": ("profiler.axes.roles", "profiler.axes.needed_steps", "core.vocabulary"),
    "profiler.trace": ("profiler.values.traces", "profiler.tracking.operation_log", "profiler.tracking.script"),
    "profiler.walker": ("profiler.counting_mode",),
    "published": ("counts.published", "counts.published_schema", "counts.published_amounts"),
    "record": ("paper.record",),
    "references": ("jobs.references",),
    "reproduce": ("paper.reproduce",),
    "sensitivity": ("studies.sensitivity.measure", "studies.sensitivity.recommend", "studies.sensitivity.statistics"),
    "sweep": ("analysis.design_sweep",),
    "tables": ("report.tables",),
    "training.ablate": ("studies.ablation",),
    "training.grid": ("studies.ablation_grid",),
    "training.parallel": ("running.processes",),
    "training.train_demo": ("studies.train_demo",),
    "training.trio": ("studies.trio",),
    "uncertainty": ("analysis.uncertainty",),
    "weights_file": ("checkpoints.weights_file", "checkpoints.inert_pickle"),
    "work": ("pricing.charged_work", "pricing.left_out"),
    "yaml_file": ("core.yaml_file",),
}


# Old module -> {old name: new name} in the new modules above.
RENAMED: dict[str, dict[str, str]] = {
    "audit": {"PURE": "SPIKING"},
    "breakeven": {"GRID": "GRID_POINTS", "REACH": "MAX_FACTOR", "ROUNDS": "REFINEMENTS", "repeated": "row_repeats"},
    "calibrate": {
        "REACH": "MAX_BIAS",
        "ROUNDS": "BISECTION_STEPS",
        "made_counts": "calibrated_counts",
        "steps_of_mean": "steps_with_mean",
    },
    "charges": {"Charge": "ActionCount"},
    "compute": {"compute_charges": "compute_actions"},
    "distributions": {"extreme": "extreme_steps"},
    "early_exit": {
        "EVEN": "EQUAL_PER_SAMPLE",
        "Floats": "FloatArray",
        "Ints": "IntArray",
        "OF_THE_WHOLE": "WHOLE_RUN_KEYS",
        "exits_of_checkpoint": "early_exit_of_checkpoint",
    },
    "energy": {
        "Charge": "ActionCount",
        "SAMPLES_AT_ONCE": "SAMPLE_BLOCK",
        "Work": "ChargedWork",
        "all_charges": "all_actions",
        "given_charges": "published_accesses",
        "needed_steps": "keep_needed_steps",
        "prices_arithmetic": "has_arithmetic_prices",
        "refuse_unpriced": "require_arithmetic_prices",
    },
    "events": {"BYTES": "EVENT_BYTES", "By": "Binning"},
    "files": {
        "require_apart": "require_distinct_paths",
        "write_all_whole": "write_all_atomically",
        "write_whole": "write_atomically",
    },
    "hardware_tables": {"cannot_price": "missing_prices", "notes": "profile_notes"},
    "image_files": {"LITTER": "SYSTEM_FILES"},
    "inputs": {"Divided": "RescaledImages"},
    "latency": {
        "Places": "LayerRows",
        "every_step": "run_masked_steps",
        "flat": "drop_design_axis",
        "imbalance": "lane_imbalance",
        "no_latency": "missing_latency_error",
        "places_of": "layer_rows_of",
        "skipping": "skipping_savings",
    },
    "ledger": {"NEAREST": "RATE_SETTINGS", "density": "input_density"},
    "memory": {
        "Charge": "ActionCount",
        "Flow": "TensorTraffic",
        "Work": "ChargedWork",
        "check_homes": "require_fit",
        "flows": "tensor_traffic",
        "homes": "assign_levels",
        "memory_charges": "memory_actions",
        "operations": "performed_operations",
    },
    "models.fused": {
        "VARIANTS": "RECOMPILE_LIMIT",
        "applies": "can_fuse",
        "mask_of": "time_step_mask",
        "pooled": "apply_pool",
        "run": "run_compiled",
        "why_not": "compile_error",
    },
    "models.skipping": {"added": "add_steps", "fired": "conv_norm_fire"},
    "profile_run": {"Asked": "ProfileRequest", "BATCH": "DEFAULT_BATCH_SIZE", "LOOK": "INSPECTED_SAMPLES"},
    "profiler.accuracy": {"right_answers": "correct_samples"},
    "profiler.belief": {"Belief": "InspectionReport"},
    "profiler.counting": {"fed_outputs": "outputs_per_input", "weighted_rows": "sops_of_rows"},
    "profiler.frameworks": {"hides_work": "hidden_work_message", "with_weights": "neurons_with_weights"},
    "profiler.inspection": {
        "Heard": "ModuleObservation",
        "Settled": "Interpretation",
        "settle": "interpret",
        "step_by_step": "call_per_step",
        "takes_a_state": "accepts_a_state",
    },
    "profiler.kinds": {
        "Values": "ValueSet",
        "from_values": "value_set_of",
        "join": "least_upper_bound",
        "normalised": "normalised_set",
        "not_multiples": "real_not_multiples",
        "of_loader": "check_declared_kind",
        "real": "real_values",
    },
    "profiler.parts": {"Part": "PartialCounts", "locked": "exclusive_lock"},
    "profiler.profile": {"settle_first": "interpret_first"},
    "profiler.timesteps": {"Steps": "StepMask", "fed_roles": "input_roles"},
    "published": {
        "Count": "PositiveInt",
        "Entry": "LayerOrBlock",
        "FORM": "FILE_TYPE",
        "FORMS": "COUNT_FORMS",
        "LOWEST_FIRST": "KINDS",
        "NOTHING": "EMPTY_ROW",
        "Number": "NonNegativeNumber",
        "Whole": "NonNegativeInt",
        "expand": "expand_layers",
    },
    "record": {"MADE": "CALIBRATED_VARIANT", "Record": "PublishedRecord", "entry": "ledger_row"},
    "references": {"build": "call_reference"},
    "reproduce": {"WITH_ARRAY": "HARDWARE_WITH_ARRAY", "write": "write_report"},
    "sensitivity": {
        "StepFigures": "StepStatistics",
        "ending": "truncating_hooks",
        "merged": "merge",
        "step_figures": "step_statistics",
    },
    "sweep": {"BLOCK": "BLOCK_ELEMENTS", "WHOLE": "INTEGER_KEYS"},
    "tables": {
        "NOTHING": "MISSING_TEXT",
        "for_reading": "display_frame",
        "number": "format_number",
        "plain": "plain_text",
        "readable": "formatted",
    },
    "training.ablate": {"jobs_of": "make_jobs"},
    "uncertainty": {"ranged": "numbers_with_range"},
    "weights_file": {
        "BOOKKEEPING": "TOOL_COUNTERS",
        "DEEPEST": "MAX_WRAPPERS",
        "OWN_IF_MISSING": "OPTIONAL_BUFFERS",
        "STATE": "NEURON_STATE_BUFFERS",
        "Where": "KeyPath",
        "existing": "existing_file",
        "fitted": "fit_to_network",
    },
    "work": {"Array": "FloatArray", "Flags": "BoolArray", "Work": "ChargedWork"},
    "yaml_file": {
        "Form": "FileType",
        "Record": "StrictModel",
        "fault": "schema_error",
        "first_fault": "first_error",
        "show_value": "format_value",
    },
}


class _MovedModule(ModuleType):
    """Stand-in for an old module. It is callable like the public function of the same name (``audit``)."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            old = self.__name__.removeprefix("snn_energy.")
            new = RENAMED.get(old, {}).get(name, name)
            for place in MOVED[old]:
                module = import_module(f"snn_energy.{place}")
                if hasattr(module, new):
                    return getattr(module, new)
        raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*arguments, **options)


class _Finder(MetaPathFinder, Loader):
    """Appended to ``sys.meta_path``, so that it never hides an existing module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        is_moved = fullname.startswith("snn_energy.") and fullname.removeprefix("snn_energy.") in MOVED
        return ModuleSpec(fullname, self) if is_moved else None

    def get_code(self, fullname: str) -> None:
        """Refuse ``python -m`` with an old name. Raises ImportError that names the new one."""
        new = MOVED[fullname.removeprefix("snn_energy.")][0]
        raise ImportError(f"{fullname} is now snn_energy.{new}; run python -m snn_energy.{new}", name=fullname)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _MovedModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        new = MOVED[module.__name__.removeprefix("snn_energy.")][0]
        warnings.warn(
            f"{module.__name__} is now snn_energy.{new}; the old name goes with version 0.3",
            DeprecationWarning,
            stacklevel=2,
        )


def install() -> None:
    """Make the old names importable; repeated calls have no further effect."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
