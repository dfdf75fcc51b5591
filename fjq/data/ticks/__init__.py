"""Ticks of many tickers: daily files, frames, chunks kept in a bank, batches for the TCN."""
