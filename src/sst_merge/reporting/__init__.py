"""Records in, pictures and pages out; nothing here computes a measure."""

from .heatmap import heatmap
from .model_card import model_card
from .pages import DemoPage, PageTable, demo_page, merge_page
from .plots import safety_utility_plot
from .tables import markdown_table, rate_with_interval, rich_table

__all__ = [
    "DemoPage",
    "PageTable",
    "demo_page",
    "heatmap",
    "markdown_table",
    "merge_page",
    "model_card",
    "rate_with_interval",
    "rich_table",
    "safety_utility_plot",
]
