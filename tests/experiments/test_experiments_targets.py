"""The table of targets, from figures whose verdicts are known."""

from math import inf
from typing import Any

from sst_merge.experiments.targets import targets_table
from sst_merge.measures.figure import Figure


def _m(value: float, low: float = -inf, high: float = inf) -> Figure:
    return Figure(value, low, high, n=3)


def _method(tax: float | None, hypervolume: float, **compared: tuple[Figure | None, Figure]) -> dict[str, Any]:
    names = {"plain": "Task Arithmetic", "other": "RegMean", "lost": "Iso-C", "ours": "SST-Merge"}
    return {
        "tax": None if tax is None else _m(tax),
        "hypervolume": _m(hypervolume, hypervolume, hypervolume),
        "tax reduction": {names[key]: pair[0] for key, pair in compared.items()},
        "hypervolume gained": {names[key]: pair[1] for key, pair in compared.items()},
    }


def _verdicts(figures: dict[str, Any]) -> dict[tuple[str, str], tuple[str, str]]:
    return {(str(r[0]), f"{r[1]}, {r[2]}"): (str(r[3]), str(r[4])) for r in targets_table(figures).rows}


def test_verdicts_on_the_safety_tax() -> None:
    sweeps = {
        "Task Arithmetic": _method(0.3, 0.8),
        "RegMean": _method(0.05, 0.97),
        "Iso-C": _method(None, 0.0),
        "SST-Merge": _method(
            0.03,
            0.96,
            plain=(_m(0.9, 0.6, 0.99), _m(0.16, 0.1, 0.2)),
            other=(_m(0.4, 0.1, 0.7), _m(-0.01, -0.02, 0.01)),
            lost=(None, _m(0.96, 0.9, 1.0)),
        ),
    }
    found = _verdicts({"exp1": {"one skill": {"0.9": sweeps}}})
    where = "one skill, SST-Merge"
    assert found["tax ≥ 70 % below tuned Task Arithmetic's", where] == ("0.900 [0.600, 0.990]", "point only")
    said, reached = found["tax ≥ 50 % below every other method's", where]
    assert said == "0.400 [0.100, 0.700] against RegMean; ≥ 50 % against 1 of 2 that get safe"
    assert reached == "no"
    assert found["largest hypervolume, alone", where][1] == "no"


def test_a_rival_without_tax_cannot_be_halved() -> None:
    sweeps = {
        "Task Arithmetic": _method(-0.1, 0.5),
        "SST-Merge": _method(0.1, 0.7, plain=(None, _m(0.2, 0.1, 0.3))),
    }
    found = _verdicts({"exp1": {"three skills": {"0.9": sweeps}}})
    where = "three skills, SST-Merge"
    assert found["tax ≥ 70 % below tuned Task Arithmetic's", where] == ("nothing to reduce there", "–")
    assert found["largest hypervolume, alone", where][1] == "yes"


def test_a_variant_that_is_not_judged_is_neither_judged_nor_a_rival() -> None:
    variant = "SST-Merge, Fisher utility, a part changed"
    gained = (_m(0.9, 0.8, 0.95), _m(0.2, 0.1, 0.3))
    sweeps = {
        "Task Arithmetic": _method(0.3, 0.5),
        variant: _method(0.0, 0.99, plain=gained),
        "SST-Merge": _method(0.1, 0.7, plain=gained),
    }
    above = {"RegMean": _m(0.15, 0.1, 0.2), variant: _m(-0.04, -0.06, -0.02)}
    experts = {
        label: {"retention": _m(value, value, value), "retention gained": above}
        for label, value in (("RegMean", 0.8), (variant, 0.99), ("SST-Merge", 0.95))
    }
    found = _verdicts({
        "exp1": {"three skills": {"0.9": sweeps}},
        "exp2": {"experts, 20 experts, skills alone": experts},
    })
    assert not any(variant in where for _, where in found)
    assert found["largest hypervolume, alone", "three skills, SST-Merge"][1] == "yes"
    said, _ = found["tax ≥ 50 % below every other method's", "three skills, SST-Merge"]
    assert said.endswith("≥ 50 % against 1 of 1 that get safe")
    assert found["retention above every baseline's", "20 experts, skills alone, SST-Merge"] == (
        "0.950 [0.950, 0.950], 0.150 [0.100, 0.200] against RegMean",
        "yes",
    )


def test_verdicts_on_drift_retention_and_time() -> None:
    below = {"RegMean": _m(-0.01, -0.02, 0.01)}
    experts = {
        "SST-Merge": {"retention": _m(0.91, 0.9, 0.95), "retention gained": below},
        "RegMean": {"retention": _m(0.92, 0.9, 0.95)},
    }
    small = {"SST-Merge": {"retention": _m(0.99, 0.98, 1.0)}, "RegMean": {"retention": _m(0.5, 0.4, 0.6)}}
    cost = {
        "SST-Merge": {"seconds": Figure(3.0, 2.9, 3.1, 3), "more_seconds": Figure(0.3, 0.2, 0.4, 3)},
        "SST-Merge, core inputs, refined": {
            "seconds": Figure(9.0, 8.9, 9.1, 3),
            "more_seconds": Figure(0.5, 0.4, 0.6, 3),
        },
        "DARE linear": {"seconds": Figure(0.2, 0.1, 0.3, 3), "more_seconds": Figure(0.2, 0.1, 0.3, 3)},
    }
    found = _verdicts({
        "exp1": {
            "drift, three experts": {
                "plain merging": {"drift": _m(0.9)},
                "SST-Merge": {"drift reduction": _m(0.8, 0.75, 0.85)},
            }
        },
        "exp2": {"experts, 4 experts, skills alone": small, "experts, 20 experts, skills alone": experts},
        "exp3": {"cost": cost},
    })
    assert found["drift ≥ 70 % below plain merging's", "drift, three experts, SST-Merge"][1] == "yes"
    where = "20 experts, skills alone, SST-Merge"
    assert found["retention ≥ 90 %", where] == ("0.910 [0.900, 0.950]", "yes")
    assert found["retention above every baseline's", where][1] == "no"
    assert found["merge without the Fishers ≤ 2 × DARE's time", "one skill, SST-Merge"] == (
        "0.300 s against 0.200 s, 1.50 ×",
        "yes",
    )
    assert found["merge without the Fishers ≤ 2 × DARE's time", "one skill, SST-Merge, core inputs, refined"][1] == "no"


def test_a_higher_mean_alone_is_a_point() -> None:
    experts = {
        "RegMean": {"retention": _m(0.7, 0.6, 0.8), "retention gained": {"SST-Merge": _m(-0.02, -0.1, 0.06)}},
        "SST-Merge": {"retention": _m(0.72, 0.6, 0.8), "retention gained": {"RegMean": _m(0.02, -0.06, 0.1)}},
    }
    found = _verdicts({"exp2": {"experts, 20 experts, with safety": experts}})
    assert found["retention above every baseline's", "20 experts, with safety, SST-Merge"][1] == "point only"
