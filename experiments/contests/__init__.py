"""Comparisons of methods: columns, tuning, cells that are kept, tables and figures."""
