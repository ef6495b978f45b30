"""What Hydra finds of cbs: it accepts plugins from this namespace only. No logic here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from cbs import batch_sizes
from cbs.schema import Config
from launch import sweep

if TYPE_CHECKING:
    from launch.bisect_search import Adaptive


class BatchSizeSource(ConfigSource):
    """Answers for batch_size=<any integer>."""

    @staticmethod
    def scheme() -> str:
        return batch_sizes.SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        return ConfigResult(
            provider=self.provider,
            path=f"{self.scheme()}://{config_path}",
            config=batch_sizes.load(config_path),
            header={"package": None},
        )

    def is_group(self, config_path: str) -> bool:
        return batch_sizes.is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        return batch_sizes.is_config(config_path)

    def available(self) -> bool:
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        groups = results_filter in (None, ObjectType.GROUP)
        return batch_sizes.listed(config_path, groups, not groups or results_filter is None)


class CbsSearchPath(SearchPathPlugin):
    """Puts the batch sizes among the places where configs are looked for."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("cbs", f"{batch_sizes.SCHEME}://")


class GridSweeper(BasicSweeper):
    """Every combination, with progressions expanded."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)

    def sweep(self, arguments: list[str]) -> Any:
        assert self.hydra_context is not None
        assert self.launcher is not None
        jobs = sweep.jobs(self._parse_config() + arguments, self.hydra_context.config_loader)
        return self.launcher.launch(jobs, initial_job_idx=0)


class BisectSweeper(BasicSweeper):
    """Those batch sizes and seeds that decide b*: see launch.bisect."""

    def __init__(self, params: dict[str, str] | None = None, **settings: Any) -> None:
        super().__init__(max_batch_size=None, params=params)
        self._settings = settings

    def sweep(self, arguments: list[str]) -> Any:
        from launch import bisect

        assert self.hydra_context is not None
        bisect.check_launcher(self.launcher)
        loader = self.hydra_context.config_loader
        search = bisect.prepared(self._parse_config() + arguments, loader, self.config, self._settings)
        return self.launcher.search(search)  # type: ignore[union-attr]


class _Composing(Launcher):
    """Composes every trial of a sweep, typed and checked, before anything starts."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self._loader, self._config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        from launch import compose

        self.start(compose.composed(self._loader, self._config, [list(job) for job in job_overrides]))
        return []

    @abstractmethod
    def start(self, configs: Sequence[Config]) -> None:
        """Work on every trial that isn't finished."""

    @abstractmethod
    def search(self, adaptive: Adaptive) -> None:
        """Work on the runs that an adaptive sweep proposes."""


class LocalLauncher(_Composing):
    """This machine: see launch.local."""

    def __init__(self, workers: int | str = "auto") -> None:
        self._workers = workers

    def start(self, configs: Sequence[Config]) -> None:
        from launch import local

        local.launch(configs, self._workers)

    def search(self, adaptive: Adaptive) -> None:
        from launch import bisect

        bisect.here(adaptive, self._workers)


class CalibrateLauncher(LocalLauncher):
    """What this machine takes for a sweep's runs: see launch.calibrate."""

    def start(self, configs: Sequence[Config]) -> None:
        from launch import calibrate

        calibrate.calibrate(configs, self._workers)


class SlurmLauncher(_Composing):
    """A Slurm cluster: see launch.slurm."""

    def __init__(self, **settings: Any) -> None:
        self._settings: dict[str, Any] = {
            k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in settings.items()
        }

    def start(self, configs: Sequence[Config]) -> None:
        from launch import settings, slurm

        slurm.launch(configs, settings.Settings.of(self._settings))

    def search(self, adaptive: Adaptive) -> None:
        from launch import bisect_slurm, settings

        bisect_slurm.launch(adaptive, settings.Settings.of(self._settings))


class DryLauncher(SlurmLauncher):
    """What the Slurm launcher would do: see launch.dry."""

    def start(self, configs: Sequence[Config]) -> None:
        from launch import dry, settings

        dry.show(configs, settings.Settings.of(self._settings))

    def search(self, adaptive: Adaptive) -> None:
        from launch import bisect_slurm, settings

        bisect_slurm.show(adaptive, settings.Settings.of(self._settings))
