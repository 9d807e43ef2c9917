"""Event recordings: bytes to events to frames, and what a first layer that reads them does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import snn_energy as se
from snn_energy.core.errors import DataError
from snn_energy.datasets.events import Events, EventSet, load_events, read_nmnist, to_frames
from snn_energy.datasets.images import batches
from snn_energy.datasets.names import parse_data
from snn_energy.datasets.open import load_images

REAL = Path(__file__).parents[3] / "shared" / "data" / "nmnist"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no folder shared/data/nmnist beside the checkout")


def event(x: int, y: int, polarity: int, t: int) -> bytes:
    """40 bits, high byte first: x 8, y 8, polarity 1, time 23."""
    return (x << 32 | y << 24 | polarity << 23 | t).to_bytes(5, "big")


def recording(path: Path, *events: tuple[int, int, int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(event(*e) for e in events))
    return path


def made(*events: tuple[int, int, int, int]) -> Events:
    columns = np.array(events, np.int64).reshape(-1, 4).T
    return Events(*columns)


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as raised:
        read_nmnist(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- files


def test_the_bits_of_an_event_are_x_y_polarity_time(tmp_path: Path) -> None:
    found = read_nmnist(recording(tmp_path / "a.bin", (33, 0, 1, 0), (2, 3, 0, 70_000), (4, 5, 1, 2**23 - 1)))
    assert found.x.tolist() == [33, 2, 4]
    assert found.y.tolist() == [0, 3, 5]
    assert found.polarity.tolist() == [1, 0, 1]
    assert found.t.tolist() == [0, 70_000, 8_388_607]


def test_row_240_is_no_event_but_the_clock_running_over(tmp_path: Path) -> None:
    found = read_nmnist(recording(tmp_path / "a.bin", (1, 1, 0, 8000), (0, 240, 0, 0), (2, 2, 1, 100), (3, 3, 1, 200)))
    assert found.x.tolist() == [1, 2, 3]
    assert found.t.tolist() == [8000, 8192 + 100, 8192 + 200]


def test_a_truncated_recording_is_refused(tmp_path: Path) -> None:
    path = recording(tmp_path / "a.bin", (1, 1, 0, 5), (1, 1, 0, 6))
    path.write_bytes(path.read_bytes()[:-2])
    assert refusal(path) == (
        f"{path}: 8 bytes are not whole events of 5 bytes: truncated, or no N-MNIST recording; copy it again"
    )


def test_an_empty_recording_is_refused(tmp_path: Path) -> None:
    assert "the recording holds no events" in refusal(recording(tmp_path / "a.bin"))


def test_an_event_outside_the_sensor_is_named(tmp_path: Path) -> None:
    said = refusal(recording(tmp_path / "a.bin", (33, 33, 0, 5), (34, 2, 0, 6), (1, 35, 0, 7)))
    assert "2 of 3 events lie outside the 34x34 sensor, the first at x=34, y=2 (event 1)" in said


def test_time_that_runs_backwards_is_named(tmp_path: Path) -> None:
    said = refusal(recording(tmp_path / "a.bin", (1, 1, 0, 2**23 - 1), (1, 1, 0, 3)))
    assert "time runs backwards at event 1, from 8388607 to 3 us" in said


@pytest.mark.parametrize("name", ["missing.bin", "nul\0byte", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path / name).startswith(str(tmp_path))


# --- frames


def test_frames_by_time_are_steps_of_one_length() -> None:
    frames = to_frames(made((1, 2, 0, 100), (1, 2, 0, 149), (1, 2, 1, 150), (3, 4, 1, 199)), time_steps=2)
    assert frames.shape == (2, 2, 34, 34)
    assert frames[0, 0, 2, 1] == 2  # channel = polarity, then row, column
    assert frames[1, 1, 2, 1] == 1
    assert frames[1, 1, 4, 3] == 1
    assert frames.sum() == 4


def test_frames_by_count_hold_equally_many_events() -> None:
    events = made(*[(i, i, i % 2, i**3) for i in range(12)])
    assert to_frames(events, time_steps=4, by="count").sum((1, 2, 3)).tolist() == [3, 3, 3, 3]


def test_frames_of_a_given_length_start_at_the_first_event() -> None:
    frames = to_frames(made((0, 0, 0, 500), (0, 0, 0, 1499), (0, 0, 0, 1500)), time_steps=3, step_us=1000)
    assert frames.sum((1, 2, 3)).tolist() == [2, 1, 0]


def test_binary_frames_are_one_where_there_was_any_event() -> None:
    events = made((5, 5, 1, 0), (5, 5, 1, 1), (6, 5, 1, 2))
    assert np.unique(to_frames(events, time_steps=1)).tolist() == [0, 1, 2]
    binary = to_frames(events, time_steps=1, values="binary")
    assert np.unique(binary).tolist() == [0, 1]
    assert binary.sum() == 2


def test_frames_are_the_events_counted_one_by_one() -> None:
    rng = np.random.default_rng(0)
    n, steps, height, width = 500, 7, 9, 13
    t = np.sort(rng.integers(0, 10_000, n))
    events = Events(rng.integers(0, width, n), rng.integers(0, height, n), rng.integers(0, 2, n), t)
    expected = np.zeros((steps, 2, height, width))
    for x, y, p, at in zip(events.x, events.y, events.polarity, events.t, strict=True):
        share = (int(at) - int(t[0])) / (int(t[-1]) - int(t[0]) + 1)
        expected[int(share * steps), p, y, x] += 1
    assert (to_frames(events, (height, width), time_steps=steps) == expected).all()


def test_a_recording_longer_than_its_steps_is_refused_unless_cut() -> None:
    events = made((0, 0, 0, 0), (0, 0, 0, 1999), (0, 0, 0, 2000), (0, 0, 0, 2500))
    with pytest.raises(DataError, match=r"lasts 2\.5 ms, longer than 2 steps of 1000 us; 2 of 4 events .*time_steps=3"):
        to_frames(events, time_steps=2, step_us=1000)
    assert to_frames(events, time_steps=2, step_us=1000, cut=True).sum() == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"time_steps": 0}, "time_steps must be at least 1, not 0"),
        ({"time_steps": 1, "by": "size"}, "by must be 'time' or 'count', not 'size'"),
        ({"time_steps": 1, "values": "sum"}, "values 'count' or 'binary', not 'sum'"),
        ({"time_steps": 1, "step_us": 0}, "step_us=0 (--step-us) must be at least 1 us"),
        ({"time_steps": 1, "step_us": 5, "by": "count"}, "requires by='time', not 'count'"),
        ({"time_steps": 1, "sensor": (3, 3)}, "1 of 1 events lie outside the 3x3 sensor"),
    ],
)
def test_options_that_make_no_frames_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(DataError) as raised:
        to_frames(made((5, 5, 0, 0)), **options)  # type: ignore[arg-type]
    assert said in str(raised.value)


def test_no_events_make_no_frames() -> None:
    with pytest.raises(DataError, match="holds no events"):
        to_frames(made(), time_steps=1)


# --- folders


def official(root: Path) -> Path:
    for split, names in (
        ("Train", {"7": ["00002.bin"]}),
        ("Test", {"0": ["00003.bin", "00001.bin"], "7": ["00002.bin"]}),
    ):
        for digit, files in names.items():
            for file in files:
                recording(root / split / digit / file, (int(digit), int(file[4]), 1, 10))
    return root


def test_the_layout_as_distributed_takes_labels_from_folders(tmp_path: Path) -> None:
    events = load_events(f"nmnist:{official(tmp_path)}", "test", 2)
    assert [p.name for p in events.paths] == ["00001.bin", "00002.bin", "00003.bin"]  # MNIST's order, digits mixed
    assert events.labels.tolist() == [0, 7, 0]
    assert load_events(f"nmnist:{tmp_path}", "train", 2).labels.tolist() == [7]
    frames, labels = next(batches(events, 2))
    assert frames.shape == (2, 2, 2, 34, 34)
    assert frames[0, 0, 1, 1, 0] == frames[0, 1, 1, 2, 7] == 1
    assert labels.tolist() == [0, 7]
    assert [len(y) for _, y in batches(events, 2)] == [2, 1]
    assert load_events(f"nmnist:{tmp_path}", "test", 2, samples=1).note.startswith("first 1 of 3; Test split, 2 steps")


def test_a_flat_folder_takes_labels_from_names_and_says_that_it_has_no_splits(tmp_path: Path) -> None:
    recording(tmp_path / "nmnist_3.bin", (1, 1, 0, 1))
    recording(tmp_path / "nmnist_1.bin", (1, 1, 0, 1))
    for split in ("train", "test"):
        events = load_events(f"nmnist:{tmp_path}", split, 1)  # type: ignore[arg-type]
        assert events.labels.tolist() == [1, 3]
        assert "both splits hold every recording" in events.note


def test_a_set_of_events_says_what_kind_of_numbers_its_frames_are(tmp_path: Path) -> None:
    recording(tmp_path / "nmnist_3.bin", (1, 1, 0, 1))
    spec = f"nmnist:{tmp_path}"
    assert load_events(spec, "test", 1).input_kind == "integer"
    assert load_events(spec, "test", 1, values="binary").input_kind == "binary"


def test_another_recording_has_another_fingerprint(tmp_path: Path) -> None:
    recording(tmp_path / "nmnist_3.bin", (1, 1, 0, 1))
    before = load_events(f"nmnist:{tmp_path}", "test", 1).fingerprint()
    assert load_events(f"nmnist:{tmp_path}", "test", 1).fingerprint() == before
    recording(tmp_path / "nmnist_3.bin", (1, 1, 0, 1), (1, 1, 0, 2))
    assert load_events(f"nmnist:{tmp_path}", "test", 1).fingerprint() != before


@pytest.mark.parametrize(
    ("made_of", "split", "said"),
    [
        ([], "test", "no recordings; the layout must be PATH/Train/DIGIT/*.bin"),
        (["notes.txt"], "test", "no recordings"),
        (["nmnist_10.bin"], "test", "nmnist_10.bin: its digit must be 0..9"),
        (["Test/1/00001.bin"], "train", "Train: no such folder"),
        (["Test/12/00001.bin"], "test", "00001.bin: its digit must be 0..9"),
    ],
)
def test_a_folder_without_recordings_says_what_it_must_hold(
    tmp_path: Path, made_of: list[str], split: str, said: str
) -> None:
    for name in made_of:
        recording(tmp_path / name, (1, 1, 0, 1))
    with pytest.raises(DataError) as raised:
        load_events(f"nmnist:{tmp_path}", split, 1)  # type: ignore[arg-type]
    assert said in str(raised.value)


@pytest.mark.parametrize("path", ["nowhere", "nul\0byte", "file"])
def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="it must be a folder of recordings") as raised:
        load_events(f"nmnist:{tmp_path}/{path}", "test", 1)
    assert str(raised.value).startswith(str(tmp_path))


def test_a_broken_recording_is_named_when_its_batch_is_read(tmp_path: Path) -> None:
    recording(tmp_path / "nmnist_3.bin", (1, 1, 0, 1), (99, 1, 0, 2))
    with pytest.raises(DataError, match=r"nmnist_3\.bin: 1 of 2 events lie outside"):
        load_events(f"nmnist:{tmp_path}", "test", 1).batch(np.array([0]))


@pytest.mark.parametrize(("samples", "said"), [(0, "samples must be at least 1"), (2, "the test split has 1")])
def test_as_many_samples_as_there_are(tmp_path: Path, samples: int, said: str) -> None:
    recording(tmp_path / "nmnist_3.bin", (1, 1, 0, 1))
    with pytest.raises(DataError, match=said):
        load_events(f"nmnist:{tmp_path}", "test", 1, samples=samples)


def test_events_and_images_are_told_apart_by_name() -> None:
    assert parse_data("nmnist:here") == ("nmnist", Path("here"))
    with pytest.raises(DataError, match="nmnist:here: event recordings, not images"):
        load_images("nmnist:here", "test", 34, 2)
    with pytest.raises(DataError, match="digits: holds images, not events"):
        load_events("digits", "test", 4)
    with pytest.raises(DataError, match=r"nmnist: needs a path, nmnist:PATH \(N-MNIST as distributed"):
        parse_data("nmnist")


# --- what a first layer does with them


class Steps(nn.Module):
    """conv and an integrate-and-fire neuron without leak, called once per step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.v: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        current = self.conv(x)
        v = current if self.v is None else self.v + current
        spikes = (v > 1).to(v.dtype)
        self.v = v - spikes
        return spikes


