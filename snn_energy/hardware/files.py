"""Find, read and check profiles: bundled ones by name, others by path."""

from __future__ import annotations

from pathlib import Path

from snn_energy.core import bundled
from snn_energy.core.errors import HardwareError, nearest
from snn_energy.core.yaml_file import Document, FileType, read_yaml
from snn_energy.hardware.schema import HardwareProfile

SCHEMA_VERSION = 1
FILE_TYPE = FileType(
    "a hardware profile",
    SCHEMA_VERSION,
    HardwareError,
    "check the path, or choose a bundled one from `snn-energy hardware list`",
)
SUFFIXES = (".yaml", ".yml")


def _bundled_directory() -> Path:
    """The folder of the bundled profiles: in the package (a wheel) or next to it (a checkout)."""
    folder = bundled.hardware_profiles()
    if folder is None:
        raise HardwareError(f"{bundled.PACKAGE}: the bundled hardware profiles are missing; reinstall snn_energy")
    return folder


def list_hardware() -> list[str]:
    """Names of the bundled profiles, sorted."""
    return sorted(path.stem for path in _bundled_directory().glob("*.yaml"))


def hardware_path(name: str) -> Path:
    """File of the bundled profile ``name``; HardwareError with the nearest name if there is none."""
    known = list_hardware()
    if name not in known:
        file_hint = f" (the file is given as './{name}')" if Path(name).is_file() else ""
        raise HardwareError(
            f"unknown hardware profile '{name}'{nearest(name, known)}; see `snn-energy hardware list`{file_hint}"
        )
    return _bundled_directory() / f"{name}.yaml"


def load_hardware(name_or_path: str | Path) -> HardwareProfile:
    """A hardware profile by bundled name, or from a YAML file.

    Text with a path separator or a YAML suffix, and any ``Path``, is a file; other text is a bundled name.
    Raises HardwareError, one line with file:line, the key and the fix, for the first error in the file.
    """
    profile, document = read_yaml(_resolve(name_or_path), FILE_TYPE, HardwareProfile)
    _check_bundled_name(document, profile)
    profile._document = document
    return profile


def _resolve(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    is_path = isinstance(name_or_path, Path) or "/" in text or "\\" in text or text.endswith(SUFFIXES)
    return Path(name_or_path) if is_path else hardware_path(text)


def _check_bundled_name(document: Document, profile: HardwareProfile) -> None:
    path = document.path.resolve()
    if path.parent == _bundled_directory() and profile.name != path.stem:
        raise document.error(f"name: a bundled profile is named like its file, '{path.stem}'", ("name",))
