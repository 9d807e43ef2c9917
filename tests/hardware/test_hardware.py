"""Hardware profiles: what the bundled ones say, how units convert, and one bad input a test."""

import subprocess
import sys
from pathlib import Path

import pytest

from snn_energy.core import bundled
from snn_energy.core.errors import HardwareError
from snn_energy.hardware import schema as hardware
from snn_energy.hardware.files import hardware_path, list_hardware, load_hardware
from snn_energy.hardware.numbers import numbers
from snn_energy.hardware.schema import TENSORS, HardwareProfile
from snn_energy.hardware.tables import (
    DESCRIBE_COLUMNS,
    DIFFERENCE_COLUMNS,
    describe,
    differences,
    missing_prices,
    profile_notes,
)

BUNDLED = [
    "dts-paper-fpga",
    "dts-paper-fpga-array",
    "eyeriss-prosperity",
    "eyeriss-relative",
    "horowitz-45nm-fp16",
    "horowitz-45nm-fp32",
    "horowitz-45nm-int16",
    "horowitz-45nm-int8",
    "loihi-calibrated",
    "loihi-presilicon",
    "npu-7nm-bf16",
    "sata",
]  # each on its own: test_profiles.py
HOROWITZ = [name for name in BUNDLED if name.startswith(("horowitz-", "dts-"))]  # the memory prices of Horowitz

PROFILE = """\
schema: 1
name: small
description: A device for tests
technology: none
sources:
  book: {citation: "A book, page 1"}
  guess: {citation: "A guess", note: "not a number of any book"}
widths:
  weights: {value: 8, unit: bit, source: guess, kind: assumed}
  activations: {value: 9, unit: bit, source: guess, kind: assumed}
  membrane: {value: 16, unit: bit, source: guess, kind: assumed}
  partial_sums: {value: 32, unit: bit, source: guess, kind: assumed}
compute:
  mac: {value: 4.6, unit: pJ, width_bits: 32, source: book, kind: derived}
  ac:
    value: 0.9
    unit: pJ
    width_bits: 32
    source: book
    kind: reported
memory:
  levels:
    buffer:
      size: {value: 2, unit: KiB, source: book, kind: reported}
      read: {value: 10, unit: pJ, width_bits: 64, source: book, kind: reported}
      write: {value: 20, unit: pJ, width_bits: 64, source: book, kind: reported}
    dram:
      read: {value: 1, unit: nJ, width_bits: 32, source: book, kind: reported}
      write: {value: 2, unit: nJ, width_bits: 32, source: book, kind: reported}
  placement: {weights: dram, inputs: buffer, membrane: buffer, outputs: buffer, partial_sums: buffer}
"""
PRICE = "{value: 3, unit: pJ, source: book, kind: measured}"


@pytest.fixture
def load(tmp_path):
    """Load ``PROFILE``, or another text, with pieces of it exchanged: load((old, new), ...)."""

    def load_text(*changes: tuple[str, str], text: str = PROFILE) -> HardwareProfile:
        for old, new in changes:
            assert text.count(old) == 1, f"{old!r} is not one place of the profile"
            text = text.replace(old, new)
        path = tmp_path / "small.yaml"
        path.write_text(text, encoding="utf-8")
        return load_hardware(path)

    return load_text


@pytest.fixture
def fault(load):
    """The message of the fault of a profile, having checked that it is one line at ``small.yaml:<line>``."""

    def message_of(*changes: tuple[str, str], line: int, text: str = PROFILE) -> str:
        with pytest.raises(HardwareError) as caught:
            load(*changes, text=text)
        message = str(caught.value)
        assert "\n" not in message
        assert f"small.yaml:{line}: " in message
        return message

    return message_of


def line_of(piece: str, text: str = PROFILE) -> int:
    assert text.count(piece) == 1
    return text[: text.index(piece)].count("\n") + 1


# --- The bundled profiles -----------------------------------------------------------------------------------


def test_these_profiles_are_bundled():
    assert list_hardware() == BUNDLED


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_profile_bears_the_name_of_its_file(name):
    assert load_hardware(name).name == hardware_path(name).stem == name


