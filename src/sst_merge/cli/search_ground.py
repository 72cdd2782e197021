"""From a search's configuration to where its trials take place: a world, or the user's own models and prompts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..data_loader.base_model import base_fingerprint, check_weights, resolve_device
from ..errors import BaseModelError, ConfigError
from ..experiments.provenance import folder_digest
from ..files import file_sha256
from ..merging.config import MergeConfig
from ..search.arena import open_world_arena
from ..search.config import DevPrompts, SearchConfig
from ..search.merge_files import own_merge
from ..search.run import Ground
from ..yaml_config import validated
from .adapters import load_adapters, load_base_index
from .calibration import own_tokenizer
from .evaluate_elsewhere import absolute_suite
from .inputs import load_model_and_data

if TYPE_CHECKING:
    from ..judges import Judge
    from ..search.own_models import OwnArena
    from ..suites import Suite

__all__ = ["ground_of", "merge_of", "open_own"]


def ground_of(config: SearchConfig) -> Ground:
    """Where the trials of a search take place; everything cheap is checked here.

    Args:
        config: as checked.

    Returns:
        The ground; nothing is loaded yet.

    Raises:
        ConfigError: dev prompts that cannot decide.
        BaseModelError: a base of packed weights.
    """
    if config.world is not None:
        return _world_ground(config)
    assert config.merge is not None and config.dev is not None
    suites = _suites(config.dev)
    _judges(config.dev, suites, "cpu", only_check=True)
    merge, opened = own_merge(config.merge), load_adapters(config.merge)
    base = config.merge.base_model
    if base is None:
        raise ConfigError("merge.base_model: missing; a search asks the base with every merge added")
    found = check_weights(base, config.merge.access)
    if found is not None and found.method != "gguf":
        instead = "give the plain model, or a GGUF file" if found.stored else "leave quantization out"
        raise BaseModelError(
            f"merge.base_model: {base!r} is {found}; a search adds every merge to the weights of the base: {instead}"
        )
    if config.merge.access.gguf(base) is not None:
        base = config.merge.access.label(base)
    dev = config.dev.model_dump(mode="json") | {"suites": [absolute_suite(name) for name in config.dev.suites]}
    data = [source for source in (config.merge.data.harm, config.merge.data.benign) if source is not None]
    data += [adapter.data for adapter in config.merge.adapters if adapter.data is not None]
    depends = {
        "base": base_fingerprint(base),
        "adapters": {adapter.name: dict(adapter.fingerprints()) for adapter in opened},
        "suites": {suite.name: suite.asking.get("metadata", {}).get("sha256", "") for suite in suites},
        "calibration": [file_sha256(source.path) for source in data if source.path is not None],
        "dev": {name: dev[name] for name in ("judges", "samples", "max_new_tokens")},
    }
    safety = any(adapter.role == "safety" for adapter in config.merge.adapters)
    return Ground(open_own, {"merge": merge, "dev": dev}, depends, safety)


def _world_ground(config: SearchConfig) -> Ground:
    from ..experiments.setups import world_of
    from ..worlds.world import SAFETY, UNALIGNED, Artefact

    assert config.world is not None
    problem = {
        "world": config.world.parameters,
        "base": UNALIGNED,
        "skills": list(config.skills),
        "safety": True,
        "adapter_seed": config.adapter_seed,
        "harm": config.calibration.harm,
        "benign": config.calibration.benign,
        "skill_share": 0.5,
        "seed": config.adapter_seed,
    }
    world = world_of(config.world.parameters)
    wanted = [Artefact(UNALIGNED), *(Artefact(UNALIGNED, n, config.adapter_seed) for n in (*config.skills, SAFETY))]
    depends = {
        "world": dict(world.identity()),
        "artefacts": {str(artefact): folder_digest(world.make(artefact)) for artefact in wanted},
    }
    return Ground(open_world_arena, {"problem": problem, "prompts": config.prompts}, depends, safety=True)


def merge_of(config: SearchConfig, ground: Ground) -> tuple[dict[str, Any], bool]:
    """What all merges of a search have in common, as a configuration of `sst-merge merge`.

    Args:
        config: of the search.
        ground: of its trials.

    Returns:
        Plain values; and whether calibration data are among them wherever methods read any.
    """
    if config.merge is not None:
        return own_merge(config.merge), True
    from ..experiments.setups import setup_of
    from ..search.world_files import world_merge

    return world_merge(setup_of(ground.parameters["problem"]), config.out / "calibration")


def open_own(parameters: Mapping[str, Any]) -> "OwnArena":
    """The arena of the user's own models, opened in whichever process.

    Args:
        parameters: ``merge`` and ``dev``, plain values with absolute paths.

    Returns:
        The arena.

    Raises:
        ConfigError: adapters with weights that a trial does not add.
    """
    from ..data_loader import algebra_device, load_tokenizer, torch_type
    from ..merging import MergeSettings, plan_merge
    from ..merging.run import merge_problem
    from ..search.own_models import Asking, OwnArena

    merge = dict(parameters["merge"])
    merge["output"] = {"path": "merged", **merge.get("output", {})}
    config = validated(MergeConfig, merge, source="merge")
    dev = validated(DevPrompts, parameters["dev"], source="dev")
    opened, device = load_adapters(config), resolve_device(config.device)
    tokenizer = own_tokenizer(config, opened)
    base, _ = load_base_index(config, opened, needed=True)
    settings = MergeSettings(
        seed=config.seed,
        energy=config.output.energy,
        device=str(algebra_device(device)),
        compute_dtype=torch_type(config.compute_dtype),
        assume_same_base=config.assume_same_base,
    )
    plan = plan_merge(opened, "task_arithmetic", settings=settings, base=base, base_model=config.base_model)
    if plan.carried.tensors:
        raise ConfigError(
            f"merge.adapters: they have whole trained weights ({next(iter(plan.carried.tensors))}), which a search "
            "does not try; leave them out (merge.drop_modules_to_save: true), or merge with them and evaluate"
        )
    modules = [module.name for module in plan.modules]
    inputs = load_model_and_data(config, device, modules=modules, tokenizer=tokenizer)
    suites = _suites(dev)
    assert config.base_model is not None
    asking = Asking(
        suites,
        _judges(dev, suites, device),
        samples=dev.samples,
        max_new_tokens=dev.max_new_tokens,
        batch_size=dev.batch_size,
        seed=config.seed,
    )
    encoder = load_tokenizer(config.base_model, access=config.access)
    return OwnArena(merge_problem(plan, inputs), settings, encoder, asking)


def _suites(dev: DevPrompts) -> "list[Suite]":
    from ..search.own_models import check_dev_suites
    from ..suites import expand_suites

    suites, _ = expand_suites(dev.suites, world=None)
    check_dev_suites(suites)
    return suites


def _judges(dev: DevPrompts, suites: "Sequence[Suite]", device: str, *, only_check: bool = False) -> "list[Judge]":
    from ..judges import DEFAULT_JUDGES, make_judges
    from ..judges.registry import check_judges

    names = dev.judges or DEFAULT_JUDGES
    check_judges([*names, *(model.name for model in dev.judge_models)])
    if only_check or not any(suite.judged for suite in suites):
        return []
    return make_judges(names, device=device, models={model.name: model.path for model in dev.judge_models})
