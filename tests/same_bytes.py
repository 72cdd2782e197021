"""Does every merge still write the same bytes? Merges of twelve situations, by every method, as SHA-256 digests.

    python tests/same_bytes.py                      compare this checkout with tests/same_bytes.json
    python tests/same_bytes.py --against COMMIT     compare it with another commit, merged on this machine just now
    python tests/same_bytes.py --write tests/same_bytes.json

For changes that must not change a result, such as moving code. The package is touched through its command line
alone, so that the script runs on both sides of such a change; models, adapters and data are made here, from fixed
seeds. A merge that is refused counts as its exception's name: messages may be improved.

Linear algebra libraries round differently on other processors and in other versions of torch. The file says where it
was made, and a comparison elsewhere says so first; ``--against`` needs no such care.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["RECORD", "Digests", "elsewhere", "main"]

Digests = dict[str, dict[str, str]]
"""Situation → label of the merge → digests, or how it was refused."""

ROOT = Path(__file__).resolve().parent.parent
RECORD = Path(__file__).with_suffix(".json")
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
WORDS = tuple(f"{a}{b}" for a in "bdgkmn" for b in ("a", "e", "i", "o", "u", "ar"))
ATTENTION = ("q_proj", "v_proj")
SHORT: Mapping[str, Mapping[str, Any]] = {"calibration_only": {"steps": 5}, "prodistill": {"steps": 5}}
USUAL = (*ATTENTION, "down_proj")
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# One thread, because the order of sums depends on their number; no graphics card and no network.
PINS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "agg",
}


@dataclass(frozen=True)
class Lora:
    """One adapter, as it is made and as the merge's configuration names it."""

    name: str
    seed: int
    role: str = "utility"
    weight: float = 1.0
    rank: int = 4
    alpha: float = 6.0
    targets: tuple[str, ...] = USUAL
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False
    bias: bool = False
    half: bool = False


@dataclass(frozen=True)
class Situation:
    """What is merged, by every method with its defaults and by ``variants`` with other options.

    ``config`` is laid over the merge's configuration; ``data`` gives harm, benign and every adapter's own rows.
    """

    name: str
    adapters: tuple[Lora, ...]
    base: str | None = None
    data: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    variants: Sequence[tuple[str, Mapping[str, Any]]] = ()


def _fisher(structure: str, estimator: str, point: str) -> dict[str, str]:
    return {"structure": structure, "estimator": estimator, "point": point}


CODE, MATHS, LAW = Lora("code", 1), Lora("maths", 2), Lora("law", 3)
SAFETY = Lora("safety", 4, role="safety")

