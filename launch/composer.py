"""A trial's composed config, with Hydra's work shared among the trials of a sweep.

Hydra composes the choices of groups (`optimizer=adam`) and then sets single values (`model.width=8`) in what
came out. Here the first is done once per distinct choice; the second, by Hydra's own function, on a copy per
trial. A batch size is such a value too, unless anything depends on its choice.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict

from cbs import batch_sizes

# A batch size that nobody writes: where it stands in a composed config, its choice has put it.
_PROBE = "918273645546372819"


class Composer:
    """Composes jobs (lists of overrides) one by one, exactly as Hydra does."""

    def __init__(self, loader: Any, master: Any, share: bool, swap: bool) -> None:
        """share: whether composing the same choice twice gives the same; swap: whether batch sizes may be values."""
        self._loader, self._master, self._share, self._swap = loader, master, share, swap
        self._parser = OverridesParser.create()
        self._parsed = cache(self._parse)
        self._chosen = cache(self._choose)
        self._swaps = cache(self._only_the_probe)

    def compose(self, job: list[str]) -> DictConfig:
        """Raises what Hydra raises."""
        if self._share:
            try:
                return self._shared(job)
            except Exception:  # whatever is wrong with the job, Hydra says it below in its own words
                pass
        return self._loader.load_sweep_config(self._master, job)

    def _shared(self, job: list[str]) -> DictConfig:
        groups = [line for line in job if self._parsed(line)[1]]
        values = [self._parsed(line)[0] for line in job if not self._parsed(line)[1]]
        size = next((line for line in groups if self._is_size(line)), None)
        probed = tuple(f"batch_size='{_PROBE}'" if line is size else line for line in groups)
        if size is not None and self._swaps(probed):
            composed = copy.deepcopy(self._chosen(probed))
            composed["batch_size"] = batch_sizes.constant(str(self._parsed(size)[0].value()))
        else:
            composed = copy.deepcopy(self._chosen(tuple(groups)))
        ConfigLoaderImpl._apply_overrides_to_config(values, composed)
        return composed

    def _parse(self, line: str) -> tuple[Override, bool]:
        """An override, and whether it takes part in composing: a group's choice, or one of Hydra's own settings."""
        override = self._parser.parse_override(line)
        group = self._loader.repository.group_exists(override.key_or_group) and not isinstance(override.value(), dict)
        return override, group or override.is_hydra_override()

    def _choose(self, groups: tuple[str, ...]) -> DictConfig:
        composed = self._loader.load_sweep_config(self._master, list(groups))
        with open_dict(composed):
            del composed["hydra"]
        return composed

    def _is_size(self, line: str) -> bool:
        """Whether it is batch_size=<number>, and ours to answer: a file of that name comes first."""
        override = self._parsed(line)[0]
        if not self._swap or override.get_key_element() != "batch_size" or override.type != OverrideType.CHANGE:
            return False
        path = f"batch_size/{override.value()}"
        answering = next((place for place in self._loader.get_sources() if place.is_config(path)), None)
        return answering is not None and answering.scheme() == batch_sizes.SCHEME

    def _only_the_probe(self, groups: tuple[str, ...]) -> bool:
        """Whether a batch size's choice has put all of the node batch_size, and nothing elsewhere."""
        plain = OmegaConf.to_container(self._chosen(groups))
        assert isinstance(plain, dict)
        return plain.pop("batch_size") == batch_sizes.constant(_PROBE) and _PROBE not in str(plain)
