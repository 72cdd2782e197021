"""Refusal, harm and incoherence: three questions, each with its own judges."""

from .base import Column, Judge

__all__ = ["Column", "Judge"]
