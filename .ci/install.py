"""Fill the environment of the Python that runs this with what ``requirements.txt`` and ``pyproject.toml`` name.

With ``--lowest`` the lowest versions that ``pyproject.toml`` claims to work with, and torch as pinned, for its lowest
comes with CUDA alone; exit code 1 where they cannot be had.

The installer uv does it in a fraction of pip's time. It does not read pip's settings, so they are handed over; where uv
cannot be had, fails, or pip has a setting that uv would not understand, pip does the same work and a line says why.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Mapping

WHAT = ["-r", "requirements.txt", "-c", "constraints.txt", "--editable", ".[dev]"]
TORCH = ["-c", "constraints.txt", "torch"]
LOWEST = ["--resolution", "lowest-direct", "--override", "constraints.txt", "--editable", ".[lowest]"]
PYTHON_M_PIP = [sys.executable, "-m", "pip"]

# pip's settings → uv's flags; each takes one value or several with white space between.
FLAGS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "constraint": "--constraints",
    "trusted-host": "--allow-insecure-host",
}
# What decides how pip talks, and not which files it takes.
HARMLESS = {
    "cache-dir",
    "cert",
    "default-timeout",
    "disable-pip-version-check",
    "progress-bar",
    "quiet",
    "retries",
    "root-user-action",
    "timeout",
}
# Compiled once here, and not by each process where Python is told to write no bytecode.
IMPORTED = (
    "torch, transformers.models.llama.modeling_llama, peft, datasets, pandas, scipy.stats, matplotlib.pyplot, "
    "pydantic, sklearn.linear_model, lm_eval.evaluator, lm_eval.models.huggingface, hypothesis, pytest, xdist"
)


def pip_settings() -> dict[str, str]:
    """Setting → value, as pip would use it: the environment wins over its section for install, and that over global."""
    listed = subprocess.run([*PYTHON_M_PIP, "config", "list"], check=True, capture_output=True, text=True).stdout
    entries = [line.partition("=") for line in listed.splitlines() if "=" in line]
    found: dict[str, str] = {}
    for section in ("global.", "install.", ":env:."):
        for name, _, value in entries:
            if name.startswith(section):
                found[name.removeprefix(section)] = str(ast.literal_eval(value))
    return found


def uv_flags(names: Mapping[str, str] = FLAGS) -> list[str]:
    """What pip is set up with, as flags of uv.

    Args:
        names: setting → flag.

    Raises:
        RuntimeError: a setting of pip has no counterpart.
    """
    settings = pip_settings()
    unknown = settings.keys() - FLAGS.keys() - HARMLESS
    if unknown:
        raise RuntimeError(f"pip is set up with {', '.join(sorted(unknown))}, which uv would not follow")
    # pip takes the best version of all indexes, uv by default the best of the first.
    flags = ["--index-strategy", "unsafe-best-match"]
    for name, flag in names.items():
        for value in settings.get(name, "").split():
            flags += [flag, value]
    return flags


def uv_command() -> list[str]:
    """What pip would do, as a command line of uv, up to what is installed.

    Raises:
        RuntimeError: uv cannot be installed, or a setting of pip has no counterpart.
    """
    flags = uv_flags()
    if subprocess.run([*PYTHON_M_PIP, "install", "--quiet", "-c", "constraints.txt", "uv"], check=False).returncode:
        raise RuntimeError("uv cannot be installed")
    return [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, *flags]


def uv_environment() -> dict[str, str]:
    """Trust whom pip trusts: the system's certificates, such as a company proxy's, or the file that pip is given."""
    given = {"UV_SYSTEM_CERTS": "1"}
    if "cert" in (settings := pip_settings()):
        given["SSL_CERT_FILE"] = settings["cert"]
    return given | os.environ


def install_lowest() -> None:
    """Install by uv alone: pip knows no lowest versions."""
    try:
        command = uv_command()
    except RuntimeError as error:
        sys.exit(str(error))
    # What is installed and fits stays, so torch goes first.
    for what in (TORCH, LOWEST):
        if subprocess.run([*command, *what], check=False, env=uv_environment()).returncode:
            sys.exit("uv failed, see above")


def main() -> None:
    """Install by uv, otherwise by pip, and compile what is imported most."""
    if sys.argv[1:] == ["--lowest"]:
        install_lowest()
        return
    why_not = ""
    try:
        if subprocess.run([*uv_command(), *WHAT], check=False, env=uv_environment()).returncode:
            why_not = "uv failed, see above"
    except RuntimeError as error:
        why_not = str(error)
    if why_not:
        print(f"{why_not}: installing by pip, which takes some minutes", flush=True)
        subprocess.run([*PYTHON_M_PIP, "install", "--quiet", *WHAT], check=True)
        return
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", f"import {IMPORTED}"], check=True, env=environment)


if __name__ == "__main__":
    main()
