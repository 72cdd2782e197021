"""Where base, tokenizer and data come from: what a report records, and what the user is told of it."""

from pathlib import Path
from typing import TYPE_CHECKING

from .._version import __version__
from ..data_loader import DataSource
from ..data_loader.builtin import BUILTIN_FILES
from ..files import file_sha256
from ..hub_names import is_here
from ..merging.config import MergeConfig

if TYPE_CHECKING:
    from ..data_loader import QuantisedBase, TokenizerChoice
    from ..lora_utils import Adapter, BaseModelIndex

__all__ = ["builtin_note", "commit_of_set", "provenance", "quantised_note", "unused_revision"]


def provenance(
    config: MergeConfig,
    base: "BaseModelIndex | None",
    tokenizer: "TokenizerChoice",
    quantised: "QuantisedBase | None" = None,
) -> dict[str, object]:
    """Where base, tokenizer and data come from, for the report: what a name alone does not say.

    Args:
        config: of the merge.
        base: its layers, where they are known.
        tokenizer: what encodes the data.
        quantised: in which form the base is measured, where its weights are no plain numbers.

    Raises:
        BaseModelError: the aligned base is neither here nor on the hub.
        DataError: the hub refuses a data set.
    """
    from ..data_loader.base_files import find_base_repo

    found: dict[str, object] = {}
    if config.base_model is not None:
        found["base"] = {
            "class": None if base is None else base.class_name,
            "revision": config.access.of(config.base_model).get("revision"),
            "commit": None if base is None else base.commit,
            "trust_remote_code": config.trust_remote_code,
            "allow_pickle": config.allow_pickle,
            **({} if quantised is None else {"quantization": quantised.to_dict()}),
        }
    if config.aligned_base_model is not None and (aligned := find_base_repo(config.aligned_base_model)) is not None:
        aligned.check_readable()
        found["aligned_base"] = {"revision": aligned.name.revision, "commit": aligned.commit}
    if tokenizer.origin is not None:
        found["tokenizer"] = tokenizer.origin.to_dict()
    sources = {"harm": config.data.harm, "benign": config.data.benign}
    sources |= {f"benign of {item.label}": item.data for item in config.adapters}
    data = {
        name: {
            "dataset": source.dataset,
            "subset": source.subset,
            "split": source.split,
            "revision": source.revision,
            **({} if (commit := commit_of_set(source)) is None else {"commit": commit}),
        }
        for name, source in sources.items()
        if source is not None and source.dataset is not None
    }
    data |= {
        kind: {"builtin": file.name, "sst_merge": __version__, "sha256": file_sha256(file)}
        for kind, file in BUILTIN_FILES.items()
        if kind in config.data.builtin
    }
    return found | ({"data": data} if data else {})


def commit_of_set(source: DataSource) -> str | None:
    """The commit of a hub data set, where the hub or its cache tells.

    Raises:
        DataError: the hub says that there is none, or that it may not be read.
    """
    from ..data_loader.formats import find_set, set_name

    name = set_name(source.dataset or "", source.revision)
    found = None if name is None else find_set(name)
    if found is None:
        return None
    found.check_readable()
    return found.commit


def builtin_note(config: MergeConfig) -> tuple[str, ...]:
    """A sentence where the calibration set that ships with the package is used; it is part of the report and card."""
    if not config.data.builtin:
        return ()
    return (
        f"calibrated on the small general set that ships with SST-Merge ({' and '.join(config.data.builtin)}), which "
        f"knows nothing of your skills; prompts of your own (data.harm, data.benign) make a better merge",
    )


def quantised_note(quantised: "QuantisedBase | None", adapters: "list[Adapter]") -> tuple[str, ...]:
    """A sentence where the base is measured in another form than plain numbers.

    Args:
        quantised: its form.
        adapters: what is merged.
    """
    if quantised is None:
        return ()
    named = sorted({adapter.base_model for adapter in adapters if adapter.base_model is not None})
    who = f"the adapters name {' and '.join(map(repr, named))} and say" if named else "the adapters say"
    return (
        f"the base is read as {quantised}: what is measured on data holds the rounding of that form; {who} nothing of "
        f"the form that they were trained on",
    )


def unused_revision(base: str | None, revision: str | None) -> tuple[str, ...]:
    """A sentence where a revision is asked of a base that has none."""
    if revision is None or base is None or not is_here(base):
        return ()
    kind = "folder" if Path(base).is_dir() else "file"
    return (
        f"base_revision {revision!r} is not used: the base {base!r} is a {kind}, which is "
        f"read as it is; revisions belong to ids of the hub",
    )
