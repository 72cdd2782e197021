"""Figures → tables, pictures, pages.

The contract of this room: it shows what was computed elsewhere, the same input as the same bytes. Nothing here computes
a measure or asks a model. A figure without a value is a dash, never 0. Pages load nothing from anywhere.
"""

from .answer_cards import AnswerCard, AnswerGroup, SaidBy
from .answer_page import answer_page
from .evaluation_page import evaluation_markdown, evaluation_page, write_evaluation_report
from .heat_map import HeatMap, heat_maps
from .merge_report_page import merge_page
from .model_card import model_card
from .pages import YOUR_OWN, DemoPage, PageTable, demo_page
from .rate_plot import rate_plot
from .retention_plot import retention_plot
from .safety_utility_plot import safety_utility_plot
from .search_page import MergePoint, search_page
from .table_formats import csv_table, json_table, latex_table
from .tables import figure_text, markdown_table, rate_with_interval, rich_table
from .tax_bars import tax_bars

__all__ = [
    "YOUR_OWN",
    "AnswerCard",
    "AnswerGroup",
    "DemoPage",
    "HeatMap",
    "MergePoint",
    "PageTable",
    "SaidBy",
    "answer_page",
    "csv_table",
    "demo_page",
    "evaluation_markdown",
    "evaluation_page",
    "figure_text",
    "heat_maps",
    "json_table",
    "latex_table",
    "markdown_table",
    "merge_page",
    "model_card",
    "rate_plot",
    "rate_with_interval",
    "retention_plot",
    "rich_table",
    "safety_utility_plot",
    "search_page",
    "tax_bars",
    "write_evaluation_report",
]