@pytest.mark.parametrize("name", BUNDLED)
def test_every_bundled_number_has_a_source_and_every_source_has_a_number(name):
    profile = load_hardware(name)
    table = describe(profile)
    assert len(table) >= 8
    assert table["citation"].str.len().gt(10).all()
    assert set(table["source"]) == set(profile.sources)


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_profile_with_prices_of_two_publications_says_so(name):
    profile = load_hardware(name)
    publications = set(describe(profile)["source"]) - {"snn-energy"}
    assert ("Mixed sources" in profile.description) == (len(publications) > 1)


@pytest.mark.parametrize(
    ("name", "mac_pj", "ac_pj", "zero_check_pj"),
    [
        ("horowitz-45nm-fp32", 4.6, 0.9, None),
        ("horowitz-45nm-int8", 0.23, 0.03, None),
        ("dts-paper-fpga", 13.32, 1.8, 0.05),
    ],
)
def test_bundled_compute_prices_are_the_published_ones(name, mac_pj, ac_pj, zero_check_pj):
    compute = load_hardware(name).compute
    zero_check = compute.zero_check
    assert (compute.mac.energy_pj, compute.ac.energy_pj) == (mac_pj, ac_pj)
    assert (None if zero_check is None else zero_check.energy_pj) == zero_check_pj


@pytest.mark.parametrize("name", HOROWITZ)
def test_bundled_memory_prices_are_those_of_horowitz(name):
    levels = load_hardware(name).memory.levels
    published_pj = {"sram_8kb": 10, "sram_32kb": 20, "sram_1mb": 100, "dram": (1300 + 2600) / 2}
    assert {"sram_32kb", "sram_1mb", "dram"} <= set(levels)
    for level, prices in levels.items():
        assert prices.read.energy_pj == prices.write.energy_pj == published_pj[level]
        assert prices.read.width_bits == prices.write.width_bits == 64
        assert prices.read.range == prices.write.range == ((1300, 2600) if level == "dram" else None)


def test_bundled_sram_sizes_are_those_of_horowitz():
    levels = load_hardware("horowitz-45nm-fp32").memory.levels
    sizes = {level: prices.size and prices.size.si_value // 8192 for level, prices in levels.items()}
    assert sizes == {"sram_8kb": 8, "sram_32kb": 32, "sram_1mb": 1024, "dram": None}


def pj_per_bit(profile, tensor, action):
    """What the formulas pay for a bit of a tensor where ``placement`` puts it."""
    key = f"memory.levels.{profile.memory.placement.level_of(tensor)}.{action}"
    n = numbers(profile)
    return n[key] / n[f"{key}.width_bits"]


@pytest.mark.parametrize("name", HOROWITZ)
def test_bundled_profiles_lay_every_tensor_on_the_1_mb_sram(name):
    profile = load_hardware(name)
    for tensor in TENSORS:
        assert pj_per_bit(profile, tensor, "read") == pytest.approx(100 / 64, rel=1e-15)
        assert pj_per_bit(profile, tensor, "write") == pytest.approx(100 / 64, rel=1e-15)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("horowitz-45nm-fp32", (32, 32, 32, 32)),
        ("horowitz-45nm-int8", (8, 8, 16, 32)),
        ("dts-paper-fpga", (32, 32, 32, 32)),
    ],
)
def test_bundled_widths_are_assumed_and_marked_so(name, bits):
    widths = load_hardware(name).widths
    assert (
        tuple(width.value for width in (widths.weights, widths.activations, widths.membrane, widths.partial_sums))
        == bits
    )
    assert {widths.weights.kind, widths.activations.kind, widths.membrane.kind} == {"assumed"}


def test_what_the_dts_paper_does_not_say_is_marked_assumed():
    profile = load_hardware("dts-paper-fpga")
    table = describe(profile)
    assert set(table[table["source"] == "dts-paper"]["action"]) == {"mac", "ac", "zero_check"}
    assert set(table[table["source"] != "dts-paper"]["kind"]) == {"assumed"}
    assert "28 nm" in profile.technology
    assert "45 nm" in profile.technology