def first_layer(events: EventSet) -> dict[str, object]:
    frames, labels = next(batches(events, 8))
    counts = se.profile(
        Steps(),
        [(torch.from_numpy(frames), torch.from_numpy(labels))],
        time_steps=events.time_steps,
        time="call-axis0",
        input_kind=events.input_kind,
    )
    rows = counts.to_frame()
    return rows[rows["layer"] == "conv"].sort_values("time_step").to_dict("list")


def test_the_first_layer_accumulates_events(tmp_path: Path) -> None:
    """A corner feeds 2x2 outputs of each of 4 channels, an edge 2x3, the middle 3x3; the middle had two events."""
    recording(tmp_path / "nmnist_3.bin", (0, 0, 1, 0), (0, 9, 0, 10), (9, 9, 1, 90), (9, 9, 1, 91), (9, 9, 0, 99))
    rows = first_layer(load_events(f"nmnist:{tmp_path}", "test", 2))
    assert rows["sops"] == [4 * (4 + 6), 4 * (9 + 9)]
    assert rows["sops_multi"] == [4 * (4 + 6), 4 * (2 * 9 + 9)]
    assert rows["input_kind"] == ["integer", "integer"]
    assert rows["max_k"] == [2, 2]
    rows = first_layer(load_events(f"nmnist:{tmp_path}", "test", 2, values="binary"))
    assert rows["sops"] == rows["sops_multi"] == [4 * (4 + 6), 4 * (9 + 9)]
    assert rows["input_kind"] == ["binary", "binary"]


