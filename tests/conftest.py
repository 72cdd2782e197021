"""What tests of several rooms share: tiny models and adapters, the lab, a package of somebody else, a script."""

import copy
import fcntl
import gc
import importlib.util
import json
import os
import random
import re
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import settings
from packaging.version import Version
from tests.costs import Meter
from tests.gguf_models import GgufModel, write_gguf_model
from torch import Tensor, nn

from sst_merge.errors import SandboxError
from sst_merge.lora_utils import Adapter, LoraFactors

if TYPE_CHECKING:
    from sst_merge.evaluation import ModelSettings, Record
    from sst_merge.worlds.lab import Lab

# No test is timed by the wall, and everybody's run of the suite tries the same cases; `make fuzz` draws new ones.
settings.register_profile("suite", deadline=None, derandomize="SST_MERGE_FUZZ" not in os.environ)
settings.load_profile("suite")

ROOT = Path(__file__).resolve().parents[1]

# No test needs the hub. Without this a model that is missing is asked for there several times, with pauses.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The libraries keep a million objects, which Python by default looks through again after few new ones. Those that are
# there before the first test stay: they are never looked through.
gc.disable()
gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """All tests are collected; from here on new objects are looked through."""
    gc.freeze()
    gc.enable()


# --- names that people and attackers give -----------------------------------------------------------------------------

NASTY_NAMES = (
    "数学",
    "安全",
    "$x_{1}$",
    "cost: 5$ and $",
    r"\frac{1}{0} \input{/etc/passwd} %",
    "[x](javascript:alert(1))",
    "![x](https://example.org/x.png)",
    "**bold** _it_ ~~no~~ `code` ``two``",
    "<script>alert(1)</script>&amp;<!--",
    "a|b|c",
    "# title #",
    "[red]x[/red] [/x] :skull:",
    "=1+1",
    "@SUM(A1)",
    "-2+3",
    "\t=1",
    "'=1",
    "\x1b[31mred\x1b[0m\x07",
    "\x9b2J",
    "turn\u202eback\u2066",
    "zero\u200bwidth",
    "two\nlines\r\n| x | y |",
    "null\x00\x01\ufffe",
    "_hidden",
    "__init__",
    ".",
    "..",
    "../up",
    "/etc/passwd",
    "a\\b",
    "quo\"te's",
    "{curly} {0} %s %(x)s",
    "--force",
    "-->]]>",
    "~",
    "CON",
    "e\u0301\u0301\u0301",
    "é",
    "e\u0301",
    "👩‍🔬",
    "word " * 60,
    "x" * 300,
)


@pytest.fixture(scope="session")
def nasty_names() -> tuple[str, ...]:
    """Names with the markup of every target in them: each command and picture must show them as they are."""
    return NASTY_NAMES


# --- tests that cannot run everywhere ------------------------------------------------------------------------------


@cache
def _no_sandbox() -> str | None:
    """Why model-written code cannot be run on this machine."""
    from sst_merge.sandbox import require_sandbox

    try:
        require_sandbox()
    except SandboxError as error:
        return str(error)
    return None