def test_the_int8_profile_warns_that_an_accumulator_is_wider_than_8_bits():
    assert any("wider than 8 bits" in note for note in profile_notes(load_hardware("horowitz-45nm-int8")))


def test_the_placement_is_noted_as_an_assumption_of_this_tool():
    for name in HOROWITZ:
        assert any(
            note.startswith("memory.placement: ") and "assumption" in note
            for note in profile_notes(load_hardware(name))
        )


# --- Units and widths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit"),
    [("900", "fJ"), ("0.9", "pJ"), ("0.0009", "nJ"), ("9e-7", "uJ"), ("9e-10", "mJ"), ("9.0e-13", "J")],
)
def test_the_same_energy_in_any_unit_is_the_same_float(load, value, unit):
    ac = load(("value: 0.9\n    unit: pJ", f"value: {value}\n    unit: {unit}")).compute.ac
    assert (ac.energy_j, ac.energy_pj) == (9e-13, 0.9)


@pytest.mark.parametrize(("value", "unit"), [("16384", "bit"), ("2048", "B"), ("2", "KiB"), ("0.001953125", "MiB")])
def test_the_same_size_in_any_unit_is_as_many_bits(load, value, unit):
    size = load(("{value: 2, unit: KiB", f"{{value: {value}, unit: {unit}")).memory.levels["buffer"].size
    assert size is not None
    assert size.si_value == 16384


@pytest.mark.parametrize(("value", "unit"), [("5e6", "nW"), ("5000", "uW"), ("5", "mW"), ("0.005", "W")])
def test_the_same_power_in_any_unit_is_the_same_float(load, value, unit):
    power = f"static_power: {{value: {value}, unit: {unit}, source: book, kind: measured}}\n"
    static_power = load(text=PROFILE + power).static_power
    assert static_power is not None
    assert static_power.si_value == 0.005


def test_a_bit_costs_the_word_of_its_level_divided_by_the_width_of_the_word(load):
    profile = load()
    assert pj_per_bit(profile, "inputs", "read") == pytest.approx(10 / 64, rel=1e-15)
    assert pj_per_bit(profile, "membrane", "write") == pytest.approx(20 / 64, rel=1e-15)
    assert pj_per_bit(profile, "weights", "read") == pytest.approx(1000 / 32, rel=1e-15)
    assert pj_per_bit(profile, "weights", "write") == pytest.approx(2000 / 32, rel=1e-15)


def test_a_tensor_that_is_not_placed_has_no_price(load):
    with pytest.raises(HardwareError, match="unknown tensor 'activations'; there are weights, inputs"):
        load().memory.placement.level_of("activations")


def test_every_access_of_a_membrane_is_charged_unless_the_profile_says_otherwise(load):
    assert load().memory.drop_first_last is False
    assert load(("memory:\n", "memory:\n  drop_first_last: true\n")).memory.drop_first_last is True


def test_a_zero_check_is_per_operation_unless_the_profile_says_per_element(load):
    for per, extra in (("operation", ""), ("element", ", per: element")):
        price = PRICE.replace("}", extra + "}")
        zero_check = load(("compute:\n", f"compute:\n  zero_check: {price}\n")).compute.zero_check
        assert zero_check is not None
        assert zero_check.per == per


def test_one_neuron_price_holds_for_spiking_and_silent_neurons(load):
    compute = load(("compute:\n", f"compute:\n  neuron_update: {PRICE}\n")).compute
    assert compute.neuron_prices == (compute.neuron_update, compute.neuron_update)


def test_spiking_and_silent_neurons_are_priced_apart(load):
    silent = PRICE.replace("3", "2")
    pair = f"compute:\n  neuron_spiking: {PRICE}\n  neuron_silent: {silent}\n"
    prices = load(("compute:\n", pair)).compute.neuron_prices
    assert prices is not None
    assert [price.energy_pj for price in prices] == [3, 2]


