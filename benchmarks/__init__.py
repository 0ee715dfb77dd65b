"""Benchmarks: a registry of cases, one runner, graphkit and its peers side by side in one run."""