# Of the methods that know several ways, each way that is not the default.
OTHER_WAYS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("ada_merging", {"steps": 3, "harm_weight": 0.5}),
    ("alignguard_lora", {"mode": "penalty", "structure": "block"}),
    ("alignguard_lora", {"m": 3}),
    ("benign_null_space", {"inputs": "core", "threshold": 0.02}),
    ("core_dare", {"merge": "ties", "density": 0.5}),
    ("core_ties", {"density": 0.6, "normalize": "weights"}),
    ("dare_linear", {"density": 0.4, "strength": 0.7}),
    ("dare_ties", {"density": 0.4}),
    ("della", {"elect": False, "density": 0.5}),
    ("fisher_merging", {"structure": "kronecker", "estimator": "sampled"}),
    ("iso_cts", {"common": 0.4}),
    ("knots", {"merge": "dare_ties", "density": 0.5}),
    ("layer_interpolation", {"combine": "add", "steps": 3}),
    ("led_merging", {"disjoint": False, "rate": 0.3}),
    ("linear", {"normalize": False}),
    ("mergealign", {"vector_rank": 3, "strength": 0.8}),
    ("random_subspace", {"k": 3, "combine": "interpolate"}),
    ("regmean", {"off_diagonal": 0.5, "damping": 0.01}),
    ("resta_dare", {"drop": 0.4}),
    ("safe_delta", {"compensate": False, "budget": 0.4}),
    ("safe_lora", {"threshold": 0.9}),
    ("safe_lora", {"layers": 1}),
    ("safe_merge", {"threshold": 0.9, "safety_share": 0.5}),
    ("sce", {"density": 0.5, "normalize": False}),
    ("subspace_boosting", {"beta": 0.5}),
    ("task_arithmetic", {"combine": "interpolate", "safety_strength": 0.5}),
    ("ties", {"density": 0.5, "strength": 1.5}),
    ("tsv_m", {"per_task": 0.5}),
)
SST_WAYS: tuple[tuple[str, Mapping[str, Any]], ...] = tuple(
    ("sst", options)
    for options in (
        {"fisher": _fisher("block", "log_odds", "trust"), "refine": 3},
        {"fisher": _fisher("diagonal", "empirical", "merged")},
        {"fisher": _fisher("lowrank", "sampled", "own"), "mu": 0.5},
        {"fisher": _fisher("lowrank", "empirical", "base"), "filter": {"hard": 5}},
        {"fisher": _fisher("kronecker", "sampled", "base"), "combine": "interpolate"},
        {"fisher": _fisher("auto", "empirical", "own"), "tune_strengths": [0.5, 1.0, 1.5]},
        {"fisher": {"trust_budget": 0.2}, "damping": 0.5, "harm_damping": 0.05, "calibration_holdout": 0.4},
        {"filter": {"hard": 2}, "strength": 0.8},
        {"filter": {"hard": 3}, "tax_budget": 0.05, "tune_strengths": [0.5, 1.0]},
        {"utility": "fisher", "refine": 4, "tax_budget": 0.05},
        {"utility": "fisher", "inputs": "wide"},
        {"utility": "fisher", "inputs": "wide", "output_shrinkage": 0.0, "equal_traces": False, "mu": 1.0},
        {"utility": "fisher", "fisher": _fisher("block", "empirical", "own"), "mu": 0.3},
        {"utility": "fisher", "fisher": _fisher("diagonal", "log_odds", "base")},
        {"vila": {"keep_layers": 0.5, "keep_directions": 0.5}},
        {"vila": {"keep_layers": 0.8}, "fisher": _fisher("block", "sampled", "trust"), "mu": 0.2},
        {"mu": 0.1, "refine": 3, "combine": "interpolate"},
    )
)
# Where there are both, an aligned base and safety adapters, these methods may take either.
BOTH_ALIGNED_WAYS: tuple[tuple[str, Mapping[str, Any]], ...] = tuple(
    (name, {"alignment": how})
    for name in ("mergealign", "resta", "resta_dare", "safe_lora", "safe_merge")
    for how in ("weights", "safety")
)
ALIGNED_WAYS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("sst", {"aligned_base": True}),
    ("sst", {"aligned_base": True, "utility": "fisher", "inputs": "wide", "mu": 0.5}),
    ("sst", {"aligned_base": True, "combine": "interpolate", "filter": {"hard": 3}}),
    ("safe_delta", {"aligned_base": True}),
    ("mergealign", {"vector_rank": 2}),
    ("resta", {"vector_rank": 3, "strength": 0.6}),
    ("resta_dare", {"drop": 0.5, "alignment": "weights"}),
)