def test_an_elementwise_operation_has_its_own_price_and_the_others_none(load):
    elementwise = load(("compute:\n", f"compute:\n  elementwise: {{add: {PRICE}}}\n")).compute.elementwise
    add = elementwise.price("add")
    assert add is not None
    assert add.energy_pj == 3
    assert elementwise.price("pool") is None
    assert elementwise.price("fft") is None


def test_a_price_of_zero_is_a_price(load):
    assert load(("value: 4.6", "value: 0")).compute.mac.energy_j == 0


def test_a_loaded_profile_cannot_be_changed(load):
    with pytest.raises(ValueError, match="frozen"):
        load().compute.mac.value = 1.0


# --- Tables -------------------------------------------------------------------------------------------------


def test_describe_has_one_row_per_number_in_the_units_of_the_file(load):
    table = describe(load())
    assert list(table.columns) == DESCRIBE_COLUMNS
    assert len(table) == PROFILE.count("value:")
    ac = table[table["action"] == "ac"].iloc[0]
    assert list(ac.drop(["low", "high"])) == ["compute", "ac", 0.9, "pJ", 32, "reported", "book", "A book, page 1"]
    assert ac[["low", "high"]].isna().all()
    assert table[table["component"] == "widths"]["width_bits"].isna().all()


def test_what_has_no_price_is_said_in_sentences(load):
    sentences = missing_prices(load())
    assert len(sentences) == 1 + 1 + 7 + 1 + 1 + 1  # array, latency, static power
    assert all(sentence.endswith(".") for sentence in sentences)
    assert any("neuron_update" in sentence for sentence in sentences)


def test_what_has_a_price_is_not_listed_as_unpriced(load):
    ops = ", ".join(f"{op}: {PRICE}" for op in hardware.Elementwise.model_fields)
    priced = f"  zero_check: {PRICE}\n  neuron_update: {PRICE}\n  elementwise: {{{ops}}}\n"
    power = "static_power: {value: 5, unit: mW, source: book, kind: measured}\n"
    profile = load(("compute:\n", f"compute:\n{priced}"), text=PROFILE + power)
    assert missing_prices(profile) == [
        "Spilled partial sums and array dataflows require the array's rows and columns (array).",
        "Latency is unknown: there is no clock (latency).",
        "Static power is not priced: that requires a clock (latency).",
    ]


def test_a_profile_does_not_differ_from_itself(load):
    table = differences(load(), load())
    assert list(table.columns) == DIFFERENCE_COLUMNS
    assert table.empty


def test_profiles_do_not_differ_by_the_unit_a_price_is_written_in(load):
    assert differences(load(), load(("value: 0.9\n    unit: pJ", "value: 900\n    unit: fJ"))).empty


def test_profiles_differ_in_prices_and_in_placement(load):
    other = load(("value: 4.6", "value: 5"), ("weights: dram, inputs", "weights: buffer, inputs"))
    table = differences(load(), other)
    assert table.to_numpy().tolist() == [
        ["compute", "mac", "4.6 pJ / 32 bit", "5 pJ / 32 bit", "value"],
        ["memory.placement", "weights", "dram", "buffer", "value"],
    ]


def test_a_price_that_one_profile_lacks_is_a_difference(load):
    other = load(("compute:\n", f"compute:\n  neuron_update: {PRICE}\n"))
    assert differences(load(), other).to_numpy().tolist() == [["compute", "neuron_update", "-", "3 pJ", "only in b"]]


# --- Where a profile is found -------------------------------------------------------------------------------