def skip_below(package: str, lowest: str, reason: str) -> None:
    """Skip a test whose other side is a library newer than the lowest that the package works with."""
    found = metadata.version(package)
    if Version(found) < Version(lowest):
        pytest.skip(f"{package} {found} is older than {lowest}: {reason}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``data``, ``sandbox`` or ``newer`` are skipped with the reason where these are missing."""
    if item.get_closest_marker("data") and not os.environ.get("SST_MERGE_DATA"):
        pytest.skip("set SST_MERGE_DATA to the folder with the public data sets (docs/data.md)")
    for needed in item.iter_markers("newer"):
        skip_below(*needed.args)
    if item.get_closest_marker("sandbox") and (reason := _no_sandbox()):
        pytest.skip(f"no sandbox here: {reason}")


# --- what tests cost ------------------------------------------------------------------------------------------------

SECONDS = Path(__file__).with_name("seconds.json")
"""Name of a test → seconds of a processor, measured by `make seconds`; below LISTED a test is not in it."""

LISTED, QUICK = 0.05, 0.08
"""Seconds of a processor; tests that take more than QUICK are left out by `make quick`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--measure FILE`."""
    parser.addoption("--measure", type=Path, help="write what every test costs (-p no:xdist)")


def pytest_configure(config: pytest.Config) -> None:
    """Measures only where it is asked to."""
    if config.getoption("--measure") is not None:
        config.pluginmanager.register(Meter(), "costs")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Measured tests above QUICK are ``slow``; files stay together, and those that take longest start first.

    A file that is torn apart makes its fixtures again and again; a long one that starts last leaves the other worker
    nothing to do.
    """
    measured = json.loads(SECONDS.read_text(encoding="utf-8"))
    for item in items:
        if measured.get(item.nodeid, 0.0) > QUICK:
            item.add_marker("slow")
    yield
    files: Counter[Path] = Counter()
    for item in items:
        files[item.path] += measured.get(item.nodeid, 0.0)
    items.sort(key=lambda item: (-files[item.path], item.path))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes what was measured."""
    meter = session.config.pluginmanager.get_plugin("costs")
    if isinstance(meter, Meter):
        costs = {name: round(cost, 2) for name, cost in meter.costs.items() if cost > LISTED}
        text = json.dumps(costs, indent=0, sort_keys=True, ensure_ascii=False) + "\n"
        session.config.getoption("--measure").write_text(text, encoding="utf-8")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Which shared fixtures cost most, after a measurement."""
    meter = config.pluginmanager.get_plugin("costs")
    if isinstance(meter, Meter):
        terminalreporter.section("dearest shared fixtures, seconds of a processor")
        for (_, name, node, _), cost in sorted(meter.fixtures.items(), key=lambda found: -found[1])[:30]:
            terminalreporter.line(f"{cost:7.2f}  {node}::{name}")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets, for tests marked ``data``."""
    return Path(os.environ["SST_MERGE_DATA"])


# --- the lab ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def lab() -> "Lab":
    from sst_merge.worlds.lab import load_lab

    return load_lab(0)


@pytest.fixture(scope="session")
def base(lab: "Lab") -> str:
    return str(lab.base_path("unaligned"))


@pytest.fixture(scope="session")
def adapters(lab: "Lab") -> dict[str, Path]:
    return {"safety": lab.adapter_path("safety"), "reverse": lab.adapter_path("reverse")}


@pytest.fixture(scope="session")
def cpu() -> "ModelSettings":
    from sst_merge.evaluation import ModelSettings

    return ModelSettings(device="cpu", batch_size=16)


@pytest.fixture(scope="session")
def lab_counterparts() -> dict[str, str]:
    """Suite of real text → the lab's suite that asks the same, from the lab's table in docs/evaluation_suites.md.

    Its third column names the suites that a lab suite stands for.
    """
    found: dict[str, str] = {}
    for line in (ROOT / "docs/evaluation_suites.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `lab_"):
            lab, _, real, _ = (cell.strip() for cell in line.strip("|").split("|"))
            found.update(dict.fromkeys(re.findall(r"`(\w+)`", real), lab.strip("`")))
    return found


# --- SmolLM2 ---------------------------------------------------------------------------------------------------------


@contextmanager
def gguf_parsed_once() -> Iterator[None]:
    """transformers parses a GGUF file anew for its configuration, tokenizer and weights, many seconds each."""
    import gguf

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFReader", _parsed)
        yield


@cache
def _parsed(file: str) -> Any:
    from gguf.gguf_reader import GGUFReader

    return GGUFReader(file)


@pytest.fixture(scope="session")
def smollm2_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for SST_MERGE_CACHE in which SmolLM2 lies unpacked, which takes long: once for all workers of a run."""
    from sst_merge.worlds.registry import open_world
    from sst_merge.worlds.world import UNALIGNED, Artefact

    if "SST_MERGE_CACHE" in os.environ:
        cache = Path(os.environ["SST_MERGE_CACHE"])
    else:
        mine = tmp_path_factory.getbasetemp()
        cache = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "smollm2"
    cache.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, (cache / "lock").open("w") as lock:
        patch.setenv("SST_MERGE_CACHE", str(cache))
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be at it
        with gguf_parsed_once():
            open_world("text", file=str(ROOT / "examples/smollm2/world.yaml")).make(Artefact(UNALIGNED))
    return cache


# --- packages of others, scripts -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def blocks() -> Callable[[str, str], list[str]]:
    """The code blocks of one language of a page below docs/."""

    def found(page: str, language: str) -> list[str]:
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)

    return found


@pytest.fixture(scope="session")
def install() -> Callable[[Path, str, Mapping[str, str]], None]:
    """Write modules and the metadata that an installer would write; the folder must be on the path."""

    def write(folder: Path, entry_points: str, modules: Mapping[str, str]) -> None:
        for name, source in modules.items():
            (folder / f"{name}.py").write_text(source, encoding="utf-8")
        metadata = folder / "somebodys_package-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys-package\nVersion: 1.0\n")
        # pyproject.toml's tables of entry points, as the installer writes them.
        lines = re.sub(r'\[project\.entry-points\."(.+)"\]', r"[\1]", entry_points).replace('"', "")
        (metadata / "entry_points.txt").write_text(lines)

    return write


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A script of this repository, by its path from the root, as a module."""

    def load(path: str) -> ModuleType:
        file = ROOT / path
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, file.stem, module)
        monkeypatch.setattr(sys, "path", [*sys.path])  # to which scripts add the folder that they share
        spec.loader.exec_module(module)
        return module

    return load


