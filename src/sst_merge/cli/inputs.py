"""From a configuration to adapters, model and batches in memory."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .._version import __version__
from ..data_loader import DataSource
from ..data_loader.builtin import BUILTIN_FILES
from ..errors import BaseModelError, ConfigError, DataError
from ..files import file_sha256
from ..hub_names import is_here
from ..merging.config import MergeConfig
from .console import warn
from .together import Faults

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..data_loader import Batch, QuantisedBase, Row, TokenizerChoice
    from ..lora_utils import Adapter, BaseModelIndex
    from ..merging import MergeInputs
    from ..methods import Needs

__all__ = [
    "ReadData",
    "builtin_note",
    "commit_of_set",
    "load_adapters",
    "load_base_index",
    "load_inputs",
    "load_model_and_data",
    "needs_of",
    "own_tokenizer",
    "provenance",
    "quantised_note",
    "read_data",
    "unused_revision",
]


def load_adapters(config: MergeConfig, *, headers_only: bool = False) -> "list[Adapter]":
    """Open every adapter of the configuration; reads headers.

    Args:
        config: names the adapters.
        headers_only: leave the weights of adapters on the hub there.

    Raises:
        AdapterError: one cannot be read.
        ConfigError: a module to leave out that no adapter has.
    """
    from ..lora_utils import Adapter, Conversion
    from ..lora_utils.wrappers import plain_key

    adapters = []
    faults = Faults()
    for item in config.adapters:
        with faults.collected():
            adapters.append(
                Adapter.load(
                    item.reference,
                    name=item.label,
                    role=item.role,
                    weight=item.weight,
                    drop_modules_to_save=config.drop_modules_to_save,
                    leave_out=config.leave_out,
                    headers_only=headers_only,
                    looked_at=item.path,
                    conversion=Conversion(
                        config.base_model,
                        config.convert_rank,
                        config.convert_lost,
                        config.access,
                        None if item.initial is None else str(item.initial),
                        config.allow_pickle,
                    ),
                )
            )
    faults.tell()
    for name in config.leave_out:
        if not any(f".{name}." in plain_key(key) for adapter in adapters for key in adapter.left_out):
            raise ConfigError(
                f"leave_out: no adapter has a module {name!r}; expected a module's name, or the end of one"
            )
    return adapters


def load_base_index(
    config: MergeConfig, adapters: "list[Adapter]", *, needed: bool
) -> "tuple[BaseModelIndex | None, list[str]]":
    """Layers of the base model to check the adapters against, as far as there is one.

    Args:
        config: may name a base; the adapters' own is taken where it does not and that is a folder here.
        adapters: what is merged.
        needed: whether the method runs the base or reads its weights.

    Returns:
        The layers, or None with a sentence about why the adapters were not checked. A base that was only found beside
        the adapters is a help and never a reason to refuse.

    Raises:
        BaseModelError: the base that is needed cannot be built, or the one that was given is no model.
    """
    from ..lora_utils import BaseModelIndex, check_against_base, exists_here, hub_id, spelled_alike

    modules = {module for adapter in adapters for module in adapter.modules}
    types = {adapter.task_type for adapter in adapters if adapter.task_type is not None}
    task_type = types.pop() if len(types) == 1 else None
    given = config.base_model
    if given is not None:
        try:
            index = BaseModelIndex.load(
                given, modules=modules, task_type=task_type, generative=needed, access=config.access
            )
        except BaseModelError as error:
            if needed or not (exists_here(given) or hub_id(config.access.repo(given))):
                raise
            return None, [_unchecked(given, error)]
        return index, []
    named = {adapter.base_model for adapter in adapters if adapter.base_model is not None}
    found = next((name for name in sorted(named) if exists_here(name)), None)
    if found is None:
        return None, []
    try:
        index = BaseModelIndex.load(found, modules=modules, task_type=task_type)
        for adapter in spelled_alike(adapters, index.adaptable)[0]:
            check_against_base(adapter, index)
    except BaseModelError as error:
        return None, [_unchecked(found, error)]
    return index, []


def needs_of(config: MergeConfig) -> "Needs":
    """What the configuration's method must be given, with its options."""
    from ..methods import get_method, parse_options

    method = get_method(config.method)
    return method.needs_for(parse_options(method, config.merge.options))


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


def _loaded(choice: "TokenizerChoice", config: MergeConfig) -> "PreTrainedTokenizerBase":
    """The tokenizer that was chosen. One that was only found beside an adapter gives way where it cannot be loaded.

    Raises:
        BaseModelError: the one that was given, or the base's, cannot be loaded.
    """
    from ..data_loader import load_tokenizer

    assert config.base_model is not None, "checked by the caller"
    if choice.reference is not None:
        try:
            # Revision and form are the base's; another repository has its own.
            return load_tokenizer(
                choice.reference, access=replace(config.access, revision=None, gguf_file=None, quantization=None)
            )
        except BaseModelError as error:
            if config.tokenizer is not None:
                raise
            warn(f"the base's own tokenizer is used for data: {error}")
    encoder = load_tokenizer(config.base_model, access=config.access)
    if choice.templates:
        encoder.chat_template = dict(choice.templates)
    return encoder


def _unchecked(base: str, error: BaseModelError) -> str:
    return f"the adapters were not checked against the layers of {base!r}, which this method does not need: {error}"