def test_hardware_profiles_are_read_without_torch():
    code = (
        "import sys; from snn_energy.hardware.files import load_hardware; load_hardware('dts-paper-fpga'); "
        "assert not {'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_an_installed_package_reads_the_profiles_inside_it(tmp_path, monkeypatch):
    folder = tmp_path / "snn_energy" / "hardware_profiles"
    folder.mkdir(parents=True)
    (folder / "small.yaml").write_text(PROFILE)
    monkeypatch.setattr(bundled, "PACKAGE", tmp_path / "snn_energy")
    assert list_hardware() == ["small"]
    assert load_hardware("small").compute.mac.energy_pj == 4.6


def test_an_installation_without_profiles_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "PACKAGE", tmp_path / "snn_energy")
    monkeypatch.setattr(bundled, "CHECKOUT", tmp_path)
    with pytest.raises(HardwareError, match="reinstall snn_energy"):
        list_hardware()


def test_a_bundled_profile_of_another_name_than_its_file_is_an_error(tmp_path, monkeypatch):
    folder = tmp_path / "hardware_profiles"
    folder.mkdir()
    (folder / "other.yaml").write_text(PROFILE)
    monkeypatch.setattr(bundled, "PACKAGE", tmp_path / "snn_energy")
    monkeypatch.setattr(bundled, "CHECKOUT", tmp_path)
    with pytest.raises(HardwareError, match=r"other\.yaml:2: name: .*'other'"):
        load_hardware("other")


def test_text_with_a_yaml_suffix_or_a_separator_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(PROFILE)
    (tmp_path / "mine").write_text(PROFILE)
    monkeypatch.chdir(tmp_path)
    assert load_hardware("mine.yaml") == load_hardware("./mine") == load_hardware(Path("mine"))


def test_a_file_given_like_a_name_is_told_how_to_be_given(tmp_path, monkeypatch):
    (tmp_path / "mine").write_text(PROFILE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HardwareError, match=r"given as '\./mine'"):
        load_hardware("mine")


def test_an_unknown_profile_suggests_the_nearest():
    with pytest.raises(HardwareError) as caught:
        load_hardware("horowitz-45nm-fp23")
    message = str(caught.value)
    assert "\n" not in message
    assert "did you mean 'horowitz-45nm-fp32'?" in message
    assert "snn-energy hardware list" in message


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(HardwareError, match=r"gone\.yaml: no such file; .*snn-energy hardware list"):
        load_hardware(tmp_path / "gone.yaml")


def test_a_directory_is_an_error(tmp_path):
    with pytest.raises(HardwareError, match="cannot be read"):
        load_hardware(tmp_path)


# --- One bad file a test ------------------------------------------------------------------------------------


def test_an_empty_file(fault):
    assert "the file is empty" in fault(text="", line=1)


def test_a_file_that_is_not_yaml(fault):
    text = PROFILE.replace("sources:\n", "sources: [\n")
    assert "not YAML" in fault(text=text, line=line_of("  book:") + 1)


def test_a_control_character(fault):
    assert "not YAML" in fault(("technology: none", "technology: \x01"), line=4)


def test_a_file_in_another_encoding(tmp_path):
    (tmp_path / "small.yaml").write_bytes(PROFILE.replace("A book", "Ein Büch").encode("latin-1"))
    with pytest.raises(HardwareError, match=r"small\.yaml:6: not UTF-8 text"):
        load_hardware(tmp_path / "small.yaml")


def test_a_list(fault):
    assert "a mapping of keys" in fault(text="- schema: 1\n- name: small\n", line=1)


def test_an_unknown_key_suggests_the_nearest(fault):
    message = fault(("    width_bits: 32\n", "    width_bit: 32\n"), line=line_of("    width_bits: 32\n"))
    assert "compute.ac.width_bit: unknown key; did you mean 'width_bits'?" in message


def test_an_unknown_section_suggests_the_nearest(fault):
    assert "did you mean 'compute'?" in fault(("compute:", "computes:"), line=line_of("compute:"))


def test_an_unknown_elementwise_operation_names_the_known_ones(fault):
    message = fault(("compute:\n", f"compute:\n  elementwise:\n    xyz: {PRICE}\n"), line=15)
    assert "compute.elementwise.xyz: unknown key; known here: add, pool, norm" in message


def test_a_duplicate_key_names_both_lines(fault):
    message = fault(("    value: 0.9\n", "    value: 0.9\n    value: 1.8\n"), line=17)
    assert "compute.ac.value: duplicate key, first on line 16" in message