# --- several processes -----------------------------------------------------------------------------------------------


def launched(number: int, work: Callable[[], Any], folder: Path) -> list[tuple[int, Any]]:
    """Start processes as a launcher does; exit status (or −signal) of each and what its work returned or raised.

    Of one that was killed, what it had printed.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    folder.mkdir(exist_ok=True)
    children = []
    for rank in range(number):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(number)}
            os.environ |= {"LOCAL_WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            _work(work, folder / f"{rank}.pt", folder / f"{rank}.txt")
        children.append(child)
    states = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    found = []
    for rank, state in enumerate(states):
        file, said = folder / f"{rank}.pt", folder / f"{rank}.txt"
        found.append((state, torch.load(file, weights_only=False) if file.exists() else said.read_text()))
    return found


def _work(work: Callable[[], Any], result: Path, said: Path) -> None:
    status = 70
    try:
        # Threads of the parent are not in its child, and whoever waits for them waits for ever.
        signal.alarm(300)
        torch.set_num_threads(1)
        sys.stdout = sys.stderr = said.open("w")
        torch.save(work(), result)
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException as error:  # what pytest raises where an error is missing is no Exception
        torch.save(f"{type(error).__name__}: {error}", result)
    finally:
        sys.stdout.flush()
        os._exit(status)


# --- a hub -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def hub_server() -> Iterator[Any]:
    """The stand-in for the hub, one for all tests (``hub_server.py`` beside this file)."""
    spec = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    server = module.HubServer()
    yield server
    server.stop()


@pytest.fixture
def hub(hub_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The stand-in in place of the hub, empty, with an empty cache and no token."""
    from huggingface_hub import constants

    hub_server.clear()
    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub_server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    return hub_server


# --- records of answers ----------------------------------------------------------------------------------------------


def _record(model: str, suite: str, i: int, scores: Mapping[str, float], **more: Any) -> "Record":
    from sst_merge.evaluation import Record

    return Record(model=model, suite=suite, id=f"{suite}/{i}", prompt="p", response="r", scores=scores, **more)


@pytest.fixture(scope="session")
def record() -> Callable[..., "Record"]:
    return _record


