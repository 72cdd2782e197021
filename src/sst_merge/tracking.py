"""Figures of long work, step by step, for an experiment tracker; off unless a command is told ``--track``.

Work says what it measures by :func:`record`, as it would to a logger, and does not know who listens. Nobody does by
default: then a figure is not even taken from its device. Packages of trackers are imported where one is opened.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, SupportsFloat

from .errors import ConfigError

__all__ = ["TRACKERS", "Tracker", "check_tracker", "open_tracker", "record", "tracking"]

_PROJECT = "sst-merge"


class Tracker(Protocol):
    """Where figures go."""

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures of one step.

        Args:
            stage: of the work, such as ``training``.
            step: number in this stage.
            figures: name → value.
        """

    def end(self) -> None:
        """Write what is kept back; the tracker takes nothing more."""


_listener: ContextVar[Tracker | None] = ContextVar("sst_merge_tracker", default=None)


def record(stage: str, step: int, figures: Mapping[str, SupportsFloat]) -> None:
    """Hand the figures of a step to whoever listens in this thread.

    Args:
        stage: of the work, such as ``training``.
        step: number in this stage.
        figures: name → number or tensor of one element.
    """
    listener = _listener.get()
    if listener is not None:
        listener.log(stage, step, {name: float(value) for name, value in figures.items()})


@contextmanager
def tracking(tracker: Tracker) -> Iterator[None]:
    """Let a tracker listen while the block runs, and end it after, whatever happens.

    Args:
        tracker: where figures go.

    Yields:
        Nothing.
    """
    before = _listener.set(tracker)
    try:
        yield
    finally:
        _listener.reset(before)
        tracker.end()


def check_tracker(name: str) -> None:
    """Refuse a tracker that cannot be opened, before the work begins.

    Args:
        name: one of :data:`TRACKERS`.

    Raises:
        ConfigError: its package is not installed.
    """
    if find_spec(name) is None:
        raise ConfigError(
            f"--track {name}: the package {name} is not installed; run: pip install 'sst-merge[{name}]', or leave "
            "--track out"
        )


def open_tracker(name: str, run: str, settings: Mapping[str, object]) -> Tracker:
    """Open a run.

    Args:
        name: one of :data:`TRACKERS`.
        run: what it is called there.
        settings: of the work, plain values.

    Returns:
        The tracker; end it.

    Raises:
        ConfigError: its package is not installed.
    """
    check_tracker(name)
    return TRACKERS[name](run, settings)


class _TensorBoard:
    """Event files in ``runs/`` of the working folder."""

    def __init__(self, run: str, settings: Mapping[str, object]) -> None:
        writer = import_module("torch.utils.tensorboard").SummaryWriter
        time = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        self.writer = writer(str(Path("runs", f"{re.sub(r'[^A-Za-z0-9._-]+', '-', run)}_{time}")))
        self.writer.add_text("settings", f"```json\n{json.dumps(settings, indent=2, ensure_ascii=False)}\n```")

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(f"{stage}/{name}", value, step)

    def end(self) -> None:
        self.writer.close()


class _WeightsAndBiases:
    """Its own settings count: WANDB_MODE=offline keeps everything here, WANDB_PROJECT names another project."""

    def __init__(self, run: str, settings: Mapping[str, object]) -> None:
        project = os.environ.get("WANDB_PROJECT", _PROJECT)
        self.run = import_module("wandb").init(project=project, name=run, config=dict(settings))
        self.stages: set[str] = set()

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        # Its own step may only grow; every stage counts from the beginning.
        if stage not in self.stages:
            self.stages.add(stage)
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self.run.log({f"{stage}/step": step} | {f"{stage}/{name}": value for name, value in figures.items()})

    def end(self) -> None:
        self.run.finish()


class _MLflow:
    """MLFLOW_TRACKING_URI says where, a local store by default; MLFLOW_EXPERIMENT_NAME names another experiment."""

    def __init__(self, run: str, settings: Mapping[str, object]) -> None:
        self.mlflow: Any = import_module("mlflow")
        self.mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT))
        self.mlflow.start_run(run_name=run)
        self.mlflow.log_dict(dict(settings), "settings.json")

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        # Other characters are refused there.
        plain = {re.sub(r"[^\w.\-/ ]", "_", f"{stage}/{name}"): value for name, value in figures.items()}
        self.mlflow.log_metrics(plain, step=step)

    def end(self) -> None:
        self.mlflow.end_run()


class _Trackio:
    """Kept on this machine (TRACKIO_DIR) and shown by ``trackio show``."""

    def __init__(self, run: str, settings: Mapping[str, object]) -> None:
        self.trackio: Any = import_module("trackio")
        self.trackio.init(project=_PROJECT, name=run, config=dict(settings))

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        self.trackio.log({f"{stage}/{name}": value for name, value in figures.items()}, step=step)

    def end(self) -> None:
        self.trackio.finish()


TRACKERS: Mapping[str, Callable[[str, Mapping[str, object]], Tracker]] = {
    "trackio": _Trackio,
    "wandb": _WeightsAndBiases,
    "mlflow": _MLflow,
    "tensorboard": _TensorBoard,
}
"""Word of ``--track``, which is also the package and the extra → what opens a run."""
