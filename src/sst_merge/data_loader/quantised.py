"""How a base's weights are stored or will be loaded: known from its configuration, refused where it cannot work."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import BaseModelError, ConfigError
from ..texts import did_you_mean
from .access import PLAIN, BaseAccess
from .gguf_base import gguf_path, gguf_types
from .model_class import first_line, read_base_config

__all__ = ["QuantisedBase", "load_options", "quantised_base", "require_loadable", "require_plain"]

# Where transformers itself names one of several packages, or a GPU in its place.
_PACKAGES = {
    "awq": {"gptqmodel": "pip install gptqmodel"},
    "bitsandbytes": {"bitsandbytes": "pip install 'sst-merge[bnb]'"},
    "compressed-tensors": {"compressed_tensors": "pip install compressed-tensors"},
    "gptq": {"optimum": "pip install optimum", "gptqmodel": "pip install gptqmodel"},
}


@dataclass(frozen=True)
class QuantisedBase:
    """A base whose weights are not plain numbers.

    Attributes:
        method: ``gguf``, or as transformers calls it: ``bitsandbytes``, ``gptq``, ``awq``, ...
        stored: whether the files hold it so; False where it is made while loading.
        fields: of transformers' ``quantization_config``, with the kernels that are asked for here; of a GGUF file
            ``file`` and how many tensors have which type.
        dtype: type of torch that its configuration names for what is not quantised; None where it names none.
    """

    method: str
    stored: bool
    fields: Mapping[str, Any]
    dtype: Any = None

    @property
    def bits(self) -> float | None:
        """Bits of one weight in memory with its scales, about; None where that is not known."""
        named = {"load_in_4bit": 4, "load_in_8bit": 8}
        found = next((bits for name, bits in named.items() if self.fields.get(name)), self.fields.get("bits"))
        return float(found) + 0.5 if isinstance(found, int) else None

    @property
    def shown_bits(self) -> str:
        """How many bits, behind the method's name."""
        return "" if self.bits is None else f", {self.bits - 0.5:g} bits"

    def to_dict(self) -> dict[str, Any]:
        """As the report records it."""
        # ``dataset`` may hold all texts that GPTQ was calibrated on.
        shown = {name: value for name, value in self.fields.items() if name != "dataset"}
        return {"method": self.method, "stored": self.stored, **shown}

    def __str__(self) -> str:
        if self.method == "gguf":
            types = [name for name in self.fields["types"] if name not in {"F32", "F16", "BF16"}]
            return f"GGUF of {'/'.join(types) or 'plain numbers'} ({self.fields['file']})"
        kind = self.fields.get("bnb_4bit_quant_type") if self.fields.get("load_in_4bit") else None
        made = "" if self.stored else ", made while loading"
        return f"{self.method}{self.shown_bits}{'' if kind is None else f', {kind}'}{made}"


def quantised_base(reference: str | Path, access: BaseAccess = PLAIN) -> QuantisedBase | None:
    """How a base's weights will come into memory; None for plain numbers. No weight is read.

    Args:
        reference: folder or hub id, or a GGUF file of either.
        access: may name a GGUF file, or ask for a quantisation.

    Raises:
        BaseModelError: there is no such base, or its files and what is asked for contradict each other.
        ConfigError: a quantisation with fields that transformers does not know, also beside stored ones.
    """
    asked = access.quantization
    if (file := gguf_path(reference, access)) is not None:
        if asked is not None:
            raise BaseModelError(
                f"base model {str(reference)!r}: {file.name} is loaded as it was quantised, and quantization asks for "
                f"more; leave quantization out, or give the model as safetensors"
            )
        return QuantisedBase("gguf", True, {"file": file.name, "types": gguf_types(file)})
    config = read_base_config(reference, access)
    text = config.get_text_config(decoder=True)
    stored = getattr(config, "quantization_config", None) or getattr(text, "quantization_config", None)
    fields = stored if isinstance(stored, dict) else stored.to_dict() if stored is not None else None
    if fields is not None:
        there = QuantisedBase(_method(fields), True, dict(fields), getattr(config, "dtype", None))
        wanted = QuantisedBase(_method(_fields(asked, None)), False, _fields(asked, None)) if asked else there
        if wanted.method != there.method or wanted.bits not in {None, there.bits}:
            kept, other = there.method, wanted.method
            if kept == other:
                kept, other = kept + there.shown_bits, other + wanted.shown_bits
            raise BaseModelError(
                f"base model {str(reference)!r}: its weights are stored as {kept} (config.json), and quantization "
                f"asks for {other}; leave quantization out, or give the unquantised model"
            )
        way = _way_of_computing(there.method)
        if asked:
            _config_of({name: value for name, value in wanted.fields.items() if name not in way})
            way |= {name: value for name, value in wanted.fields.items() if name in way}
        return replace(there, fields={**there.fields, **way})
    if asked is None:
        return None
    known = _config_of(_fields(asked, None)).to_dict()
    shown = {name: value for name, value in known.items() if name[0] != "_" and value is not None}
    return QuantisedBase(_method(known), False, shown, getattr(config, "dtype", None))