def own_tokenizer(config: MergeConfig, adapters: "list[Adapter]") -> "TokenizerChoice":
    """Whose tokenizer encodes the data and goes into the output; no tokenizer is loaded."""
    from ..data_loader import choose_tokenizer

    folders = {adapter.name: adapter.path for adapter in adapters if adapter.path is not None}
    base = config.base_model or next((a.base_model for a in adapters if a.base_model is not None), None)
    return choose_tokenizer(folders, base=base, given=config.tokenizer)


def load_inputs(
    config: MergeConfig, needs: "Needs", device: str, *, modules: Collection[str], tokenizer: "TokenizerChoice"
) -> "MergeInputs":
    """Load what a method needs, and nothing else.

    Args:
        config: names the base and the data.
        needs: of the method.
        device: where the model goes.
        modules: that the adapters touch; they decide which class of transformers the base is.
        tokenizer: what encodes the data.

    Raises:
        ConfigError: an aligned base without a base to compare it with.
    """
    from ..data_loader import base_folder
    from ..lora_utils import BaseWeights
    from ..merging import MergeInputs

    loaded = (
        load_model_and_data(config, device, modules=modules, tokenizer=tokenizer)
        if needs.data or needs.base
        else MergeInputs()
    )
    if not needs.aligned_base or config.aligned_base_model is None:
        return loaded
    if config.base_model is None:
        raise ConfigError("base_model: missing; aligned_base_model is compared with it, so give it too")
    return replace(
        loaded,
        base_weights=BaseWeights.load(base_folder(config.base_model, config.access)),
        aligned_weights=BaseWeights.load(base_folder(config.aligned_base_model)),
    )


def load_model_and_data(
    config: MergeConfig, device: str, *, modules: Collection[str], tokenizer: "TokenizerChoice"
) -> "MergeInputs":
    """Read and tokenise the calibration data, then load the base model: what is cheap to refuse comes first.

    Args:
        config: names the base and the data.
        device: where the model goes.
        modules: that the adapters touch.
        tokenizer: what encodes the data.

    Raises:
        ConfigError: no base model.
        DataError: the tokenizer knows tokens that the model has no embedding of.
    """
    if config.base_model is None:
        raise ConfigError("base_model: missing; a command that reads data needs the base model's folder or hub id")
    from ..data_loader import load_base_model
    from ..judges import GreedyRefusals
    from ..merging import MergeInputs

    found_data = read_data(config, tokenizer)
    for note in found_data.notes:
        warn(note)
    encoder, own_batches = found_data.encoder, found_data.own
    batches = {"harm": found_data.harm, "benign": found_data.benign}
    model = load_base_model(
        config.base_model,
        modules=modules,
        dtype=config.model_dtype,
        device=device,
        device_map=config.device_map,
        access=config.access,
    )
    weight = model.get_input_embeddings().weight
    where = weight.device
    largest = max(
        (int(batch.input_ids.max()) for found in (*batches.values(), *own_batches.values()) for batch in found),
        default=0,
    )
    if largest >= weight.shape[0]:
        raise DataError(
            f"tokenizer {encoder.name_or_path!r} gives the token {largest}, the base {config.base_model!r} has "
            f"{weight.shape[0]} embeddings: it was made for a base with more tokens. Name the base's own: tokenizer "
            f"(--tokenizer {config.base_model})"
        )

    def moved(found: "list[Batch]") -> "list[Batch]":
        return [batch.to(where) for batch in found]

    return MergeInputs(
        model=model,
        harm=moved(batches["harm"]),
        benign=moved(batches["benign"]),
        adapter_benign={name: moved(found) for name, found in own_batches.items()},
        notes=found_data.notes,
        refuses=GreedyRefusals(encoder),
    )


@dataclass(frozen=True)
class ReadData:
    """Calibration data, encoded, on the CPU.

    Attributes:
        encoder: the tokenizer.
        harm: batches of harmful prompts.
        benign: batches of benign prompts.
        own: adapter → batches of its own benign prompts.
        notes: sentences about how the rows were read.
    """

    encoder: "PreTrainedTokenizerBase"
    harm: "list[Batch]"
    benign: "list[Batch]"
    own: "dict[str, list[Batch]]"
    notes: tuple[str, ...]


def read_data(config: MergeConfig, tokenizer: "TokenizerChoice") -> ReadData:
    """Read and tokenise the calibration data.

    Args:
        config: names the data, and a base.
        tokenizer: what encodes them.

    Raises:
        DataError: rows cannot be read or encoded.
        BaseModelError: the tokenizer cannot be loaded.
    """
    from ..data_loader import encode_rows, read_rows

    notes: list[str] = []

    def read(source: DataSource | None) -> "tuple[DataSource, list[Row]] | None":
        if source is None:
            return None
        found = read_rows(source, seed=config.seed)
        notes.extend(found.notes)
        return source, found.rows

    harm, benign = read(config.data.harm), read(config.data.benign)
    own = {item.label: read(item.data) for item in config.adapters if item.data is not None}
    encoder = _loaded(tokenizer, config)

    def encoded(found: "tuple[DataSource, list[Row]] | None") -> "list[Batch]":
        if found is None:
            return []
        source, rows = found
        size = config.data.batch_size
        return encode_rows(
            rows,
            encoder,
            template=source.template,
            template_name=source.template_name,
            max_length=source.max_length,
            batch_size=size,
        )

    own_batches = {name: encoded(found) for name, found in own.items()}
    return ReadData(encoder, encoded(harm), encoded(benign), own_batches, tuple(notes))
