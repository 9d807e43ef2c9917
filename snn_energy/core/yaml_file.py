"""YAML files with the line number of every key: parsed by ruamel.yaml, validated by pydantic, one-line errors.

Used for hardware profiles and published counts. Duplicate and unknown keys, aliases, tags and empty values are
errors. An error names file:line, the key and the fix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from snn_energy.core.errors import SnnEnergyError, nearest

Keys = tuple[str, ...]
Text = Annotated[str, Field(strict=True, min_length=1)]
Line = Annotated[str, Field(strict=True, min_length=1, pattern=r"^[^\n]*$")]


@dataclass(frozen=True)
class FileType:
    """A type of file: its description in messages, schema version, error class, and the fix if the file is missing."""

    description: str
    version: int
    error: type[SnnEnergyError]
    missing_hint: str


def schema_error(message: str, *at: str) -> PydanticCustomError:
    """A validation error with this message; ``at``: keys below the model that raises it."""
    return PydanticCustomError("file", "{message}", {"message": message, "at": at})


def format_value(value: object) -> str:
    """A value in YAML notation, for error messages."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return f"the text {value!r}" if isinstance(value, str) else str(value)


class StrictModel(BaseModel):
    """Frozen; unknown keys are errors that suggest the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in data if isinstance(data, dict) else ():
            if key not in known:
                hint = nearest(str(key), known) or f"; known here: {', '.join(known)}"
                raise schema_error(f"unknown key{hint}", str(key))
        return data


class Document:
    """The plain values of a YAML file, and the line number of every key."""

    def __init__(self, path: Path, file_type: FileType) -> None:
        self.path = path
        self.file_type = file_type
        self.lines: dict[Keys, int] = {(): 1}
        self._containers: set[int] = set()
        node = self._compose(self._text())
        if node is None:
            raise self.error(f"the file is empty; {file_type.description} starts with 'schema: {file_type.version}'")
        if not isinstance(node, MappingNode):
            raise self.error(
                f"{file_type.description} is a mapping of keys; it starts with 'schema: {file_type.version}'"
            )
        self.content: dict[str, object] = self._mapping(node, ())

    def __eq__(self, other: object) -> bool:
        """Documents are equal if their contents are, whatever their paths."""
        return isinstance(other, Document) and self.content == other.content

    __hash__ = None  # type: ignore[assignment]

    def error(self, message: str, loc: Keys = (), line: int | None = None) -> SnnEnergyError:
        """An error at a line, by default the line of the innermost key of ``loc`` that the file contains."""
        return self.file_type.error(f"{self.path}:{line or self.line_of(loc)}: {message}")

    def line_of(self, loc: Keys) -> int:
        """Line of the innermost key of ``loc`` that the file contains."""
        while loc not in self.lines:
            loc = loc[:-1]
        return self.lines[loc]

    def _text(self) -> str:
        try:
            raw = self.path.read_bytes()
            return raw.decode("utf-8-sig")
        except FileNotFoundError:
            raise self.file_type.error(f"{self.path}: no such file; {self.file_type.missing_hint}") from None
        except OSError as error:
            raise self.file_type.error(f"{self.path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise self.error("not UTF-8 text; save the file as UTF-8", line=line) from error

    def _compose(self, text: str) -> Node | None:
        try:
            node = _composed(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = None if mark is None else mark.line + 1
            raise self.error(f"not YAML: {error.problem or error.context}", line=line) from error
        except ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise self.error(f"not YAML: {error.reason}", line=line) from error
        except YAMLError as error:
            raise self.error(f"not YAML: {error}") from error
        except RecursionError:
            raise self.error(f"not {self.file_type.description}: nested too deeply") from None
        return node

    def _mapping(self, node: MappingNode, path: Keys) -> dict[str, object]:
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag != "tag:yaml.org,2002:str":
                raise self.error("keys are plain text; put the key in quotes", line=line)
            key = key_node.value
            here = (*path, key)
            if key in values:
                raise self.error(
                    f"{'.'.join(here)}: duplicate key, first on line {self.lines[here]}; remove one",
                    line=line,
                )
            self.lines[here] = line
            values[key] = self._value(value_node, here)
        return values

    def _value(self, node: Node, path: Keys) -> object:
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._containers:
            raise self.error(f"{'.'.join(path)}: YAML aliases are not supported; write the entry out in full", path)
        self._containers.add(id(node))
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        assert isinstance(node, SequenceNode)
        items = []
        for number, item in enumerate(node.value):
            here = (*path, str(number))
            self.lines[here] = item.start_mark.line + 1
            items.append(self._value(item, here))
        return items

    def _scalar(self, node: ScalarNode, path: Keys) -> object:
        text, tag = str(node.value), str(node.tag).removeprefix("tag:yaml.org,2002:")
        try:
            if tag in _SCALARS:
                return _SCALARS[tag](text)
        except ValueError:
            raise self.error(f"{'.'.join(path)}: cannot read '{text}' as a number", path) from None
        if tag == "null":
            raise self.error(f"{'.'.join(path)}: is empty; write a value or remove the key", path)
        raise self.error(f"{'.'.join(path)}: the tag {node.tag} is not supported; remove it", path)


@lru_cache(maxsize=64)
def _composed(text: str) -> Node | None:
    """The tree of a text, which nobody changes: a study reads one profile a hundred times, at 20 ms each."""
    node: Node | None = YAML(typ="safe", pure=True).compose(text)
    return node


def _yaml_float(text: str) -> float:
    return float(text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))


def _yaml_int(text: str) -> int:
    digits = text.replace("_", "")
    return int(digits, 0 if digits.lstrip("+-")[:2].lower() in ("0x", "0o", "0b") else 10)


_SCALARS: Mapping[str, Callable[[str], object]] = {
    "str": str,
    "timestamp": str,
    "bool": lambda text: text.lower() in ("true", "yes", "on", "y"),
    "int": _yaml_int,
    "float": _yaml_float,
}


def first_error(document: Document, error: ValidationError) -> SnnEnergyError:
    """The error closest to the top of the file, with the number of further errors."""
    errors = [_key_and_message(details) for details in error.errors(include_url=False)]
    loc, message = min(errors, key=lambda item: document.line_of(item[0]))
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return document.error(f"{'.'.join(loc)}: {message}{more}", loc)


def _key_and_message(details: ErrorDetails) -> tuple[Keys, str]:
    """Key and message of a pydantic error; the message is reworded for the user."""
    context = details.get("ctx", {})
    loc = (*map(str, details["loc"]), *context.get("at", ()))
    if details["type"] == "missing":
        return loc, f"is missing; add the key '{loc[-1]}' to {'.'.join(loc[:-1]) or 'the file'}"
    return loc, _message(details["type"], details["input"], context, details["msg"])


def _message(error_type: str, value: object, context: Mapping[str, Any], default: str) -> str:
    if error_type == "file":
        return str(context["message"])
    if error_type == "literal_error":
        hint = nearest(value, _quoted(context["expected"])) if isinstance(value, str) else ""
        return f"must be {context['expected']}, not {format_value(value)}{hint}"
    known = {
        "string_type": f"must be text, not {format_value(value)}; put it in quotes",
        "string_too_short": "must not be empty",
        "string_pattern_mismatch": "must be one line",
        "bool_type": f"must be true or false, not {format_value(value)}",
        "model_type": f"must be a mapping of keys, not {format_value(value)}",
        "dict_type": f"must be a mapping of keys, not {format_value(value)}",
        "too_short": "must have at least one entry",
    }
    return known.get(error_type, default)


def _quoted(expected: str) -> list[str]:
    """The names in pydantic's text "'a', 'b' or 'c'"."""
    return expected.split("'")[1::2]


Parsed = TypeVar("Parsed", bound=BaseModel)


def read_yaml(path: Path, file_type: FileType, schema: type[Parsed]) -> tuple[Parsed, Document]:
    """The file parsed as ``schema``, and its Document. Raises ``form.error`` for the first error in the file."""
    document = Document(path, file_type)
    if "schema" not in document.content:
        raise document.error(f"the key 'schema' is missing; add 'schema: {file_type.version}'")
    version = document.content["schema"]
    if isinstance(version, bool) or version != file_type.version:  # checked first: another version has other keys
        known = f"this version of snn_energy reads 'schema: {file_type.version}'"
        raise document.error(f"schema: {format_value(version)} is not supported; {known}", ("schema",))
    try:
        return schema.model_validate(document.content), document
    except ValidationError as error:
        raise first_error(document, error) from error