def require_loadable(reference: str | Path, access: BaseAccess = PLAIN) -> QuantisedBase | None:
    """Refuse a quantised base that the installed packages cannot load; no weight is read.

    Args:
        reference: as for :func:`quantised_base`.
        access: as there.

    Returns:
        What was found.

    Raises:
        BaseModelError: as there, or a package or device is missing.
    """
    found = quantised_base(reference, access)
    if found is None or found.method == "gguf":
        return found
    what = f"base model {str(reference)!r}: its weights are {'stored as' if found.stored else 'to be'} {found.method}"
    for package, command in _PACKAGES.get(found.method, {}).items():
        if find_spec(package) is None:
            raise BaseModelError(f"{what}, which needs the package {package}; run: {command}. Or give the plain model")
    from transformers.quantizers import AutoHfQuantizer

    try:
        quantizer = AutoHfQuantizer.from_config(dict(found.fields), pre_quantized=found.stored)
        quantizer.validate_environment(device_map=None, weights_only=True)
    # Other people's code: what it raises here it raises in front of the weights.
    except Exception as error:
        raise BaseModelError(
            f"{what}, which transformers cannot load here ({first_line(error)}); do what it asks for, or give the "
            f"plain model"
        ) from error
    return found


def require_plain(reference: str | Path, access: BaseAccess, why: str) -> None:
    """Refuse a base whose weights are no plain numbers, where those are read themselves.

    Args:
        reference: as for :func:`quantised_base`.
        access: as there.
        why: what reads them, the beginning of a sentence.

    Raises:
        BaseModelError: it is quantised, or as :func:`quantised_base`.
    """
    found = quantised_base(reference, access)
    if found is not None:
        raise BaseModelError(
            f"{why}, and base model {str(reference)!r} is {found}; give the plain model as safetensors"
        )


def load_options(found: QuantisedBase, access: BaseAccess, dtype: Any) -> dict[str, Any]:
    """Keywords of ``from_pretrained`` for a quantised base, beside type and place.

    Args:
        found: what it is.
        access: what was asked for.
        dtype: type of torch that products are taken in where 4 bits are asked for without one; None for the one that
            the base's configuration names.
    """
    import transformers

    if found.method == "gguf":
        made = getattr(transformers, "GgufConfig", None)
        # Kernels that compute on the blocks themselves have no gradients.
        return {} if made is None else {"quantization_config": made(dequantize=True)}
    if found.stored and _way_of_computing(found.method):
        from transformers.quantizers.auto import AutoQuantizationConfig

        return {"quantization_config": AutoQuantizationConfig.from_dict(dict(found.fields))}
    if access.quantization is None:
        return {}
    return {"quantization_config": _config_of(_fields(access.quantization, dtype or found.dtype))}


def _way_of_computing(method: str) -> dict[str, Any]:
    """Fields that a loader alone reads, for layers whose gradients with respect to their inputs are right.

    The fastest kernels of GPTQ and AWQ have none. Layers of compressed-tensors may round their inputs, through which
    gradients vanish; their weights become plain numbers at the first call in any case.
    """
    if method in {"gptq", "awq"}:
        return {"backend": "auto_trainable"}
    if method == "compressed-tensors":
        from transformers import CompressedTensorsConfig

        newer = "dequantize" in inspect.signature(CompressedTensorsConfig.__init__).parameters
        return {"dequantize": True} if newer else {"run_compressed": False}
    return {}


def _fields(asked: Any, dtype: Any) -> dict[str, Any]:
    """Fields of a quantisation that may be given as a word; QLoRA's type of numbers where it is one."""
    if asked == "4bit":
        compute = {} if dtype is None else {"bnb_4bit_compute_dtype": dtype}
        return {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", **compute}
    return {"load_in_8bit": True} if asked == "8bit" else dict(asked)


def _method(fields: Mapping[str, Any]) -> str:
    found = fields.get("quant_method")
    if fields.get("load_in_4bit") or fields.get("load_in_8bit"):
        return "bitsandbytes"
    return str(getattr(found, "value", found))


def _config_of(fields: Mapping[str, Any]) -> Any:
    """Transformers' own configuration of a quantisation.

    Raises:
        ConfigError: fields that it does not know, or values that it refuses.
    """
    from transformers.quantizers.auto import AutoQuantizationConfig

    try:
        made = AutoQuantizationConfig.from_dict(dict(fields))
        known = set(made.to_dict())
    except Exception as error:
        raise ConfigError(
            f"quantization: {dict(fields)} is refused by transformers ({first_line(error)}); expected 4bit, 8bit, or "
            f"fields of its quantization_config, such as {{load_in_4bit: true, bnb_4bit_quant_type: nf4}}"
        ) from error
    unknown = sorted(set(fields) - known)
    if unknown:
        close = did_you_mean(unknown[0], known) or f"; known are {', '.join(sorted(known))}"
        raise ConfigError(f"quantization.{unknown[0]}: unknown field of {type(made).__name__}{close}")
    return made