SITUATIONS = (
    Situation("01 two skills of equal rank", (CODE, MATHS)),
    Situation("02 two skills and safety", (CODE, MATHS, SAFETY), base="llama", data=True, variants=OTHER_WAYS),
    Situation(
        "03 different ranks",
        (Lora("code", 5, rank=2), Lora("maths", 6, rank=7, alpha=3.0), Lora("safety", 7, role="safety", rank=3)),
    ),
    Situation(
        "04 rsLoRA, rank and alpha patterns",
        (
            Lora("code", 8, rslora=True, ranks={"q_proj": 2, r"layers\.1\.mlp\.down_proj": 6}),
            Lora("maths", 9, rank=3, alphas={"v_proj": 11.0}, ranks={"v_proj": 5}),
            Lora("safety", 10, role="safety", rslora=True, alphas={"down_proj": 2.5}),
        ),
        base="llama",
        data=True,
    ),
    Situation(
        "05 different target modules",
        (
            Lora("code", 11, targets=ATTENTION),
            Lora("maths", 12, targets=("down_proj", "up_proj"), half=True),
            Lora("safety", 13, role="safety", targets=ALL),
        ),
        base="llama",
        data=True,
        config={"aligned_base_model": "aligned"},
        variants=BOTH_ALIGNED_WAYS,
    ),
    Situation(
        "06 embedding and linear layers",
        (
            Lora("code", 14, targets=("embed_tokens", *USUAL)),
            Lora("maths", 15, targets=("lm_head", *ATTENTION)),
            Lora("safety", 16, role="safety", rank=2, targets=("embed_tokens", "lm_head", "down_proj")),
        ),
        base="llama",
        data=True,
    ),
    Situation(
        "07 Conv1D and LoRA biases",
        (
            Lora("code", 17, targets=("c_attn", "c_fc")),
            Lora("safety", 18, role="safety", rank=3, targets=("c_attn", "c_proj"), bias=True),
        ),
        base="gpt2",
        data=True,
    ),
    Situation(
        "08 weights, one of them negative",
        (
            Lora("code", 19, weight=0.7),
            Lora("maths", 20, weight=-0.4, rank=3),
            Lora("safety", 21, role="safety", weight=1.3),
        ),
        base="llama",
        data=True,
        variants=(("linear", {"normalize": False}), ("sst", {"utility": "fisher"}), ("sst", {"mu": 0.5})),
    ),
    Situation(
        "09 smaller output",
        (CODE, MATHS, SAFETY),
        base="llama",
        data=True,
        config={"output": {"rank": 5, "energy": 0.9, "dtype": "float16"}},
        variants=(("task_arithmetic", {"strength": 0.5}), ("ties", {"density": 0.7})),
    ),
    Situation(
        "10 float64 algebra, bfloat16 output",
        (CODE, Lora("safety", 22, role="safety", rank=3)),
        base="llama",
        data=True,
        config={"output": {"dtype": "bfloat16"}, "compute_dtype": "float64", "model_dtype": "float64"},
    ),
    Situation(
        "11 three skills and safety",
        (CODE, MATHS, LAW, SAFETY),
        base="llama",
        data=True,
        config={"seed": 3},
        variants=SST_WAYS,
    ),
    Situation(
        "12 aligned base",
        (CODE, Lora("maths", 23, rank=2, targets=ALL)),
        base="llama",
        data=True,
        config={"aligned_base_model": "aligned"},
        variants=ALIGNED_WAYS,
    ),
)


# What is merged.


def _noise(shape: Sequence[int], generator: "Generator", scale: float) -> "Tensor":
    import torch

    return scale * torch.randn(tuple(shape), generator=generator, dtype=torch.float32)


def _base(kind: str, folder: Path) -> dict[str, tuple[int, ...]]:
    """Save a random model with its tokenizer; returns the shapes of its weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    common = {"vocab_size": len(vocabulary), "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2}
    model: Any
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_positions=64, n_embd=24, n_layer=2, n_head=2, **common))
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=32,
                intermediate_size=40,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                **common,
            )
        )
    # Every number from here, so that transformers may initialise as it likes.
    generator = torch.Generator().manual_seed(100)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            centre = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(centre + _noise(parameter.shape, generator, 0.25))
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if kind == "llama":
        with torch.no_grad():
            for _, parameter in sorted(model.named_parameters()):
                parameter.add_(_noise(parameter.shape, generator, 0.03))
        model.save_pretrained(folder.with_name("aligned"))
        tokenizer.save_pretrained(folder.with_name("aligned"))
    return {name.removesuffix(".weight"): tuple(p.shape) for name, p in model.named_parameters() if p.ndim == 2}


def _pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """PEFT's lookup: the first key that matches the end of the module's name."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _adapter(lora: Lora, kind: str, shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Write an adapter as PEFT does."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(lora.seed)
    tensors: dict[str, Tensor] = {}
    for module, shape in sorted(shapes.items()):
        if module.rpartition(".")[2] not in lora.targets:
            continue
        embedding = module.endswith("embed_tokens")
        # Embeddings and Conv1D keep their weights as (inputs, outputs).
        inputs, outputs = shape if embedding or (kind == "gpt2" and module != "lm_head") else shape[::-1]
        rank = _pattern(lora.ranks, module, lora.rank)
        prefix, leaf = f"base_model.model.{module}.lora_{'embedding_' if embedding else ''}", ".weight"
        tensors[f"{prefix}A{'' if embedding else leaf}"] = _noise((rank, inputs), generator, 0.3)
        tensors[f"{prefix}B{'' if embedding else leaf}"] = _noise((outputs, rank), generator, 0.3)
        if lora.bias:
            tensors[f"{prefix}B.bias"] = _noise((outputs,), generator, 0.1)
    if lora.half:
        tensors = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    folder.mkdir(parents=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": f"tiny/{kind}",
        "target_modules": list(lora.targets),
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "rank_pattern": dict(lora.ranks),
        "alpha_pattern": dict(lora.alphas),
        "use_rslora": lora.rslora,
        "lora_bias": lora.bias,
        "fan_in_fan_out": kind == "gpt2",
        "bias": "none",
    }
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")


