"""Which name of its base an output carries."""

from pathlib import Path

import pytest
from huggingface_hub.utils import HFValidationError, validate_repo_id

from sst_merge.lora_utils import hub_id, written_base

IDS = ["gpt2", "meta-llama/Llama-2-7b-chat-hf", "unsloth/llama-3-8b-bnb-4bit", "_org/x.1", "Qwen/Qwen2.5-0.5B"]
PATHS = ["/models/llama", "./llama", "../llama", "~/llama", "a/b/c", "models/llama/", "C:\\models\\llama", "a--b", "x."]


@pytest.mark.parametrize("name", [*IDS, *PATHS])
def test_ids_are_what_the_hub_takes(name: str) -> None:
    assert (hub_id(name) == name) == (name in IDS)
    if name in IDS:
        validate_repo_id(name)
    else:
        with pytest.raises(HFValidationError):
            validate_repo_id(name)


def test_the_first_name_that_means_something_is_written(tmp_path: Path) -> None:
    here, dead = tmp_path / "here", str(tmp_path / "dead")
    here.mkdir()
    (here / "config.json").write_text("{}")
    cache = f"{tmp_path}/hub/models--meta-llama--Llama-2-7b-hf/snapshots/0123abc"
    assert written_base(["org/base", dead], "given") == ("org/base", [])
    assert written_base([dead, str(here)], "given") == (str(here), [])
    assert written_base([None, None], None) == (None, [])
    assert written_base([], "given") == ("given", [])
    name, (said,) = written_base([dead], "org/given")
    assert name == "org/given" and repr(dead) in said
    name, (said,) = written_base([cache], None)
    assert name == "meta-llama/Llama-2-7b-hf" and "is not on this machine" in said
    assert written_base([cache.replace("meta-llama--Llama-2-7b-hf", "gpt2")], None)[0] == "gpt2"
    name, (said,) = written_base([dead, None], None)
    assert name is None and "--base-model" in said


@pytest.mark.parametrize("odd", ["\x00", "a" * 5000, "", "x\ny"])
def test_names_that_no_file_system_takes(odd: str) -> None:
    assert written_base([odd], None)[0] is None
