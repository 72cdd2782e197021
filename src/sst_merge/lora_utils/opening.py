"""Would PEFT open these files? Its rules as data, so that an output is known to load before it gets its name.

What is read here: PEFT 0.21, ``peft_model.py`` (heads by task type), ``utils/save_and_load.py`` (which keys must be
there), ``tuners_utils.py`` (which modules become LoRA layers). PEFT itself takes seconds to import, and a model.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from ..errors import AdapterError
from .header import read_header
from .settings import CONFIG_NAME, LoraSettings, read_settings
from .whole_weights import WholeWeight, heads_of, saved_part

__all__ = ["TASK_TYPES", "check_opens", "excluding_name", "fitting_task_type"]

TASK_TYPES = ("CAUSAL_LM", "FEATURE_EXTRACTION", "QUESTION_ANS", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS")
"""What ``task_type`` may be; PEFT refuses a configuration with any other text."""

_EMBEDDINGS = ("embed_tokens", "lm_head")  # what PEFT may save along with any task


def check_opens(
    folder: Path, *, modules: Mapping[str, int] | None = None, whole: Mapping[str, WholeWeight] | None = None
) -> None:
    """Open what was just written: by our own reader, and by PEFT's rules.

    Args:
        folder: with the two files of an adapter.
        modules: canonical module name → the least rank that it must have; not compared where it is None.
        whole: whole weights that it must hold; not compared where it is None.

    Raises:
        AdapterError: the files hold something else, or PEFT could not open them.
    """
    settings = read_settings(folder)
    header = read_header(folder, settings)
    found = {name: entry.layout.rank for name, entry in header.modules.items()}
    expected = found if modules is None else modules
    smaller = {name for name, rank in expected.items() if found.get(name, 0) < rank}
    if wrong := sorted(smaller | (found.keys() - expected.keys())):
        raise AdapterError(_broken(folder, f"module {wrong[0]!r} is not in it as it was written"))
    if whole is not None and (missing := sorted(header.whole.keys() ^ whole.keys())):
        raise AdapterError(_broken(folder, f"tensor {missing[0]!r} is not in it as it was written"))
    _check_rules(folder, settings, found, header.whole)


def fitting_task_type(task_type: str | None, whole: Collection[str]) -> str | None:
    """A task type under which PEFT opens a file.

    Without a type, PEFT loads the factors alone, onto a model of any class.

    Args:
        task_type: of the adapters.
        whole: canonical names of the whole weights that the file holds.

    Returns:
        The type itself, or None where PEFT does not know it or would look for a head that is not in the file.
    """
    if task_type not in TASK_TYPES:
        return None
    heads = heads_of(task_type)
    # A head of another name (T5's classification_head) is saved where the user named it.
    others = (saved_part(name, _EMBEDDINGS) is None and ".base_layer." not in name for name in whole)
    return task_type if not heads or any(others) else None


def excluding_name(module: str, modules_to_save: Collection[str]) -> str | None:
    """The name of ``modules_to_save`` for which PEFT makes no LoRA layer of a module, or None."""
    around = f".{module}."
    return next((name for name in modules_to_save if f".{name}." in around), None)


def _check_rules(folder: Path, settings: LoraSettings, modules: Collection[str], whole: Collection[str]) -> None:
    task = settings.task_type
    if task is not None and fitting_task_type(task, whole) is None:
        missing = " or ".join(heads_of(task))
        why = f"there are no tensors of {missing}" if missing else f"PEFT knows {', '.join(TASK_TYPES)}"
        raise AdapterError(_broken(folder, f"task_type is {task!r}, but {why}"))
    for name in settings.modules_to_save:
        if not any(saved_part(tensor, (name,)) for tensor in whole):
            raise AdapterError(_broken(folder, f"modules_to_save holds {name!r}, of which there are no tensors"))
    for module in modules:
        shut_out = excluding_name(module, {*settings.modules_to_save, *heads_of(task)})
        if shut_out is not None:
            raise AdapterError(
                _broken(folder, f"module {module!r} has factors, but modules_to_save holds {shut_out!r}")
            )


def _broken(folder: Path, found: str) -> str:
    return (
        f"{folder.name}/{CONFIG_NAME}: PEFT could not open this output: {found}. Nothing was kept; please report it "
        f"with the adapters' configurations, or write it with another task type"
    )