def _rows(file: Path, seed: int, count: int) -> None:
    """Random words as prompts and answers."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    lines = []
    for index in range(count):
        words = [WORDS[i] for i in torch.randint(0, len(WORDS), (12,), generator=generator).tolist()]
        border = 3 + index % 4
        end = border + 2 + index % 3
        lines.append(json.dumps({"prompt": " ".join(words[:border]), "response": " ".join(words[border:end])}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _make_everything() -> None:
    """Models, data and adapters in the current folder."""
    shapes = {kind: _base(kind, Path(kind)) for kind in ("llama", "gpt2")}
    for index, name in enumerate(("harm", "benign", "code", "maths", "law", "safety")):
        _rows(Path(f"{name}.jsonl"), 200 + index, 12 if index < 2 else 6)
    for situation in SITUATIONS:
        kind = situation.base or "llama"
        for lora in situation.adapters:
            _adapter(lora, kind, shapes[kind], Path("adapters") / situation.name[:2] / lora.name)


# How it is merged.


def _configuration(situation: Situation, method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    adapters: list[dict[str, Any]] = []
    for lora in situation.adapters:
        folder = f"adapters/{situation.name[:2]}/{lora.name}"
        item: dict[str, Any] = {"name": lora.name, "path": folder, "role": lora.role, "weight": lora.weight}
        adapters.append(item | ({"data": {"path": f"{lora.name}.jsonl"}} if situation.data else {}))
    config: dict[str, Any] = {"adapters": adapters, "device": "cpu", "merge": {"method": method, **options}}
    if situation.base is not None:
        config["base_model"] = situation.base
    if situation.data:
        config["data"] = {"harm": {"path": "harm.jsonl"}, "benign": {"path": "benign.jsonl"}, "batch_size": 4}
    config |= situation.config
    config["output"] = {"path": "out/merged", **situation.config.get("output", {})}
    return config


def _command(*arguments: str) -> tuple[str, str]:
    """Run ``sst-merge`` in this process: what it printed, and how it was refused ('' if it was not)."""
    import torch

    from sst_merge.cli.main import main as sst_merge

    printed, complaints = io.StringIO(), io.StringIO()
    before = sys.argv
    # --debug lets the exception itself through instead of a message and exit code 2.
    sys.argv = ["sst-merge", "--debug", *arguments]
    torch.manual_seed(0)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complaints):
            sst_merge()
    except SystemExit as end:
        return printed.getvalue(), "" if end.code in {None, 0} else "refused"
    except Exception as error:
        # Whatever it is, it is this merge's result; what the package does not raise itself is told apart.
        kind = type(error)
        return printed.getvalue(), ("" if kind.__module__.startswith("sst_merge") else "failed: ") + kind.__name__
    finally:
        sys.argv = before
    return printed.getvalue(), ""


def _merged(situation: Situation, method: str, options: Mapping[str, Any]) -> str:
    """Digests of weights and configuration, or how the merge was refused."""
    # JSON is YAML too.
    Path("merge.yaml").write_text(json.dumps(_configuration(situation, method, options)), encoding="utf-8")
    _, refusal = _command("merge", "merge.yaml")
    result = refusal or _digests_of(Path("out/merged"))
    shutil.rmtree("out", ignore_errors=True)
    return result


def _digests_of(folder: Path) -> str:
    return " ".join(hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (WEIGHTS, CONFIG))


def _label(method: str, options: Mapping[str, Any]) -> str:
    return f"{method} {json.dumps(options, sort_keys=True)}" if options else method


@contextlib.contextmanager
def _temporary_folder() -> Iterator[None]:
    """Everything has relative paths there, so that none gets into a digest."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="same_bytes_") as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def _digests(source: Path, chosen: "Sequence[Situation]", *, demo: bool) -> Digests:
    """Merge some situations with the package in ``source``."""
    os.environ.update(PINS)
    sys.path.insert(0, str(source))
    found = importlib.util.find_spec("sst_merge")
    if found is None or found.origin is None or not Path(found.origin).resolve().is_relative_to(source.resolve()):
        raise SystemExit(f"sst_merge comes from {found and found.origin}, expected it in {source}")
    import torch

    torch.set_num_threads(1)
    digests: Digests = {}
    with _temporary_folder():
        with contextlib.redirect_stderr(io.StringIO()):
            _make_everything()
        listed, refusal = _command("methods", "--json")
        if refusal:
            raise SystemExit(f"sst-merge methods --json: {refusal}")
        methods: list[tuple[str, Mapping[str, Any]]] = [
            (record["name"], SHORT.get(record["name"], {})) for record in json.loads(listed)
        ]
        for situation in chosen:
            began = time.perf_counter()
            merges = [*methods, *situation.variants]
            digests[situation.name] = {_label(*merge): _merged(situation, *merge) for merge in merges}
            _say(f"{time.perf_counter() - began:6.1f} s  {situation.name}: {len(merges)} merges")
        if demo:
            began = time.perf_counter()
            digests["demo"] = _demo()
            _say(f"{time.perf_counter() - began:6.1f} s  demo")
    return digests


