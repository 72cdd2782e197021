"""A base in a GGUF file: the numbers that are loaded, the configuration without them, and what is refused in front."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sst_merge.data_loader import BaseAccess, load_base_model, load_tokenizer, quantised_base
from sst_merge.data_loader.base_model import check_weights
from sst_merge.errors import BaseModelError, ConfigError
from sst_merge.lora_utils import BaseModelIndex

gguf = pytest.importorskip("gguf", reason="GGUF files are read by the package gguf (sst-merge[gguf])")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("named", ["file", "folder"])
def test_the_loaded_model_is_the_file_turned_back_into_numbers(gguf_model: Any, named: str) -> None:
    """Oracle: every tensor unpacked by the package gguf, llama.cpp's order of rows undone, in a model of its own."""
    file, plain = gguf_model
    access = BaseAccess(gguf_file=file.name) if named == "folder" else BaseAccess()
    loaded = load_base_model(str(file.parent if named == "folder" else file), access=access)
    assert loaded.dtype == torch.float32
    ids = torch.arange(40).reshape(2, 20) * 7
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, plain(ids).logits)


def test_layers_tokenizer_and_form_are_known_without_weights(gguf_model: Any) -> None:
    file, plain = gguf_model
    index, expected = BaseModelIndex.load(file), BaseModelIndex.of(plain)
    assert index.modules == expected.modules and index.name == str(file)
    tokenizer = load_tokenizer(str(file))
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab c")["input_ids"])[-3:] == ["ab", "Ġ", "c"]
    found = quantised_base(file)
    assert found is not None and found.fields["types"] == {"F32": 5, "Q4_0": 2, "Q8_0": 14}
    assert str(found) == "GGUF of Q4_0/Q8_0 (tiny-Q8_0.gguf)"
    assert load_base_model(str(file), dtype="bfloat16").dtype == torch.bfloat16


def test_what_is_no_whole_model_is_refused_before_it_is_loaded(build: Any, gguf_model: Any, tmp_path: Path) -> None:
    model, source = build.model_of_blocks(), gguf_model.file.read_bytes()
    for more, said in (({"general_type": "adapter"}, "of type 'adapter'"), ({"split_count": 3}, "one of 3 parts")):
        build.write_gguf_model(model, tmp_path / "other.gguf", **more)
        with pytest.raises(BaseModelError, match=said):
            check_weights(str(tmp_path / "other.gguf"))
    (tmp_path / "cut.gguf").write_bytes(source[:2000])
    with pytest.raises(BaseModelError, match="cannot be read as a GGUF file of a model"):
        check_weights(str(tmp_path / "cut.gguf"))
    (tmp_path / "new.gguf").write_bytes(source.replace(b"llama", b"xlama"))
    with pytest.raises(BaseModelError, match="no configuration of its GGUF header"):
        BaseModelIndex.load(tmp_path / "new.gguf")
    model.model.layers[1].mlp.gate_proj.weight = None
    build.write_gguf_model(model, tmp_path / "less.gguf")
    with pytest.raises(BaseModelError, match=r"no weights for model\.layers\.1\.mlp\.gate_proj\.weight \(of 1"):
        load_base_model(str(tmp_path / "less.gguf"))


def test_types_that_cannot_be_unpacked_are_refused(tmp_path: Path) -> None:
    """Q8_K holds intermediate results of llama.cpp's; the package has no way back from it."""
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "llama")
    kind = gguf.GGMLQuantizationType.Q8_K
    size = gguf.GGML_QUANT_SIZES[kind][1]
    writer.add_tensor("output.weight", np.zeros((1, size), dtype=np.uint8), raw_dtype=kind)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    with pytest.raises(BaseModelError, match="1 of its tensors are Q8_K, which the installed gguf cannot turn back"):
        check_weights(str(tmp_path / "odd.gguf"))


def test_wrong_names_and_contradictions_are_told(gguf_model: Any, tmp_path: Path, monkeypatch: Any) -> None:
    folder, file = gguf_model.file.parent, str(gguf_model.file)
    with pytest.raises(BaseModelError, match=r"no file 'x\.gguf' \(gguf_file\); GGUF files there: tiny-Q8_0\.gguf"):
        quantised_base(folder, BaseAccess(gguf_file="x.gguf"))
    with pytest.raises(BaseModelError, match=r"GGUF files there: tiny-Q8_0\.gguf: name one with gguf_file"):
        quantised_base(folder)
    with pytest.raises(ConfigError, match="is a GGUF file itself; give one of them"):
        quantised_base(file, BaseAccess(gguf_file="x.gguf"))
    with pytest.raises(BaseModelError, match="loaded as it was quantised, and quantization asks for more"):
        quantised_base(file, BaseAccess(quantization="4bit"))
    with pytest.raises(BaseModelError, match="no such folder or GGUF file"):
        quantised_base(tmp_path / "nowhere.gguf")
    with pytest.raises(BaseModelError, match="no such folder or GGUF file"):
        quantised_base("models/nowhere.gguf")
    again = tmp_path / "again.gguf"
    again.write_bytes(gguf_model.file.read_bytes())
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BaseModelError, match=r"read by the package gguf, which is not installed; run: pip install"):
        BaseModelIndex.load(again)


@pytest.mark.parametrize(("name", "file"), [("org/tiny-GGUF/q/m.gguf", None), ("org/tiny-GGUF/q", "m.gguf")])
def test_a_file_on_the_hub_is_fetched_alone(hub: Any, gguf_model: Any, tmp_path: Path, name: str, file: Any) -> None:
    files = {f"q/{one}": gguf_model.file.read_bytes() for one in ("m.gguf", "other.gguf")}
    hub.add("org/tiny-GGUF", files)
    access = BaseAccess(gguf_file=file)
    index = BaseModelIndex.load(name, access=access)
    assert index.name == "org/tiny-GGUF/q/m.gguf" and index.commit is not None
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(load_base_model(name, access=access)(ids).logits, gguf_model.plain(ids).logits)
    assert [one.name for one in (tmp_path / "hub-cache").rglob("*.gguf")] == ["m.gguf"]
    with pytest.raises(BaseModelError, match=r"has no file 'x\.gguf'; GGUF files there: m\.gguf, other\.gguf"):
        quantised_base("org/tiny-GGUF/q", BaseAccess(gguf_file="x.gguf"))
