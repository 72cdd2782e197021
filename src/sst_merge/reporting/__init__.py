"""Records in, pictures and pages out; nothing here computes a measure."""

from .evaluation_page import evaluation_markdown, evaluation_page, write_evaluation_report
from .heat_map_stack import HeatMap, heat_maps
from .heatmap import heatmap
from .model_card import model_card
from .pages import DemoPage, PageTable, demo_page, merge_page
from .rate_plot import rate_plot
from .retention_plot import retention_plot
from .safety_utility_plot import safety_utility_plot
from .sweep_tables import drift_table, sweep_table
from .table_formats import csv_table, json_table, latex_table
from .tables import markdown_table, rate_with_interval, rich_table
from .tax_bars import tax_bars

__all__ = [
    "DemoPage",
    "HeatMap",
    "PageTable",
    "csv_table",
    "demo_page",
    "drift_table",
    "evaluation_markdown",
    "evaluation_page",
    "heat_maps",
    "heatmap",
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
    "sweep_table",
    "tax_bars",
    "write_evaluation_report",
]
