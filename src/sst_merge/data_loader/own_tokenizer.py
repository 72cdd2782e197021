"""Tokenizers that trainers save beside an adapter: read as files, compared, and chosen for data and output.

An adapter that was trained on a chat template works with that template. It is in the adapter's folder more often than
in the base's.
"""

import fnmatch
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BaseModelError
from ..hub_names import HubName, is_here
from .hub import HubOrigin, look_up

__all__ = ["TokenizerChoice", "TokenizerFolder", "choose_tokenizer", "tokenizer_files"]

_CONFIG, _FAST, _JINJA, _TEMPLATES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "chat_template.jinja",
    "additional_chat_templates",
)
_VOCABULARIES = (_FAST, "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
_OTHERS = ("merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template.json")
_NAMES = (*_VOCABULARIES, _CONFIG, _JINJA, *_OTHERS)


@dataclass(frozen=True)
class TokenizerFolder:
    """A folder that a tokenizer was saved in, without loading it.

    Attributes:
        folder: where it lies.
        files: its files, relative.
        templates: name → text of its chat templates; one without a name is ``default``.
        ends: beginning and end of a text, as far as the folder says: ``bos_token``, ``eos_token``.
        tokens: token → id, or the digest of a vocabulary in a form that is not read here; None where the folder has
            chat templates alone.
    """

    folder: Path
    files: tuple[str, ...]
    templates: Mapping[str, str]
    ends: Mapping[str, str]
    tokens: Mapping[str, int] | str | None

    @classmethod
    def read(cls, folder: Path) -> "TokenizerFolder | None":
        """Look into a folder; None where it holds no tokenizer.

        Raises:
            BaseModelError: its files cannot be read.
        """
        extra = sorted((folder / _TEMPLATES).glob("*.jinja")) if (folder / _TEMPLATES).is_dir() else []
        files = [name for name in _NAMES if (folder / name).is_file()]
        files += [f"{_TEMPLATES}/{file.name}" for file in extra]
        vocabulary = next((name for name in _VOCABULARIES if name in files), None)
        try:
            config = _read_json(folder / _CONFIG) if _CONFIG in files else {}
            templates = _templates(config.get("chat_template"))
            if _JINJA in files:
                templates["default"] = (folder / _JINJA).read_text(encoding="utf-8")
            templates |= {file.stem: file.read_text(encoding="utf-8") for file in extra}
            if vocabulary is None and not templates:
                return None
            ends = {name: _token(config.get(name)) for name in ("bos_token", "eos_token") if config.get(name)}
            tokens = None if vocabulary is None else _tokens(folder / vocabulary)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise BaseModelError(
                f"{folder}: its tokenizer cannot be read ({type(error).__name__}: {str(error)[:200]}); save it again, "
                f"or name another one with tokenizer (--tokenizer)"
            ) from error
        return cls(folder, tuple(files), templates, ends, tokens)

    def differences(self, other: "TokenizerFolder") -> list[str]:
        """In what another tokenizer differs, as parts of a sentence; of what only one of the two says nothing."""
        found = []
        if self.templates != other.templates:
            found.append("chat template")
        if self.tokens is not None and other.tokens is not None and self.tokens != other.tokens:
            if isinstance(self.tokens, Mapping) and isinstance(other.tokens, Mapping):
                count = len(self.tokens.items() ^ other.tokens.items())
                found.append(f"vocabulary ({len(self.tokens)} and {len(other.tokens)} tokens, {count} not the same)")
            else:
                found.append("vocabulary")
        found += [name for name in sorted(self.ends.keys() & other.ends) if self.ends[name] != other.ends[name]]
        return found


@dataclass(frozen=True)
class TokenizerChoice:
    """What texts are encoded with, and what the output gets.

    Attributes:
        reference: folder or hub id of the tokenizer; None for the base's own.
        templates: name → text of chat templates that replace its own; empty where they stay.
        files: name in the output → file that is copied there.
        warnings: sentences for the user.
        origin: repository and commit of the hub that a tokenizer by name was fetched from.
    """

    reference: str | None = None
    templates: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    origin: HubOrigin | None = None


def choose_tokenizer(adapters: Mapping[str, Path], *, base: str | None, given: str | None) -> TokenizerChoice:
    """Decide between the tokenizers of the base and of the adapters' folders, without loading any.

    Args:
        adapters: name → folder.
        base: folder or hub id of the base model; of a hub id, what was fetched before is looked at.
        given: folder or hub id that the user named, which wins; of a hub id the tokenizer's files are fetched.

    Returns:
        The one that was given; else the adapters' own where all that have one agree; else the base's, and none for the
        output.

    Raises:
        BaseModelError: what was given holds no tokenizer, is neither here nor on the hub, or cannot be fetched.
    """
    if given is not None:
        return _given(given)
    own: dict[str, TokenizerFolder] = {}
    warnings = []
    for name, folder in adapters.items():
        try:
            found = TokenizerFolder.read(folder)
        except BaseModelError as error:
            warnings.append(f"adapter {name!r}: {error}; it is not used")
            continue
        if found is not None:
            own[name] = found
    if not own:
        return TokenizerChoice(warnings=tuple(warnings))
    (first, chosen), *others = own.items()
    for name, other in others:
        if differences := chosen.differences(other):
            warnings.append(
                f"adapters {first!r} and {name!r} bring tokenizers that differ in {' and '.join(differences)}: the "
                f"base's own is used for data, and the output gets none; choose one with tokenizer (--tokenizer "
                f"{chosen.folder})"
            )
            return TokenizerChoice(warnings=tuple(warnings))
    # Of several that agree, one with a vocabulary says more than one with a chat template alone.
    chosen = next((found for found in own.values() if found.tokens is not None), chosen)
    beside = _of_base(base)
    if beside is not None and (differences := chosen.differences(beside)):
        warnings.append(
            f"the tokenizer in the folder of adapter {first!r} differs from the base's in {' and '.join(differences)}; "
            f"the adapter's is used for data and written to the output (another one: tokenizer, --tokenizer)"
        )
    files = {name: chosen.folder / name for name in chosen.files}
    if chosen.tokens is None:
        # Without a vocabulary the rest would make loaders believe that there is a whole tokenizer.
        files = {name: file for name, file in files.items() if file.suffix == ".jinja"}
        return TokenizerChoice(None, chosen.templates, files, tuple(warnings))
    return TokenizerChoice(str(chosen.folder), {}, files, tuple(warnings))


def tokenizer_files(names: Collection[str]) -> list[str]:
    """Those of some files that belong to a tokenizer saved beside them."""
    return [name for name in names if name in _NAMES or fnmatch.fnmatch(name, f"{_TEMPLATES}/*.jinja")]


def _given(given: str) -> TokenizerChoice:
    if not is_here(given):
        return _on_hub(given)
    folder = Path(given)
    found = TokenizerFolder.read(folder)
    if found is None or found.tokens is None:
        raise BaseModelError(
            f"tokenizer: {given} holds no tokenizer; expected a folder with {', '.join(_VOCABULARIES)}"
        )
    return TokenizerChoice(given, {}, {name: folder / name for name in found.files})


def _on_hub(given: str) -> TokenizerChoice:
    name = HubName.parse(given, single=True)
    if name is None:
        raise BaseModelError(
            f"tokenizer {given!r}: there is no such folder here, and it is no name of the hub (user/name, "
            f"user/name@revision, user/name/folder); check the path"
        )

    def refusal(said: str) -> BaseModelError:
        return BaseModelError(
            f"tokenizer {given!r}: there is no such folder here, and on the hub: {said}. Without tokenizer "
            f"(--tokenizer) the adapters' own is taken where they agree, else the base's"
        )

    repo = look_up(name, refusal)
    start = f"{name.subfolder}/" if name.subfolder else ""
    wanted = tokenizer_files(repo.inside(name.subfolder))
    if not any(file in _VOCABULARIES for file in wanted):
        # transformers may know a kind that is not read here.
        where = "there" if repo.reached else "in the cache"
        said = (
            f"tokenizer {given!r}: {where} is none of {', '.join(_VOCABULARIES)}, so the output gets no copy of it; "
            f"data are encoded with it as far as transformers can load it"
        )
        return TokenizerChoice(given, warnings=(said,))
    snapshot = repo.fetch([f"{start}{file}" for file in wanted])
    folder, origin = snapshot / name.subfolder, repo.origin(snapshot, name.subfolder)
    found = TokenizerFolder.read(folder)
    assert found is not None, "its vocabulary was fetched"
    return TokenizerChoice(given, {}, {file: folder / file for file in found.files}, (), origin)


def _of_base(base: str | None) -> TokenizerFolder | None:
    if base is None:
        return None
    folder = Path(base)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        name = HubName.parse(base, single=True)
        if name is None:
            return None
        cached = try_to_load_from_cache(name.repo, f"{name.subfolder}/{_CONFIG}".lstrip("/"), revision=name.revision)
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
    try:
        return TokenizerFolder.read(folder)
    except BaseModelError:  # loading it, where it is needed, says so
        return None


def _read_json(file: Path) -> Any:
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError(f"{file.name} is a JSON {type(content).__name__}, expected an object")
    return content


def _templates(value: Any) -> dict[str, str]:
    """A template, or several as transformers saves them: a list of names and texts."""
    if not value:
        return {}
    if isinstance(value, str):
        return {"default": value}
    named = value.items() if isinstance(value, dict) else [(item["name"], item["template"]) for item in value]
    return {str(name): str(text) for name, text in named}


def _token(value: Any) -> str:
    return str(value["content"] if isinstance(value, dict) else value)


def _tokens(file: Path) -> Mapping[str, int] | str:
    """The vocabulary of a fast tokenizer with all added tokens, the digest of any other file."""
    if file.name != _FAST:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    content = _read_json(file)
    pieces = content["model"]["vocab"]
    tokens = dict(pieces) if isinstance(pieces, dict) else {piece: i for i, (piece, *_) in enumerate(pieces)}
    return tokens | {added["content"]: added["id"] for added in content.get("added_tokens") or ()}
