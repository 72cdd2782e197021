"""Every option of every method is explained, from one source: the class that holds it."""

from typing import Literal

import pytest
from pydantic import Field

from sst_merge.methods import MethodOptions, StrengthOptions, available_methods, option_help, option_names


@pytest.mark.parametrize("name", sorted(available_methods()))
def test_every_option_has_a_sentence_and_a_range(name: str) -> None:
    options = available_methods()[name].options
    found = option_help(options)
    assert [option.name for option in found if "." not in option.name] == list(options.model_fields)
    for option in found:
        assert len(option.meaning) > 5, f"{name}: {option.name} is not described under Attributes: of its class"
        assert option.values and "`" not in option.meaning


class Inner(MethodOptions):
    """A section.

    Attributes:
        depth: how deep.
    """

    depth: int = Field(ge=1, lt=9)


class Mine(StrengthOptions):
    """Options.

    Attributes:
        mode: ``one`` way,
            or ``two`` ways.
        inner: a section.
        share: of the parts.

    Raises:
        ValueError: never.
    """

    mode: Literal["one", "two"] = "one"
    inner: Inner | None = None
    share: float | None = Field(default=0.5, gt=0.0, le=1.0)
    told: bool = Field(default=True, description="by the field itself")


def test_sentences_defaults_and_ranges() -> None:
    found = {option.name: (option.default, option.values, option.meaning) for option in option_help(Mine)}
    assert found == {
        "strength": (1.0, "any number", "λ, multiplies the merged update."),
        "mode": ("one", "one of one, two", "one way, or two ways."),
        "inner": (None, "{depth} or null", "a section."),
        "inner.depth": (None, "a whole number, at least 1, below 9", "how deep."),
        "share": (0.5, "above 0, at most 1 or null", "of the parts."),
        "told": (True, "true or false", "by the field itself"),
    }
    assert option_names(Mine) == list(found)
