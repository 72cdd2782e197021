"""Held-out text (WikiText-2, Merity et al. 2017): how well a model predicts it, in bits per byte."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import DataError
from ..asking import likelihood_scores, means
from ..contract import Document, Request, Suite, document
from ..sets import HubPart, Part, Row, SetSpec, field

__all__ = ["WIKITEXT", "perplexity", "score"]

# Length of the folder's piece; the hub's version is cut to it.
_ALL_PARAGRAPHS = 4_385
_HEADING = re.compile(r"=( =)* .* =( =)*")
# A document has so many paragraphs; the last fifth of them all is kept for testing.
_PARAGRAPHS = 20
_HELD_OUT = 5


def _read_lines(path: Path) -> list[Part]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text at byte {error.start}; convert the file") from error
    return [(path.stem, [{"text": line} for line in lines])]


def _rows(parts: Sequence[Part]) -> list[Row]:
    lines = (field(record, "text").strip() for _, records in parts for record in records)
    paragraphs = [line for line in lines if line and not _HEADING.fullmatch(line)][:_ALL_PARAGRAPHS]
    return [{"id": f"wikitext/{number}", "prompt": paragraph} for number, paragraph in enumerate(paragraphs)]


WIKITEXT = SetSpec(
    name="wikitext",
    summary="paragraphs of the beginning of WikiText-2's training split, headings left out",
    files=("corpora/wikitext2_train_5k.txt",),
    rows=_rows,
    read=_read_lines,
    hub="Salesforce/wikitext",
    parts=(HubPart("train", "wikitext-2-raw-v1", "train"),),
    licence="CC-BY-SA-3.0",
    get="https://huggingface.co/datasets/Salesforce/wikitext",
)


def score(doc: Mapping[str, str], results: Sequence[float]) -> dict[str, float]:
    """How well a model predicts a document.

    Args:
        doc: the document; words and bytes are counted in `page`, before its white space is mended.
        results: its log-likelihood.

    Returns:
        As :func:`~..asking.likelihood_scores`.
    """
    return likelihood_scores(doc["page"], results[0])


def _mended(doc: Mapping[str, str]) -> str:
    """The text with its white space mended as in the harness's own `wikitext`."""
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    return str(wikitext_detokenizer(doc))


@Suite(
    name="perplexity",
    measure="utility",
    summary="bits per byte of the last fifth of the WikiText piece",
    sets=(WIKITEXT,),
    asking={
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": _mended,
        "process_results": score,
        "metric_list": means(bits_per_byte=False, loglikelihood=True, words=True, bytes=True),
    },
    judged=False,
    score="bits_per_byte",
    rate=False,
    higher_is_better=False,
)
def perplexity(request: Request) -> list[Document]:
    """The last fifth of the WikiText piece, in documents of 20 paragraphs."""
    rows = request.read(WIKITEXT).rows
    held_out = rows[len(rows) - len(rows) // _HELD_OUT :]
    documents = []
    for i in range(0, len(held_out), _PARAGRAPHS):
        page = held_out[i : i + _PARAGRAPHS]
        text = " \n ".join(row["prompt"] for row in page)
        documents.append(document({"id": page[0]["id"], "prompt": text}, page=text))
    return documents