def _demo() -> dict[str, str]:
    """Run the bundled demo; --quick measures fewer prompts, the adapter that it leaves is the same."""
    _, refusal = _command("demo", "--quick", "--out", "demo")
    if refusal:
        return {"demo": refusal}
    folders = [file.parent for file in sorted(Path("demo").rglob(WEIGHTS))]
    for folder in folders:
        # The bundled base is named by its place in this checkout.
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8")) | {"base_model_name_or_path": None}
        (folder / CONFIG).write_text(json.dumps(config, sort_keys=True), encoding="utf-8")
    return {folder.as_posix(): _digests_of(folder) for folder in folders}


# What is compared.


def _machine() -> dict[str, str]:
    """What rounding depends on."""
    return {"processor": _processor(), "torch": importlib.metadata.version("torch")}


def _processor() -> str:
    """Model name, with the numbers that tell generations of one name apart."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(.+)$", text, flags=re.MULTILINE))
    if "model name" not in found:
        return platform.processor() or platform.machine()
    return f"{found['model name']}, family {found.get('cpu family', '?')}, model {found.get('model', '?')}"


def elsewhere(record: Mapping[str, Any]) -> list[str]:
    """How this machine differs from the one that a record was made on, one sentence each."""
    return [
        f"the digests were made with {name} {record['machine'][name]!r}, this is {here!r}"
        for name, here in _machine().items()
        if record["machine"][name] != here
    ]


def _differences(before: Digests, now: Digests) -> list[str]:
    lines = []
    for situation in sorted({*before, *now}):
        old, new = before.get(situation, {}), now.get(situation, {})
        lines += [
            f"{situation}: {label}: {_difference(old.get(label), new.get(label))}"
            for label in sorted({*old, *new})
            if old.get(label) != new.get(label)
        ]
    return lines


def _difference(before: str | None, now: str | None) -> str:
    if before is None or now is None:
        return "new, there was no such merge before" if before is None else "gone, there was such a merge before"
    old, new = before.split(" "), now.split(" ")
    if len(old) == len(new) == 2 and len(old[0]) == len(new[0]) == 64:
        return ", ".join(f"other {name}" for name, a, b in zip((WEIGHTS, CONFIG), old, new, strict=True) if a != b)
    return f"was {_outcome(before)}, is {_outcome(now)}"


def _outcome(result: str) -> str:
    return "merged" if _succeeded(result) else result


def _succeeded(result: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64} [0-9a-f]{64}", result) is not None


def _git(*arguments: str, folder: Path = ROOT) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def _digests_at(commit: str, *, demo: bool) -> Digests:
    """The same merges by another commit's package, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="same_bytes_") as folder:
        tree, record = Path(folder) / "tree", Path(folder) / "record.json"
        _git("worktree", "add", "--detach", str(tree), commit)
        try:
            command = [sys.executable, str(Path(__file__).resolve()), "--source", str(tree / "src"), "--write", record]
            environment = os.environ | PINS | {"PYTHONPATH": str(tree / "src")}
            subprocess.run([*command, *([] if demo else ["--no-demo"])], check=True, env=environment)
        finally:
            _git("worktree", "remove", "--force", str(tree))
        digests: Digests = json.loads(record.read_text(encoding="utf-8"))["digests"]
        return digests