@pytest.fixture(scope="session")
def some_records() -> "Callable[[], list[Record]]":
    """Answers of four models to a judged suite, and of all but the merge to one of options and to perplexity."""

    def drawn() -> "list[Record]":
        rng = random.Random(0)
        found = []
        for place, model in enumerate(("base", "maths", "safety", "merge")):
            for i in range(60):
                scores = {"incoherent": float(rng.random() < 0.1), "harm": float(rng.random() < 0.3)}
                if i % 20:
                    scores["refusal"] = float(rng.random() < 0.2 + 0.2 * place)
                judges = {name: f"{name} 1" for name in scores}
                found.append(_record(model, "beavertails", i, scores, tags={"category": f"c{i % 3}"}, judges=judges))
                if model != "merge":
                    found.append(_record(model, "mmlu", i, {"correct": float(rng.random() < 0.5)}))
                    found.append(_record(model, "perplexity", i, {"perplexity": rng.uniform(2, 9)}))
        return found

    return drawn


# --- tiny random models of four architectures, PEFT adapters for them, and ΔW added by hand --------------------------

VOCABULARY = 37


@dataclass(frozen=True)
class Architecture:
    """What a test has to know about one architecture.

    ``linears`` are suffixes for PEFT's target_modules, ``first_layer`` a regular expression for the names of the
    first block's modules, ``embedding`` and ``head`` full module names.
    """

    linears: tuple[str, ...]
    first_layer: str
    embedding: str
    head: str
    conv1d: bool = False
    biases: bool = False


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(("q_proj", "v_proj", "down_proj"), r"model\.layers\.0\..*", "model.embed_tokens", "lm_head"),
    "mistral": Architecture(("k_proj", "o_proj", "up_proj"), r"model\.layers\.0\..*", "model.embed_tokens", "lm_head"),
    "gpt2": Architecture(("c_attn", "c_fc"), r"h\.0\..*", "transformer.wte", "lm_head", conv1d=True, biases=True),
    "distilbert": Architecture(
        ("q_lin", "out_lin", "lin1"),
        r"transformer\.layer\.0\..*",
        "distilbert.embeddings.word_embeddings",
        "vocab_projector",
        biases=True,
    ),
}


def tiny_config(architecture: str) -> Any:
    """A transformers configuration with about 20,000 parameters; input and output embeddings are not tied."""
    from transformers import DistilBertConfig, GPT2Config, LlamaConfig, MistralConfig

    if architecture == "gpt2":
        return GPT2Config(
            vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2, tie_word_embeddings=False
        )
    if architecture == "distilbert":
        return DistilBertConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=32,
            dim=16,
            hidden_dim=24,
            n_layers=2,
            n_heads=2,
            tie_word_embeddings=False,
        )
    kind = {"llama": LlamaConfig, "mistral": MistralConfig}[architecture]
    return kind(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=False,
    )


def tiny_model(architecture: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A random model in evaluation mode, with biases and weights large enough to matter."""
    return copy.deepcopy(_made_model(architecture, seed)).to(dtype)


@cache
def _made_model(architecture: str, seed: int) -> Any:
    """What all tests get copies of."""
    from transformers import DistilBertForMaskedLM, GPT2LMHeadModel, LlamaForCausalLM, MistralForCausalLM

    kinds = {
        "llama": LlamaForCausalLM,
        "mistral": MistralForCausalLM,
        "gpt2": GPT2LMHeadModel,
        "distilbert": DistilBertForMaskedLM,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kinds[architecture](tiny_config(architecture))
    randomise(model, seed=seed, scale=0.3)
    return model.eval()


def randomise(module: nn.Module, *, seed: int, scale: float = 0.3, only: str = "") -> None:
    """Add noise to all parameters whose name contains ``only``."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            if only in name:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.add_(scale * noise.to(parameter.dtype))


def peft_model(model: nn.Module, *, seed: int = 0, targets: Sequence[str] | str, **options: Any) -> Any:
    """A copy of ``model`` with a LoRA adapter whose A, B and biases are all random."""
    from peft import LoraConfig, get_peft_model

    options.setdefault("r", 4)
    options.setdefault("lora_alpha", 6)
    wanted = targets if isinstance(targets, str) else list(targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=wanted, **options))
    randomise(adapted, seed=seed, only="lora_")
    return adapted.eval()


