"""Merges from saved Fishers: the same bits as those that collect them, and refused where something differs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.sst.conftest import THREE as SHAPES
from tests.sst.conftest import batches

from sst_merge import merge
from sst_merge.errors import DataError, FisherError, OptionError
from sst_merge.fim_calculator import Fisher, build_spaces, compute_fim
from sst_merge.lora_utils import Adapter
from sst_merge.methods import MergeProblem, get_method
from sst_merge.sst import SSTMerge, SSTOptions

HARM, BENIGN = batches(1), batches(2, n=16)
OWN = {"skill": batches(5), "other": batches(6)}
DATA: Mapping[str, Any] = {"harm": HARM, "benign": BENIGN, "adapter_benign": OWN}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A model's own sums have the same bits on one thread, however busy the machine is."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def adapters(build: Any) -> list[Adapter]:
    return [
        build.random_adapter(SHAPES, name="skill", rank=2, seed=1, weight=0.1),
        build.random_adapter(SHAPES, name="other", rank=1, seed=2, weight=0.2),
        build.random_adapter(SHAPES, name="safe", rank=1, seed=3, role="safety", weight=0.1),
    ]


def collected(model: Any, adapters: list[Adapter], folder: Path, **options: Any) -> dict[str, Any]:
    """Options that name the files of what a merge under these options would collect."""
    problem = MergeProblem(adapters, build_spaces(adapters, dtype=torch.float64), model, HARM, BENIGN, OWN)
    task = SSTMerge(problem, SSTOptions.model_validate({"inputs": "core", **options}))
    files: dict[str, Any] = {kind: folder / f"{kind}.safetensors" for kind in ("harm", "benign")}
    for kind, path in files.items():
        task.fisher(kind).save(path)
    if options.get("utility") == "fisher":
        files["skills"] = {name: folder / f"{name}.safetensors" for name in OWN}
        for name, path in files["skills"].items():
            task.skill_fisher(name).save(path)
    return {**options, "fisher": {**options.get("fisher", {}), **files}}


def same(one: Adapter, two: Adapter) -> bool:
    factors = ((one.factors(m), two.factors(m)) for m in one.modules)
    return all(torch.equal(x.a, y.a) and torch.equal(x.b, y.b) for x, y in factors)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fisher": {"structure": "block", "estimator": "sampled", "point": "own"}},
        {"fisher": {"structure": "diagonal", "estimator": "empirical", "point": "merged"}, "combine": "interpolate"},
        {"fisher": {"structure": "lowrank", "point": "base"}},
        {"calibration_holdout": 0.0},
        {"utility": "fisher"},
        {"utility": "fisher", "fisher": {"structure": "block", "trust_share": 0.3}},
    ],
    ids=lambda options: str(options) or "defaults",
)
def test_without_model_and_data_the_merge_is_the_same_to_the_bit(
    model: Any, adapters: list[Adapter], tmp_path: Path, options: dict[str, Any]
) -> None:
    saved = collected(model, adapters, tmp_path, **options)
    for strength in ({"mu": 0.05}, {"filter": {"hard": 1}}):
        whole = merge(
            adapters, "sst", model=model, compute_dtype=torch.float64, inputs="core", **DATA, **options, **strength
        )
        alone = merge(adapters, "sst", compute_dtype=torch.float64, **saved, **strength)
        assert same(whole.adapter, alone.adapter)
        report = alone.report.method_report
        assert report["held_out_quotients"] is None
        assert report["point"] == whole.report.method_report["point"]
        assert set(report["saved_fishers"]) >= {"harm", "benign"}
        assert report["samples"]["fisher_harm"] == whole.report.method_report["samples"]["fisher_harm"]
        said = any("no held-out quotients" in warning for warning in alone.report.warnings)
        assert said == (options.get("utility") != "fisher")


def test_with_data_a_saved_fisher_saves_only_the_collecting(
    model: Any, adapters: list[Adapter], tmp_path: Path
) -> None:
    """A budget chooses μ, and quotients are measured, on the prompts that were held out of the files as well."""
    saved = collected(model, adapters, tmp_path)
    for more in ({"tax_budget": 0.05}, {"mu": 0.3, "refine": 2}):
        whole = merge(adapters, "sst", model=model, compute_dtype=torch.float64, inputs="core", **DATA, **more)
        read = merge(adapters, "sst", model=model, compute_dtype=torch.float64, **DATA, **saved, **more)
        assert same(whole.adapter, read.adapter)
        assert read.report.method_report["held_out_quotients"] is not None
        assert not any("no held-out quotients" in warning for warning in read.report.warnings)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "tax_budget (0.02) chooses mu on held-out prompts: give mu"),
        ({"tax_budget": 0.3}, "tax_budget (0.3) chooses mu on held-out prompts: give mu"),
        ({"mu": 1.0, "refine": 3}, "refine takes gradients of the model"),
        ({"mu": 1.0, "utility": "fisher"}, "fisher.skills names no files"),
    ],
)
def test_what_still_needs_a_model_is_said(
    model: Any, adapters: list[Adapter], tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    saved = collected(model, adapters, tmp_path)
    with pytest.raises(DataError) as caught:
        merge(adapters, "sst", **saved, **options)
    assert "reads calibration data; give what is missing: " in str(caught.value)
    assert reason in str(caught.value)
    needs = get_method("sst").needs_for(SSTOptions.model_validate({**saved, **options}))
    assert needs.data
    assert not get_method("sst").needs_for(SSTOptions.model_validate({**saved, "mu": 1.0})).data


def refusal(adapters: list[Adapter], **options: Any) -> str:
    with pytest.raises(FisherError) as caught:
        merge(adapters, "sst", **{"mu": 1.0, "compute_dtype": torch.float64, **options})
    return str(caught.value)


def test_what_differs_is_named(build: Any, model: Any, adapters: list[Adapter], tmp_path: Path) -> None:
    saved = collected(model, adapters, tmp_path)
    path, fisher = tmp_path / "harm.safetensors", saved["fisher"]

    def settings(**changed: Any) -> dict[str, Any]:
        return {"fisher": {**fisher, **changed}}

    assert f"{path}: these statistics do not belong to this merge: data is 'benign' in the file" in refusal(
        adapters, **settings(harm=fisher["benign"], benign=fisher["harm"])
    ).replace("benign.safetensors", "harm.safetensors")
    expected = {
        "structure is 'kronecker' in the file, 'block' in this merge": settings(structure="block"),
        "estimator is 'log_odds' in the file, 'empirical' in this merge": settings(estimator="empirical"),
        "point is 'trust' in the file, 'merged' in this merge": settings(point="merged"),
        "trust_budget is 0.02 in the file, 0.1 in this merge": settings(trust_budget=0.1),
        "seed is 0 in the file, 4 in this merge": {**settings(), "seed": 4},
    }
    for text, options in expected.items():
        assert text in refusal(adapters, **options)
    several = refusal(adapters, **settings(structure="block", estimator="sampled"), seed=1)
    assert all(word in several for word in ("structure is", "estimator is", "seed is"))
    heavier = [adapters[0].with_(weight=0.7), *adapters[1:]]
    assert "weights is [0.1, 0.2, 0.1] in the file, [0.7, 0.2, 0.1] in this merge" in refusal(heavier, **saved)
    assert "cores (4, 4) in the file, (3, 3) here" in refusal(adapters[::2], **saved)
    other = [build.random_adapter(SHAPES, name="skill", rank=2, seed=9, weight=0.1), *adapters[1:]]
    assert "the core spaces have other bases" in refusal(other, **saved)
    wider = [*adapters, build.random_adapter({"lm_head": (37, 16)}, name="head", rank=1)]
    assert "it has no statistics of module lm_head" in refusal(wider, **saved)


def test_samples_and_holdout_are_compared_where_data_are_given(
    model: Any, adapters: list[Adapter], tmp_path: Path
) -> None:
    """Otherwise the prompts that choose μ could be among those that made the Fishers."""
    saved = collected(model, adapters, tmp_path)
    more = {**DATA, "harm": batches(1, n=16)}
    assert "samples is 9 in the file, 12 in this merge" in refusal(adapters, model=model, **more, **saved)
    less = {**DATA, **saved, "calibration_holdout": 0.5}
    assert "calibration_holdout is 0.25 in the file, 0.5 in this merge" in refusal(adapters, model=model, **less)


def test_a_point_of_another_weight_is_refused_though_nothing_else_is_known(
    model: Any, adapters: list[Adapter], tmp_path: Path
) -> None:
    """A file of compute_fim knows its point by a digest alone."""
    spaces = build_spaces(adapters, dtype=torch.float64)
    files = {}
    for kind, data in (("harm", HARM), ("benign", BENIGN)):
        files[kind] = tmp_path / f"{kind}.safetensors"
        compute_fim(model, spaces, data).save(files[kind])
    fisher = {**files, "point": "base"}
    alone = merge(adapters, "sst", mu=0.5, fisher=fisher, compute_dtype=torch.float64)
    given = {"model": model, **DATA, "calibration_holdout": 0.0, "compute_dtype": torch.float64}
    whole = merge(adapters, "sst", mu=0.5, inputs="core", fisher={"point": "base"}, **given)
    assert same(whole.adapter, alone.adapter)
    assert "taken at another point than this merge's" in refusal(adapters, fisher={**files, "point": "merged"})
    assert "no saved Fisher says at which share" in refusal(adapters, fisher=files)


def test_statistics_at_two_shares_do_not_go_together(model: Any, adapters: list[Adapter], tmp_path: Path) -> None:
    (tmp_path / "low").mkdir()
    one = collected(model, adapters, tmp_path, fisher={"trust_share": 0.5})["fisher"]
    low = collected(model, adapters, tmp_path / "low", fisher={"trust_share": 0.25})["fisher"]
    files = {"harm": one["harm"], "benign": low["benign"]}
    assert "different shares of the way to the safe model" in refusal(adapters, fisher=files)
    assert "share is 0.5 in the file, 0.25 in this merge" in refusal(adapters, fisher={**files, "trust_share": 0.25})


def test_sums_of_parts_merge_as_the_whole(model: Any, adapters: list[Adapter], tmp_path: Path) -> None:
    """Statistics of two machines: added, they merge like one run; what they do not agree in is no longer compared."""
    options = {"inputs": "core", "fisher": {"trust_share": 0.4}, "calibration_holdout": 0.0}
    saved = collected(model, adapters, tmp_path, **options)
    spaces = build_spaces(adapters, dtype=torch.float64)
    parts = []
    for index, data in enumerate((HARM[:1], HARM[1:])):
        problem = MergeProblem(adapters, spaces, model, data, BENIGN, seed=index)
        parts.append(SSTMerge(problem, SSTOptions.model_validate(options)).fisher("harm"))
    (parts[0] + parts[1]).save(tmp_path / "harm.safetensors")
    assert "seed" not in Fisher.load(tmp_path / "harm.safetensors").settings
    added = merge(adapters, "sst", mu=0.3, compute_dtype=torch.float64, **saved)
    whole = merge(adapters, "sst", mu=0.3, model=model, compute_dtype=torch.float64, **DATA, **options)
    for m in SHAPES:
        torch.testing.assert_close(added.adapter.delta(m), whole.adapter.delta(m), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fisher": {"harm": "harm.bin"}}, "is not a .safetensors file"),
        ({"fisher": {"skills": {"skill": "s.safetensors"}}}, "belongs to utility: fisher"),
        ({"utility": "fisher", "fisher": {"skills": {"harm": "s.safetensors"}}}, "cannot be an adapter's name"),
        ({"vila": {}, "fisher": {"harm": "h.safetensors"}}, "vila chooses where to solve"),
    ],
)
def test_options_that_cannot_be_are_refused(adapters: list[Adapter], options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        merge(adapters, "sst", mu=1.0, **options)


def test_without_prompts_held_out_no_budget_is_met(model: Any, adapters: list[Adapter]) -> None:
    with pytest.raises(OptionError, match="calibration_holdout: 0 leaves no prompts"):
        merge(adapters, "sst", model=model, **DATA, calibration_holdout=0.0, tax_budget=0.05)