def _write(file: Path, digests: Digests, source: Path) -> None:
    """One line per situation."""
    head = {"commit": _git("rev-parse", "HEAD", folder=source), "machine": _machine()}
    lines = [f"{json.dumps(name)}: {json.dumps(value, sort_keys=True)}" for name, value in sorted(head.items())]
    inner = [f"{json.dumps(name)}: {json.dumps(digests[name], sort_keys=True)}" for name in sorted(digests)]
    lines.append('"digests": {\n' + ",\n".join(inner) + "\n}")
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Does every merge still write the same bytes?")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--write", type=Path, metavar="FILE", help="record the digests instead of comparing them")
    way.add_argument("--against", metavar="COMMIT", help="compare with a commit, merged on this machine, not the file")
    parser.add_argument("--no-demo", action="store_true", help="leave the bundled demo out")
    parser.add_argument("--only", nargs="+", metavar="NN", help="compare the situations of these numbers alone")
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="folder of the package (this checkout's src)")
    return parser.parse_args()


def main() -> int:
    """Record or compare; 1 where anything differs."""
    arguments = _arguments()
    demo = not arguments.no_demo
    warnings: list[str] = []
    if arguments.write is None and arguments.against is None:
        record = json.loads(RECORD.read_text(encoding="utf-8"))
        before: Digests = record["digests"]
        name, warnings = f"{RECORD.name} (commit {record['commit'][:10]})", elsewhere(record)
        if not demo:
            before.pop("demo", None)
    elif arguments.against is not None:
        name, before = f"commit {arguments.against}", _digests_at(arguments.against, demo=demo)
    for warning in warnings:
        _say(f"warning: {warning}; differences may be rounding alone: use --against COMMIT")
    chosen = [s for s in SITUATIONS if arguments.only is None or s.name[:2] in arguments.only]
    if arguments.only is not None and arguments.write is None:
        before = {name: found for name, found in before.items() if name[:2] in arguments.only or name == "demo"}
    now = _digests(arguments.source.resolve(), chosen, demo=demo)
    results = [result for merges in now.values() for result in merges.values()]
    merged = sum(map(_succeeded, results))
    failed = sum(result.startswith("failed: ") for result in results)
    summary = f"{merged} merges, {len(results) - merged - failed} refusals, {failed} unexpected errors"
    if arguments.write is not None:
        _write(arguments.write, now, arguments.source)
        print(f"{summary}: written to {arguments.write}")
        return 0
    differences = _differences(before, now)
    print("\n".join([*differences, f"{summary}; {len(differences)} differ from {name}"]))
    if differences and warnings:
        print("not the same machine: " + "; ".join(warnings))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