def test_an_alias_is_written_out(fault):
    text = PROFILE.replace("mac: {", "mac: &price {").replace("compute:\n", "compute:\n", 1)
    start, end = text.index("  ac:\n"), text.index("memory:")
    message = fault(text=text[:start] + "  ac: *price\n" + text[end:], line=line_of("  ac:"))
    assert "compute.ac: YAML aliases are not supported" in message


def test_a_key_that_is_a_number(fault):
    assert "quotes" in fault(("    dram:\n", "    1:\n"), line=line_of("    dram:\n"))


def test_a_missing_price(fault):
    start, end = PROFILE.index("  ac:\n"), PROFILE.index("memory:")
    message = fault(text=PROFILE[:start] + PROFILE[end:], line=line_of("compute:"))
    assert "compute.ac: is missing" in message


def test_a_price_without_a_width(fault):
    message = fault(("4.6, unit: pJ, width_bits: 32,", "4.6, unit: pJ,"), line=line_of("mac:"))
    assert "compute.mac.width_bits: is missing" in message


def test_a_level_without_a_write_price(fault):
    write = "      write: {value: 2, unit: nJ, width_bits: 32, source: book, kind: reported}\n"
    assert "memory.levels.dram.write: is missing" in fault((write, ""), line=line_of("    dram:"))


def test_a_missing_section(fault):
    start, end = PROFILE.index("compute:"), PROFILE.index("memory:")
    assert "compute: is missing" in fault(text=PROFILE[:start] + PROFILE[end:], line=1)


def test_a_section_left_empty(fault):
    start, end = PROFILE.index("  mac:"), PROFILE.index("memory:")
    message = fault(text=PROFILE[:start] + PROFILE[end:], line=line_of("compute:"))
    assert "compute: is empty" in message


def test_a_price_that_is_a_bare_number(fault):
    message = fault(("compute:\n", "compute:\n  zero_check: 0.05\n"), line=14)
    assert "compute.zero_check: must be a mapping of keys, not 0.05" in message


def test_a_tensor_that_is_not_placed(fault):
    message = fault((", partial_sums: buffer}", "}"), line=line_of("  placement:"))
    assert "memory.placement.partial_sums: is missing" in message


def test_a_wrong_unit_names_the_allowed_ones_and_the_nearest(fault):
    message = fault(("    unit: pJ\n", "    unit: pj\n"), line=line_of("    unit: pJ\n"))
    assert "unit 'pj' is not one of fJ, pJ, nJ, uJ, mJ, J, MAC; did you mean 'pJ'?" in message


def test_a_unit_of_another_quantity(fault):
    message = fault(("    unit: pJ\n", "    unit: mW\n"), line=line_of("    unit: pJ\n"))
    assert "unit 'mW' is not one of fJ, pJ" in message


def test_a_micro_sign_is_told_to_be_written_u(fault):
    for micro in ("\u00b5", "\u03bc"):
        message = fault(("    unit: pJ\n", f"    unit: {micro}J\n"), line=line_of("    unit: pJ\n"))
        assert "did you mean 'uJ'?" in message


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        pytest.param("-0.9", "must not be negative", id="negative"),
        pytest.param(".nan", "must be finite", id="nan"),
        pytest.param(".inf", "must be finite", id="infinite"),
        pytest.param("1e999", "must be finite", id="too large for a float"),
        pytest.param("1" + "0" * 400, "must be finite", id="too large an integer"),
        pytest.param("0.9 pJ", "must be a number, not the text '0.9 pJ'", id="text"),
        pytest.param('"0.9"', "must be a number, not the text '0.9'", id="quoted"),
        pytest.param("true", "must be a number, not true", id="bool"),
        pytest.param("[0.9]", "must be a number, not a list", id="list"),
        pytest.param("", "is empty", id="nothing"),
    ],
)
def test_a_value_that_is_no_finite_number_from_zero_on(fault, value, complaint):
    line = line_of("    value: 0.9\n")
    message = fault(("    value: 0.9\n", f"    value: {value}\n"), line=line)
    assert f"compute.ac.value: {complaint}" in message


