"""Candles of one asset or many: files, their quality, and runs of them for the autoencoder that makes tokens."""
