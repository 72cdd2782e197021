"""Build source archive and wheel once, and use the wheel as a stranger does: alone, in an empty environment, elsewhere.

    python .ci/wheel.py                   with the Python that runs this
    python .ci/wheel.py 3.10 3.12 3.13    with each of these that is on this machine; the others are named
    python .ci/wheel.py --demo            also the demo, a minute and a half of one core

The wheel is built from the archive, so the archive has all it takes. What is installed beside it is pinned, as in the
rest of the gate. ``dist/`` holds what was tried.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from install import FLAGS, uv_flags

ROOT = Path(__file__).resolve().parents[1]
UV = [sys.executable, "-m", "uv"]
NEEDED = (
    "py.typed",
    "worlds/lab/artefacts/seed0/bases/unaligned/model.safetensors",
    "data_loader/calibration/harmful.jsonl",
)
NOT_NEEDED = ("tests/", "studies/", "sst_merge/worlds/lab/artefacts/seed1/")

# Two tiny adapters as PEFT writes them, and afterwards their exact sum; NumPy is the oracle.
ADAPTERS = """
import json, pathlib, numpy, safetensors.numpy
draw = numpy.random.default_rng(0)
for name in ("one", "two"):
    folder = pathlib.Path(name)
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    shapes = {"lora_A": (2, 6), "lora_B": (5, 2)}
    tensors = {f"{module}.{key}.weight": draw.normal(size=shape).astype("f4") for key, shape in shapes.items()}
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
"""
SUM = """
import json, pathlib, numpy, safetensors.numpy, sst_merge, sys
def update(folder):
    config = json.loads(pathlib.Path(folder, "adapter_config.json").read_text())
    tensors = safetensors.numpy.load_file(pathlib.Path(folder, "adapter_model.safetensors"))
    (down,) = (value for key, value in tensors.items() if ".lora_A." in key)
    (up,) = (value for key, value in tensors.items() if ".lora_B." in key)
    return config["lora_alpha"] / config["r"] * up @ down
numpy.testing.assert_allclose(update("merged"), update("one") + update("two"), atol=1e-5)
assert pathlib.Path(sst_merge.__file__).is_relative_to(sys.prefix), sst_merge.__file__
"""

FIRST_USE = """
sst-merge env
sst-merge methods
python -c "$ADAPTERS"
sst-merge merge --adapter one --adapter two --method task_arithmetic -o merged
python -c "$SUM"
sst-merge merge --skill "$(sst-merge lab path swap_pairs)" --safety "$(sst-merge lab path safety)=0.6" -o lab
sst-merge lab evaluate lab --family swap_pairs --n 4
"""
DEMO = "sst-merge demo --quick --out demo\n"


def build(folder: Path) -> Path:
    """The archive, and from it the wheel, in a folder; returns the wheel.

    Raises:
        RuntimeError: the wheel lacks a file, or has one that users do not need.
    """
    shutil.rmtree(folder, ignore_errors=True)
    flags = uv_flags(FLAGS | {"constraint": "--build-constraints"})
    run([*UV, "build", "--quiet", *flags, "--out-dir", str(folder), str(ROOT)])
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    missing = [name for name in NEEDED if f"sst_merge/{name}" not in names]
    unwanted = [name for name in names if name.startswith(NOT_NEEDED)]
    if missing or unwanted:
        raise RuntimeError(
            f"{wheel.name}: missing {missing}, not wanted {unwanted[:5]}; see [tool.hatch] in pyproject.toml"
        )
    return wheel


def run(words: list[str], **options: object) -> None:
    """A command, whose output is shown only where it fails.

    Raises:
        RuntimeError: it fails.
    """
    done = subprocess.run(words, check=False, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)[:300]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def use(wheel: Path, python: str, *, demo: bool) -> None:
    """Install into an empty environment outside the checkout, and run what a first user runs."""
    with tempfile.TemporaryDirectory() as place:
        environment, work = Path(place, "env"), Path(place, "work")
        work.mkdir()
        run([*UV, "venv", "--quiet", "--no-python-downloads", "--python", python, str(environment)])
        inside = str(environment / "bin" / "python")
        pins = ["--constraints", str(ROOT / "requirements.txt")]
        run([*UV, "pip", "install", "--quiet", "--python", inside, *uv_flags(), *pins, str(wheel)])
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SST_MERGE"))}
        clean |= {"PATH": f"{environment / 'bin'}{os.pathsep}{clean['PATH']}", "ADAPTERS": ADAPTERS, "SUM": SUM}
        clean |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        script = FIRST_USE + (DEMO if demo else "")
        run(["sh", "-eu", "-c", script], cwd=work, env=clean)


def main() -> int:
    """Build, and use the wheel under every Python that was named; returns the exit status."""
    wheel = build(ROOT / "dist")
    wanted = [word for word in sys.argv[1:] if word != "--demo"] or [sys.executable]
    find = [*UV, "python", "find", "--no-python-downloads"]
    absent = [name for name in wanted if subprocess.run([*find, name], check=False, capture_output=True).returncode]
    for name in wanted:
        if name not in absent:
            began = time.monotonic()
            use(wheel, name, demo="--demo" in sys.argv)
            print(f"{wheel.name} works alone under {name} ({time.monotonic() - began:.0f} s)", flush=True)
    if absent:
        print(f"not on this machine: Python {', '.join(absent)}")
    return int(len(absent) == len(wanted))


if __name__ == "__main__":
    sys.exit(main())