def test_the_first_layer_of_events_costs_accumulates_and_no_multiplications(tmp_path: Path) -> None:
    recording(tmp_path / "nmnist_3.bin", (0, 0, 1, 0), (9, 9, 1, 90), (9, 9, 1, 91))
    events = load_events(f"nmnist:{tmp_path}", "test", 2)
    frames, _ = next(batches(events, 1))
    counts = se.profile(
        Steps(), [torch.from_numpy(frames)], time_steps=2, time="call-axis0", input_kind=events.input_kind
    )
    rows = se.estimate(counts, "horowitz-45nm-fp32").to_frame()
    assert rows.loc[rows["layer"] == "conv", "compute_pj"].sum() == pytest.approx(0.9 * 4 * (4 + 9))


@needs_real
def test_real_recordings_are_those_of_a_34x34_sensor_over_three_saccades() -> None:
    events = load_events(f"nmnist:{REAL}", "test", 310, step_us=1000)
    assert events.labels.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    for path in events.paths:
        found = read_nmnist(path)
        assert 5 * len(found) == path.stat().st_size
        assert 299_000 < found.t[-1] - found.t[0] < 311_000
        assert 0.48 < found.polarity.mean() < 0.51
    frames, _ = next(batches(events, 9))
    assert frames.sum() == sum(len(read_nmnist(path)) for path in events.paths) == 37_914


@needs_real
def test_the_first_layer_on_real_recordings_by_brute_force() -> None:
    frames, _ = next(batches(load_events(f"nmnist:{REAL}", "test", 10, samples=3), 3))
    rows = first_layer(load_events(f"nmnist:{REAL}", "test", 10, samples=3))
    reach = np.array([2 if i in (0, 33) else 3 for i in range(34)])
    expected = 4 * ((frames != 0) * (reach[:, None] * reach)).sum((1, 2, 3, 4))
    assert rows["sops"] == expected.tolist()
    assert set(rows["input_kind"]) == {"integer"}  # type: ignore[call-overload]
