"""Read counts: a file that ``profile`` wrote, or published counts of a paper."""

from __future__ import annotations

import json
from pathlib import Path

from snn_energy.core.errors import CountsError
from snn_energy.counts.balance import first_inconsistency
from snn_energy.counts.columns import SCHEMA_VERSION, make_rows
from snn_energy.counts.counts import Counts
from snn_energy.counts.file_format import (
    check_header,
    check_records,
    columns_of,
    content_digest,
    object_without_duplicate_keys,
    with_added_columns,
)
from snn_energy.counts.sample_store import load_samples, samples_path


def load_counts(path: str | Path) -> Counts:
    """Read a counts file and check its consistency. Raises CountsError with the file, the row and the fault.

    path: of a counts file; or of published counts, FILE.yaml or FILE.yaml:NETWORK if it holds several networks; or of
    bundled published counts, published:FILE or published:FILE:NETWORK (snn_energy.counts.published).
    """
    from snn_energy.counts.published import is_published, load_published

    if is_published(path):
        return load_published(path)
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CountsError(f"{path}: no such counts file; write one with: snn-energy profile ... -o {path}") from None
    except UnicodeDecodeError:
        raise CountsError(
            f"{path}: not a text file, so not a counts file; profile a checkpoint first: "
            f"snn-energy profile {path} --data ..."
        ) from None
    except OSError as error:
        raise CountsError(f"{path}: cannot be read as a counts file ({error.strerror})") from None
    try:
        data = json.loads(text, object_pairs_hook=object_without_duplicate_keys)
    except json.JSONDecodeError as error:
        raise CountsError(
            f"{path}:{error.lineno}: not a complete JSON file ({error.msg}); it was cut off or edited: "
            "profile the network again"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CountsError(f"{path}: not a counts file ({error}); it was edited: profile the network again") from None
    if not isinstance(data, dict) or not {"schema", "header", "rows"} <= set(data):
        raise CountsError(f"{path}: not a counts file (it needs the keys schema, header and rows)")
    if data["schema"] != SCHEMA_VERSION:
        raise CountsError(
            f"{path}: counts schema {data['schema']!r}, this version reads {SCHEMA_VERSION}: profile the network again"
        )
    header, records = data["header"], data["rows"]
    check_header(path, header)
    check_records(path, records)
    rows = make_rows(with_added_columns(records))
    per_sample = None
    if header.get("per_sample"):
        if header["per_sample"] != Path(str(header["per_sample"])).name:
            raise CountsError(
                f"{path}: header 'per_sample' must be the name of a file in the same folder: profile the network again"
            )
        per_sample = load_samples(path, path.with_name(header["per_sample"]))
    counts = Counts({**header, "file": path.stem}, rows, per_sample)
    problem = first_inconsistency(counts)
    if problem is not None:
        raise CountsError(f"{path}: {problem}; the file was edited or damaged: profile the network again")
    if header.get("content_sha256") != content_digest(header, rows, per_sample, columns_of(records)):
        raise CountsError(
            f"{path}: header 'content_sha256' does not match the content; the file or {samples_path(path).name} was "
            "edited or damaged: profile the network again"
        )
    return counts
