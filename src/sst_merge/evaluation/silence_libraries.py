"""Keep the libraries underneath from talking over the progress bars: their logs below errors, and their own bars."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

__all__ = ["quiet_libraries"]

_LOGGERS = ("lm_eval", "lm-eval", "transformers", "datasets", "accelerate", "peft", "httpx")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence lm-evaluation-harness, transformers, datasets and tqdm while the block runs; errors still show.

    Yields:
        Nothing.
    """
    import datasets
    import transformers
    from tqdm import std

    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    bar, datasets_bars = std.tqdm.__init__, datasets.are_progress_bars_disabled()
    verbosity, parallelism = transformers.logging.get_verbosity(), os.environ.get("TOKENIZERS_PARALLELISM")
    transformers_bars = transformers.logging.is_progress_bar_enabled()
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Not every bar of lm-evaluation-harness has a switch that can be reached, so bars are made switched off.
    std.tqdm.__init__ = _switched_off(bar)
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=FutureWarning)
            warnings.simplefilter("ignore", category=UserWarning)
            yield
    finally:
        std.tqdm.__init__ = bar
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        transformers.logging.set_verbosity(verbosity)
        if not datasets_bars:
            datasets.enable_progress_bars()
        if transformers_bars:
            transformers.logging.enable_progress_bar()
        if parallelism is None:
            os.environ.pop("TOKENIZERS_PARALLELISM", None)


def _switched_off(bar: Callable[..., None]) -> Callable[..., None]:
    @wraps(bar)
    def start(*arguments: Any, **options: Any) -> None:
        bar(*arguments, **{**options, "disable": True})

    return start
