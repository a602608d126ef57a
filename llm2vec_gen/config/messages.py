"""Errors of Hydra and OmegaConf for a wrong command line or config, as one line with the correct form."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import InterpolationKeyError, InterpolationToMissingValueError, OmegaConfBaseException

from llm2vec_gen.conf_folders import CONF, options
from llm2vec_gen.config.search_path import search_folders
from llm2vec_gen.errors import InputError, closest, one_line, wrong_input


def quoted(value: str) -> str:
    """Return a text as a value of Hydra's override grammar that means exactly this text, whatever characters it has."""
    return QuotedString(literal(value), Quote.single if '"' in value else Quote.double).with_quotes()


def literal(value: str) -> str:
    """Return a text as a value of a config that is not resolved yet: what looks like an interpolation is escaped."""
    return re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + "\\${", value)


def format_config_error(error: Exception, choices: Mapping[str, Any] | None = None) -> InputError:
    """Return the InputError for a wrong command line or config; `choices` are those of its groups."""
    if wrong := wrong_input(error):
        return wrong
    for one in _causes(error):
        text = None
        if isinstance(one, OverrideParseException):
            text = _unparsed(str(one.override or ""), one)
        elif isinstance(one, MissingConfigException):
            text = _no_choice(one)
        elif isinstance(one, InterpolationKeyError):
            text = _no_source(one, choices or {})
        elif isinstance(one, InterpolationToMissingValueError):
            text = _no_value(one)
        elif isinstance(one, OmegaConfBaseException) and getattr(one, "parent_node", None) is not None:
            text = _no_key(one)
        elif found := re.search(r"Ambiguous value for argument '(.*)'$", str(one), re.MULTILINE):
            text = _unquoted(found[1], "its commas make it several values") + "; with -m it is a sweep"
        elif "Config group override must be a string or a list" in str(one):
            text = "a group is set to null or a number: <group>=<name> chooses one of its files, ~<group> leaves it out"
        elif found := re.search(r"Could not delete from config\. '(.*)' does not exist", str(one)):
            text = f"~{found[1]}: this config has no {found[1]} to remove"
        if text:
            return InputError(text)
    return InputError(one_line(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Return the chain of causes, the innermost first, since the outer ones only repeat it."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__
    return reversed(chain)


# ---- what cannot be parsed


def _unparsed(override: str, error: Exception) -> str:
    key, equals, _ = override.partition("=")
    if not equals:
        return f"{override!r} is no setting; expected key=value (+key=value adds one, ~key removes one)"
    return _unquoted(override, "it has characters that mean something to Hydra" if key else one_line(error))


def _unquoted(override: str, reason: str) -> str:
    """Return the message that shows how to write the value as this very text."""
    key, _, value = override.partition("=")
    bare = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
    bare = bare.replace("\\${", "${")
    brackets = "a list is [a,b], a mapping {a: b}; " if value[:1] in ("[", "{") else ""
    return f"{override}: {reason}; {brackets}to give it as a text write {shlex.quote(f'{key}={quoted(bare)}')}"


# ---- what is not there


def _no_key(error: Any) -> str | None:
    """Return the message for an override of a key that its node does not have."""
    full, key = str(error.full_key), str(error.key)
    parent, _, _ = full.rpartition(".")
    known = [str(name) for name in error.parent_node if not str(name).startswith("_") and name != "hydra"] if (
        hasattr(error.parent_node, "keys")) else []  # fmt: skip
    group = full.partition(".")[0]
    others = [file.stem for file in _files(group) if re.search(rf"^\s*{re.escape(key)}:", file.read_text(), re.M)]
    hint = f"; {group}={' or '.join(others[:3])} has {key}" if parent and others else ""
    takes = f"takes {closest(key, known)}" if known else "has no settings below it"
    return f"{full} is an unknown setting: {parent or 'this config'} {takes}{hint}"


def _no_choice(error: MissingConfigException) -> str | None:
    """Return the message for a choice of a group that has no file."""
    if "/" not in (missing := error.missing_cfg_file or ""):
        return None
    group, _, choice = missing.partition("/")
    while "/" in choice and not any(_files(group)):  # hydra/launcher
        group, choice = f"{group}/{choice.partition('/')[0]}", choice.partition("/")[2]
    folders = search_folders()
    known = sorted({*options(group, folders), *(error.options or [])})  # Hydra's own list has those of --config-dir
    if not known:
        return None
    looked = ", ".join(str(folder / group) for folder in folders if folder != CONF and (folder / group).is_dir())
    where = f"conf/{group} of this package" + (f", {looked}" if looked else "")
    return f"{group}={choice} is unknown; expected one of {closest(choice, known)} ({where})"


def _no_source(error: InterpolationKeyError, choices: Mapping[str, Any]) -> str | None:
    """Return the message for a value taken from a key which the config does not have."""
    found = re.search(r"Interpolation key '([^']*)' not found", str(error))
    if not found or not error.full_key:
        return None
    source, key = found[1], str(error.full_key)
    group, leaf = source.partition(".")[0], source.rpartition(".")[2]
    if choices.get(group) is None:
        return (
            f"{key} refers to ${{{source}}}, which this config does not have; give {key} a value, or write \\${{ where "
            "the text itself is meant"
        )
    names = rf"^\s+{re.escape(leaf)}:"
    others = [file.stem for file in _files(group) if file.stem != choices[group]]
    have = [name for name in others if re.search(names, (CONF / group / f"{name}.yaml").read_text(), re.M)]
    instead = f", or choose {group}={' | '.join(have[:4])}{' | ...' if len(have) > 4 else ''}" if have else ""
    chosen = key.partition(".")[0]
    by = f" ({chosen}={choices[chosen]})" if choices.get(chosen) else ""
    return f"{key}{by} comes from {source}, which {group}={choices[group]} does not have; give {key}=...{instead}"


def _no_value(error: InterpolationToMissingValueError) -> str | None:
    """Return the message for a value taken from a key that is yet to be given (`???`)."""
    found = re.search(r"Missing mandatory value: (\S+)", str(error))
    return f"{found[1]}=... is required: {error.full_key} is taken from it" if found else None


def _files(group: str) -> list[Path]:
    return sorted((CONF / group).glob("*.yaml")) if re.fullmatch(r"[\w/]+", group) else []


CONFIG_ERRORS = (HydraException, OmegaConfBaseException)
