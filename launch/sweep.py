"""A sweep's overrides as one list of overrides per trial."""

from __future__ import annotations

import itertools
import sys
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from cbs.batch_sizes import quoted
from cbs.errors import InputError
from launch.progression import DOTS, expand


def jobs(arguments: list[str], config_loader: Any) -> list[list[str]]:
    """Every combination of the choices. Raises InputError at a progression that can't be expanded."""
    return combined(choices(arguments, config_loader))


def choices(arguments: list[str], config_loader: Any) -> dict[str, list[str]]:
    """Each setting's values, progressions expanded; what they expanded to goes to stderr. Raises InputError."""
    parsed = OverridesParser.create(config_loader=config_loader).parse_overrides(arguments)
    found: dict[str, list[str]] = {}
    for override in parsed:
        name = override.get_key_element()
        values = _values(name, override)
        # A later override replaces an earlier one, as the command line does with a study's file.
        found.pop(name, None)
        found[name] = values
    return found


def combined(found: dict[str, list[str]]) -> list[list[str]]:
    """One list of overrides for each combination of the values."""
    overrides = [[quoted(f"{name}={value}") for value in values] for name, values in found.items()]
    return [list(job) for job in itertools.product(*overrides)]


def _values(name: str, override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise InputError(f"{name}: a grid needs discrete choices, as in {name}=2,4,...,1024.")
    values = list(override.sweep_string_iterator())
    if DOTS not in [value.strip("'\"") for value in values]:
        return values
    expanded = expand(name, [value.strip("'\"") for value in values])
    print(f"{name} = {', '.join(expanded)}", file=sys.stderr)
    return expanded
