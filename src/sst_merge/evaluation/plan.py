"""An evaluation before any model is loaded: who is asked what, with everything refused that can be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..judges import Judge
from ..suites import Suite
from .adapters import BASE_NAME, EvaluatedAdapter, adapted_modules, check_adapters, check_names
from .calibration import CalibrationPrompts
from .checks import check_base, check_reference, check_request
from .loading import LoadedSuite, load_suites
from .merge_sources import MergeSources, find_merge_sources
from .output import check_output
from .settings import ModelSettings
from .silence_libraries import quiet_libraries

if TYPE_CHECKING:
    from ..lora_utils import BaseModelIndex

__all__ = ["EvaluationPlan", "plan_evaluation"]


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """A checked evaluation.

    Attributes:
        base: layers of the base.
        adapters: all that answer beside the base; what merges were made of comes first.
        sources: of merges among them.
        suites: what is asked, samples drawn.
        reference: model that the others are compared with; None where there is none.
    """

    base: "BaseModelIndex"
    adapters: tuple[EvaluatedAdapter, ...]
    sources: MergeSources
    suites: tuple[LoadedSuite, ...]
    reference: str | None

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all that answer, the base first."""
        return (BASE_NAME, *(adapter.name for adapter in self.adapters))


def plan_evaluation(
    base: str,
    adapters: Mapping[str, Path],
    suites: Sequence[Suite],
    out: Path,
    *,
    judges: Sequence[Judge] = (),
    samples: int | None = None,
    max_new_tokens: int | None = None,
    driftcheck: str | None = None,
    exclude: Sequence[CalibrationPrompts] = (),
    attempts: int | None = None,
    reference: str | None = None,
    settings: ModelSettings | None = None,
    allow_code: bool = False,
    allow_noop: bool = False,
    world_seed: int = 0,
    force: bool = False,
) -> EvaluationPlan:
    """Check an evaluation, read its adapters' headers and values and its suites' data; no model is loaded.

    The arguments are those of :func:`~.run.evaluate_models`.

    Returns:
        What :func:`~.run.evaluate_models` will do.

    Raises:
        ConfigError: as there; also what adapters, suites and base are refused for.
    """
    settings = settings or ModelSettings()
    check_output(out, force=force)
    check_names(adapters.items())
    check_request(suites, judges, allow_code=allow_code, driftcheck=driftcheck, attempts=attempts)
    compared_with = check_reference(reference, (BASE_NAME, *adapters))
    if find_spec("lm_eval") is None:
        raise ConfigError("evaluate needs lm-evaluation-harness: pip install 'sst-merge[eval]'")
    from ..lora_utils import BaseModelIndex

    with quiet_libraries():
        index = BaseModelIndex.load(base, modules=adapted_modules(adapters), generative=True, access=settings.access)
        checked = check_adapters(adapters, index, allow_noop=allow_noop)
        sources = find_merge_sources(checked)
        checked = [*check_adapters(sources.found, index, allow_noop=allow_noop), *checked]
        check_base(suites, base, world_seed)
        loaded = load_suites(
            suites,
            samples=samples,
            seed=settings.seed,
            world_seed=world_seed,
            max_new_tokens=max_new_tokens,
            exclude=[prompt for source in exclude for prompt in source.prompts],
            driftcheck=driftcheck,
            attempts=attempts,
        )
    return EvaluationPlan(
        base=index, adapters=tuple(checked), sources=sources, suites=tuple(loaded), reference=compared_with
    )
