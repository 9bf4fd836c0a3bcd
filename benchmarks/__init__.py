"""Measurements: one command a figure, results as JSON in ``results/`` with machine, versions and date."""
