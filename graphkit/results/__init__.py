"""Runs and what they leave behind: run folders, result records, curves, leaderboard tables."""

from __future__ import annotations

from graphkit.results.leaderboard import collect, to_html, to_markdown
from graphkit.results.record import FORMAT, ResultRecord, SeedResult, read_record
from graphkit.results.runner import run
from graphkit.results.submission import export

__all__ = [
    "FORMAT", "ResultRecord", "SeedResult", "collect", "export", "read_record", "run", "to_html",
    "to_markdown",
]  # fmt: skip
