"""Bars of one instrument within the day: files, contracts, causal features, windows with the returns that follow."""
