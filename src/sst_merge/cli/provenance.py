"""Where base, tokenizer and data come from: what a report records, and what the user is told of it."""

from pathlib import Path
from typing import TYPE_CHECKING

from .._version import __version__
from ..data_loader import DataSource
from ..data_loader.builtin import BUILTIN_FILES
from ..files import file_sha256
from ..merging.config import MergeConfig

if TYPE_CHECKING:
    from ..data_loader import TokenizerChoice
    from ..lora_utils import BaseModelIndex

__all__ = ["builtin_note", "commit_of_set", "provenance", "unused_revision"]


def provenance(config: MergeConfig, base: "BaseModelIndex | None", tokenizer: "TokenizerChoice") -> dict[str, object]:
    """Where base, tokenizer and data come from, for the report: what a name alone does not say.

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


def unused_revision(base: str | None, revision: str | None) -> tuple[str, ...]:
    """A sentence where a revision is asked of a base that has none."""
    if revision is None or base is None or not Path(base).is_dir():
        return ()
    return (
        f"base_revision {revision!r} is not used: the base {base!r} is a folder, which is "
        f"read as it is; revisions belong to ids of the hub",
    )