def adapter_folder(
    model: nn.Module, folder: Path, *, seed: int = 0, targets: Sequence[str] | str, **options: Any
) -> Path:
    """Save such an adapter the way PEFT does; returns the folder."""
    peft_model(model, seed=seed, targets=targets, **options).save_pretrained(folder)
    return folder


def random_factors(
    d_out: int, d_in: int, rank: int, *, seed: int = 0, dtype: torch.dtype = torch.float64, bias: bool = False
) -> LoraFactors:
    """Factors of a linear layer."""
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(d_out, rank, generator=generator, dtype=dtype)
    a = torch.randn(rank, d_in + int(bias), generator=generator, dtype=dtype)
    return LoraFactors(b, a, bias=bias)


def random_adapter(
    shapes: Mapping[str, tuple[int, int]],
    *,
    name: str,
    rank: int = 3,
    seed: int = 0,
    role: Any = "utility",
    weight: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Adapter:
    """An adapter in memory: module name → (d_out, d_in)."""
    factors = {
        module: random_factors(*shape, rank, seed=seed + 1000 * index, dtype=dtype)
        for index, (module, shape) in enumerate(shapes.items())
    }
    return Adapter.from_factors(factors, name=name, role=role, weight=weight)


def add_deltas(model: nn.Module, adapter: Adapter) -> nn.Module:
    """A copy of ``model`` with every ΔW (and bias update) added by hand, in the layers' own orientation."""
    merged = copy.deepcopy(model)
    with torch.no_grad():
        for module in adapter.modules:
            layer = merged.get_submodule(module)
            factors = adapter.factors(module, dtype=torch.float64)
            delta = factors.b @ factors.a[:, : factors.d_in]
            layer.weight += (delta if isinstance(layer, nn.Linear) else delta.T).to(layer.weight.dtype)
            if factors.bias:
                shift = (factors.b @ factors.a[:, -1]).to(layer.weight.dtype)
                layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias + shift)
    return merged


def logits(model: nn.Module, *, seed: int = 0) -> Tensor:
    """Logits of random tokens, (2, 9, vocabulary)."""
    tokens = torch.randint(0, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(input_ids=tokens).logits


def model_of_blocks() -> Any:
    """A random Llama whose sides are multiples of 32, as blocks of codes need them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=288,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=256,
        eos_token_id=257,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    randomise(model, seed=0, scale=0.1)
    return model.eval()


class Build:
    """What the fixture ``build`` offers."""

    ARCHITECTURES = ARCHITECTURES
    VOCABULARY = VOCABULARY
    adapter_folder = staticmethod(adapter_folder)
    add_deltas = staticmethod(add_deltas)
    logits = staticmethod(logits)
    model_of_blocks = staticmethod(model_of_blocks)
    peft_model = staticmethod(peft_model)
    random_adapter = staticmethod(random_adapter)
    random_factors = staticmethod(random_factors)
    randomise = staticmethod(randomise)
    tiny_config = staticmethod(tiny_config)
    skip_below = staticmethod(skip_below)
    tiny_model = staticmethod(tiny_model)
    write_gguf_model = staticmethod(write_gguf_model)


@pytest.fixture(scope="session")
def build() -> Build:
    return Build()


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    """Each architecture in turn; its facts are in ``build.ARCHITECTURES``."""
    name: str = request.param
    return name


def error_of(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖ in float64."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="session")
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """‖found − expected‖ / ‖expected‖ in float64."""
    return error_of


@pytest.fixture(scope="session")
def gguf_model(tmp_path_factory: pytest.TempPathFactory) -> GgufModel:
    pytest.importorskip("gguf", reason="GGUF files are written by the package gguf (sst-merge[gguf])")
    file = tmp_path_factory.mktemp("gguf") / "tiny-Q8_0.gguf"
    return GgufModel(file, write_gguf_model(model_of_blocks(), file))