@pytest.mark.parametrize("bits", ["0", "-8", "8.5", "true", "wide"])
def test_a_width_of_a_tensor_that_is_no_whole_number_from_one_on(fault, bits):
    message = fault(("value: 16,", f"value: {bits},"), line=line_of("  membrane: {value"))
    assert "widths.membrane.value: must be a whole number of bits, at least 1" in message


def test_an_operation_of_zero_width(fault):
    message = fault(("    width_bits: 32\n", "    width_bits: 0\n"), line=line_of("    width_bits: 32\n"))
    assert "compute.ac.width_bits: must be a whole number of bits, at least 1, not 0" in message


def test_an_unknown_source_suggests_the_nearest(fault):
    message = fault(("    source: book\n", "    source: bok\n"), line=line_of("    source: book\n"))
    assert "compute.ac.source: 'bok' is not in sources; did you mean 'book'?" in message


def test_an_unknown_kind_names_the_kinds_and_the_nearest(fault):
    message = fault(("    kind: reported\n", "    kind: report\n"), line=line_of("    kind: reported\n"))
    assert "'measured', 'simulated', 'derived', 'assumed' or 'reported'" in message
    assert "did you mean 'reported'?" in message


def test_a_placement_on_a_level_that_does_not_exist(fault):
    message = fault(("weights: dram, inputs", "weights: dramm, inputs"), line=line_of("  placement:"))
    assert "memory.placement.weights: no memory level 'dramm'; did you mean 'dram'?" in message


def test_a_setting_that_is_no_truth_value(fault):
    message = fault(("memory:\n", "memory:\n  drop_first_last: maybe\n"), line=line_of("memory:") + 1)
    assert "memory.drop_first_last: must be true or false" in message


@pytest.mark.parametrize("version", ["2", "one", "true", "1.5"])
def test_another_schema_version(fault, version):
    message = fault(("schema: 1", f"schema: {version}"), line=1)
    assert "reads 'schema: 1'" in message


def test_no_schema_version(fault):
    assert "add 'schema: 1'" in fault(("schema: 1\n", ""), line=1)


@pytest.mark.parametrize(
    ("given", "lacking"), [("neuron_spiking", "neuron_silent"), ("neuron_silent", "neuron_spiking")]
)
def test_half_a_pair_of_neuron_prices(fault, given, lacking):
    message = fault(("compute:\n", f"compute:\n  {given}: {PRICE}\n"), line=14)
    assert f"compute.{given}: also needs '{lacking}'" in message


def test_neuron_updates_priced_twice(fault):
    prices = "".join(f"  {name}: {PRICE}\n" for name in ("neuron_update", "neuron_spiking", "neuron_silent"))
    message = fault(("compute:\n", f"compute:\n{prices}"), line=15)
    assert "neuron updates are priced twice" in message


def test_a_zero_check_per_something_else(fault):
    price = PRICE.replace("}", ", per: layer}")
    message = fault(("compute:\n", f"compute:\n  zero_check: {price}\n"), line=14)
    assert "compute.zero_check.per: must be 'operation' or 'element'" in message


def test_a_source_without_a_citation(fault):
    message = fault(('{citation: "A book, page 1"}', "{note: lost}"), line=line_of("  book:"))
    assert "sources.book.citation: is missing" in message


def test_a_name_that_is_a_number(fault):
    assert "name: must be text, not 45" in fault(("name: small", "name: 45"), line=2)


def test_a_description_of_two_lines(fault):
    message = fault(("description: A device for tests", "description: |\n  One\n  Two"), line=3)
    assert "description: must be one line" in message


def test_of_several_faults_the_topmost_is_told_and_the_rest_counted(fault):
    changes = (("    value: 0.9\n", "    value: -1\n"), ("value: 8,", "value: 0,"))
    message = fault(*changes, line=line_of("  weights: {value"))
    assert message.endswith("(and 1 more)")
