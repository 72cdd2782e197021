"""The flags of a merge that no field alone can be: adapters in one word, options of a method."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, UnknownMethodError
from ..hub_names import HubName, is_here
from ..merging.config import AdapterConfig, MergeConfig, default_method
from ..reading import reading
from ..texts import shown
from ..yaml_config import parse_yaml, tensor_files_beside
from .flags import read_config

__all__ = ["config_from_flags", "parse_adapter", "parse_role_adapter", "parse_setting"]


def config_from_flags(
    path: Path | None,
    values: Mapping[str, Any],
    adapters: Sequence[str],
    settings: Sequence[str],
    *,
    skills: Sequence[str] = (),
    safety: Sequence[str] = (),
    method: str | None = None,
) -> MergeConfig:
    """The configuration of a merge.

    Args:
        path: YAML file, or None where flags say everything.
        values: of the flags, which win over the file.
        adapters: values of ``--adapter``; these, skills and safety replace the file's list.
        settings: values of ``--set``.
        skills: values of ``--skill``.
        safety: values of ``--safety``.
        method: whose options are checked, where that is not the configuration's own choice.

    Returns:
        The configuration.

    Raises:
        ConfigError: every fault, a line each; those of the method's name and options among them.
    """
    more: dict[str, tuple[str, object]] = {}
    given = [parse_adapter(text) for text in adapters]
    given += [parse_role_adapter(text, "utility", "--skill") for text in skills]
    given += [parse_role_adapter(text, "safety", "--safety") for text in safety]
    if given:
        flags = {"--adapter": adapters, "--skill": skills, "--safety": safety}
        more["adapters"] = ("/".join(flag for flag, found in flags.items() if found), given)
    for text in settings:
        name, value = parse_setting(text)
        more[f"merge.{name}"] = (f"--set {name}", tensor_files_beside(value, Path.cwd()))
    called = {"adapters": "--skill, --safety or --adapter", "output": "-o, --output"}
    return read_config(MergeConfig, path, values, more, lambda raw: _method_faults(raw, method), called)


def _method_faults(raw: Mapping[str, Any], method: str | None) -> list[tuple[str, str]]:
    """What is wrong with the name of the method and with its options, as far as plain values show it."""
    from ..methods import get_method, option_faults

    section = raw.get("merge") or {}
    if not isinstance(section, Mapping):
        return []
    named = section.get("method")
    if method is not None and named is not None and named != method:
        return []  # the command itself refuses another method
    name = method or named or _method_by_default(raw)
    if not isinstance(name, str):
        return []
    try:
        chosen = get_method(name)
    except UnknownMethodError as error:
        return [("merge.method", str(error))]
    options = {str(option): value for option, value in section.items() if option != "method"}
    return [(f"merge.{where}" if where else "merge", said) for where, said in option_faults(chosen, options)]


def _method_by_default(raw: Mapping[str, Any]) -> str:
    listed = raw.get("adapters")
    found = listed if isinstance(listed, list | tuple) else []
    roles = {str(one.get("role", "utility")) for one in found if isinstance(one, Mapping)}
    return default_method(roles, base=raw.get("base_model") is not None)


def parse_role_adapter(text: str, role: str, flag: str) -> dict[str, object]:
    """One ``--skill`` or ``--safety``: what ``--adapter`` takes, without a role, or ``FOLDER=WEIGHT``.

    Args:
        text: as given.
        role: what the flag stands for.
        flag: for messages.

    Returns:
        Fields of an adapter.

    Raises:
        ConfigError: another role, or what ``--adapter`` refuses.
    """
    place, sign, weight = text.rpartition("=")
    named = place.partition("=")[0] in AdapterConfig.model_fields
    if sign and not named and place not in AdapterConfig.model_fields and _is_number(weight):
        whole = Path(text).expanduser().is_dir()  # a folder whose own name ends like a weight
        fields = parse_adapter(text) if whole else {**parse_adapter(place), "weight": weight}
    else:
        fields = parse_adapter(text)
    if fields.get("role", role) != role:
        raise ConfigError(
            f"{flag} {shown(text)}: its role is {fields['role']!r}, but {flag} stands for {role!r}; leave the role out"
        )
    return {**fields, "role": role}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def parse_adapter(text: str) -> dict[str, object]:
    """One ``--adapter``: a folder, or ``name=code,path=...,role=safety,weight=0.5``.

    A folder that is there is taken as such, whatever its name holds; so is one behind ``path=`` with commas in it. What
    is none, and reads like a name of the hub, stays as it is. ``data=FILE`` names prompts of the adapter's own.

    Raises:
        ConfigError: a part that is not ``key=value``.
    """
    fields: dict[str, object] = {}
    if text.partition("=")[0] in AdapterConfig.model_fields and not Path(text).expanduser().is_dir():
        parts = text.split(",")
        while parts:
            key, sign, value = parts[0].partition("=")
            if not sign:
                raise ConfigError(
                    f"--adapter {text!r}: {parts[0]!r} is not key=value; expected a folder, or fields such as "
                    f"name=code,path=adapters/code,role=utility,weight=1.0"
                )
            used = _parts_of_path(value, parts[1:]) if key.strip() == "path" else 0
            fields[key.strip()] = ",".join([value, *parts[1 : 1 + used]]).strip()
            parts = parts[1 + used :]
    else:
        fields["path"] = text
    if "path" in fields:
        with reading(f"--adapter {shown(text)}", ConfigError, "the path of a folder", "correct the path"):
            path = Path(str(fields["path"])).expanduser().absolute()
            if is_here(path) or HubName.parse(str(fields["path"])) is None:
                fields["path"] = str(path)
    if "data" in fields:
        with reading(f"--adapter {shown(text)}", ConfigError, "the path of a file", "correct the path"):
            fields["data"] = {"path": str(Path(str(fields["data"])).expanduser().absolute())}
    return fields


def _parts_of_path(start: str, following: Sequence[str]) -> int:
    """How many of the parts behind a path belong to it, because only with them it is a folder: as many as can."""
    for count in range(len(following), 0, -1):
        if Path(",".join([start, *following[:count]]).strip()).expanduser().is_dir():
            return count
    return 0


def parse_setting(text: str) -> tuple[str, object]:
    """One ``--set``: an option of the method, dotted where it is nested; the value is YAML.

    Args:
        text: such as ``fisher.structure=block`` or ``filter={hard: 64}``.

    Returns:
        (dotted name, value).

    Raises:
        ConfigError: no ``=``, an empty name, or a value that is not YAML.
    """
    name, sign, value = text.partition("=")
    if not sign or not all(name.split(".")):
        raise ConfigError(f"--set {text!r}: expected option=value, such as fisher.structure=block")
    return name, parse_yaml(value, source=f"--set {shown(text)}")
